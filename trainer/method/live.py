"""Live difficulty of the problems of one training run, and counts of right and wrong rollouts of their prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np

from diva_grpo.pipeline.difficulty.scale import (
    EASIEST,
    HARDEST,
    MIDDLE,
    FloatArray,
    pass_rate_from_difficulty,
)
from diva_grpo.trainer.method.difficulty import (
    PRIOR_STRENGTH,
    BetaCounts,
    counts_after_visit,
    posterior_difficulty,
    updated_difficulty,
)
from diva_grpo.trainer.method.item_response import ProblemCurves
from diva_grpo.trainer.method.ladder import LadderCurve

LiveRule = Literal["paper", "bands", "posterior"]


@dataclass(slots=True)
class LiveDifficulty:
    """Live difficulty of the N problems of a run, as arrays by row number in the training data.

    The values are the same on every process, because each process gets the rewards of all processes. In all counts,
    older rollouts have less weight (see `counts_after_visit`).

    Attributes:
        difficulty: (N,) live difficulty, in levels.
        uncertainty: (N,) standard deviation of the difficulty, in levels; NaN if the rule gives none.
        prior: (N,) pass rate that is expected before any rollout.
        counts: (N, 2) counts of right and wrong rollouts of each problem; used by the rule `posterior` only.
        variants: counts of right and wrong rollouts by variant_id, or by problem_id for an original.
        pools: counts of right and wrong rollouts by pool (see `trainer.method.curriculum.pool_of`).
        ladder: what all rollouts of prompts with a known number of remaining steps say about them.
        curves: what the rollouts of each problem say about it; used with `variant_prior: item_response` only.
        rule: `paper`, `bands` or `posterior`.
        eta: step of the rule `paper`, in levels per unit of accuracy.
    """

    difficulty: FloatArray
    rule: LiveRule = "paper"
    eta: float = 4.0
    uncertainty: FloatArray = field(init=False)
    prior: FloatArray = field(init=False)
    counts: FloatArray = field(init=False)
    variants: dict[str, BetaCounts] = field(default_factory=dict)
    pools: dict[str, BetaCounts] = field(default_factory=dict)
    ladder: LadderCurve = field(default_factory=LadderCurve)
    curves: ProblemCurves = field(default_factory=ProblemCurves)

    def __post_init__(self) -> None:
        self.uncertainty = np.full(len(self.difficulty), np.nan)
        self.prior = pass_rate_from_difficulty(self.difficulty.copy())
        self.counts = np.zeros((len(self.difficulty), 2))

    @classmethod
    def starting(
        cls, problem_ids: Sequence[str], labels: Mapping[str, float] | None, rule: LiveRule, eta: float
    ) -> LiveDifficulty:
        """Return the difficulties before the first step.

        Args:
            problem_ids: ids of the problems, by row number.
            labels: measured difficulty by problem id; a problem without one starts at 5.
            rule: rule that updates the difficulty.
            eta: step of the rule `paper`.
        """
        known = labels or {}
        start = np.array([known.get(problem_id, MIDDLE) for problem_id in problem_ids], np.float64)
        return cls(np.clip(start, EASIEST, HARDEST), rule, eta)

    def visit(self, problem_P: np.ndarray[Any, Any], right_P: FloatArray, judged_P: FloatArray) -> None:
        """Update the difficulty of P problems after their rollouts.

        Args:
            problem_P: (P,) row numbers of the problems, each at most once.
            right_P: (P,) number of right rollouts.
            judged_P: (P,) number of judged rollouts. A problem with 0 keeps its difficulty.
        """
        if self.rule == "posterior":
            for number, right, judged in zip(problem_P, right_P, judged_P, strict=True):
                if judged:
                    counts = counts_after_visit(BetaCounts(*self.counts[number]), right, judged - right)
                    self.counts[number] = counts
                    read_off = posterior_difficulty(counts, self.prior[number])
                    self.difficulty[number], self.uncertainty[number] = read_off
        else:
            accuracy_P = np.divide(right_P, judged_P, out=np.full(len(right_P), np.nan), where=judged_P > 0)
            self.difficulty[problem_P] = updated_difficulty(
                self.difficulty[problem_P], accuracy_P, rule=self.rule, eta=self.eta
            )

    def visit_prompt(
        self, prompt_id: str, pool: str, right: float, wrong: float, steps: float = math.nan
    ) -> None:
        """Add the rollouts of one prompt to the counts of its variant, of its pool and of the ladder.

        Args:
            prompt_id: variant_id, or problem_id of an original.
            pool: pool of the prompt.
            right: number of right rollouts.
            wrong: number of wrong rollouts.
            steps: number of steps that are left to the policy; NaN if it is not known.
        """
        if steps > 0 and right + wrong:  # not for NaN; and a full solution leaves nothing to get right
            self.ladder.visit(int(steps), right, wrong)
        for counts, key in ((self.variants, prompt_id), (self.pools, pool)):
            counts[key] = counts_after_visit(counts.get(key, BetaCounts()), right, wrong)

    def counts_of(self, prompt_ids: Sequence[str]) -> FloatArray:
        """Return (V, 2) counts of right and wrong rollouts of V prompts, given by variant_id or problem_id."""
        return _counts(self.variants, prompt_ids)

    def pooled(self, pools: Sequence[str], prior_V: FloatArray) -> FloatArray:
        """Return (V,) estimated pass rates of V prompts from the rollouts of their pools in this run.

        Args:
            pools: pool of each prompt.
            prior_V: (V,) pass rates that are expected without these rollouts; each counts as four rollouts. One more
                rollout, half right, keeps an expectation of 0 or 1 from being certain.
        """
        right_V, wrong_V = _counts(self.pools, pools).T
        right_V = right_V + PRIOR_STRENGTH * prior_V + 0.5
        rate_V: FloatArray = right_V / (right_V + wrong_V + PRIOR_STRENGTH * (1.0 - prior_V) + 0.5)
        return rate_V

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as copies."""
        return {
            "difficulty": self.difficulty.copy(),
            "uncertainty": self.uncertainty.copy(),
            "prior": self.prior.copy(),
            "counts": self.counts.copy(),
            "variants": {name: tuple(counts) for name, counts in self.variants.items()},
            "pools": {name: tuple(counts) for name, counts in self.pools.items()},
            "ladder": self.ladder.state(),
            "curves": self.curves.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.difficulty = np.asarray(state["difficulty"]).copy()
        self.uncertainty = np.asarray(state["uncertainty"]).copy()
        self.prior = np.asarray(state["prior"]).copy()
        self.counts = np.asarray(state["counts"]).copy()
        self.variants = {name: BetaCounts(*counts) for name, counts in state["variants"].items()}
        self.pools = {name: BetaCounts(*counts) for name, counts in state.get("pools", {}).items()}
        # Checkpoints of earlier versions have neither.
        self.ladder = LadderCurve.restored(state.get("ladder", {}))
        self.curves = ProblemCurves.restored(state.get("curves", {}))


def _counts(known: Mapping[str, BetaCounts], keys: Sequence[str]) -> FloatArray:
    none = BetaCounts()
    counts = chain.from_iterable([known.get(key, none) for key in keys])
    return np.fromiter(counts, np.float64, 2 * len(keys)).reshape(-1, 2)
