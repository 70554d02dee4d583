"""Live difficulty of the problems of one training run, and what is remembered of their variants."""

from __future__ import annotations

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

LiveRule = Literal["paper", "bands", "posterior"]


@dataclass(slots=True)
class LiveDifficulty:
    """Arrays over the problems of a run, by their row number in the training data.

    They are the same on every process, because each process sees the rewards of all.

    Attributes:
        difficulty: (N,) levels.
        uncertainty: (N,) standard deviation in levels; NaN where the rule gives none.
        prior: (N,) pass rate expected before any rollout.
        counts: (N, 2) remembered right and wrong rollouts (rule `posterior`).
        variants: remembered right and wrong rollouts by variant_id, or problem_id for an original.
        pools: right and wrong counts over all prompts of the same pool (see `trainer.method.curriculum.pool_of`).
        rule: paper, bands or posterior.
        eta: step of the rule `paper`.
    """

    difficulty: FloatArray
    rule: LiveRule = "paper"
    eta: float = 4.0
    uncertainty: FloatArray = field(init=False)
    prior: FloatArray = field(init=False)
    counts: FloatArray = field(init=False)
    variants: dict[str, BetaCounts] = field(default_factory=dict)
    pools: dict[str, BetaCounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uncertainty = np.full(len(self.difficulty), np.nan)
        self.prior = pass_rate_from_difficulty(self.difficulty.copy())
        self.counts = np.zeros((len(self.difficulty), 2))

    @classmethod
    def starting(
        cls, problem_ids: Sequence[str], labels: Mapping[str, float] | None, rule: LiveRule, eta: float
    ) -> LiveDifficulty:
        """Return the difficulties before the first step: the label of each problem, or 5 where it has none."""
        known = labels or {}
        start = np.array([known.get(problem_id, MIDDLE) for problem_id in problem_ids], np.float64)
        return cls(np.clip(start, EASIEST, HARDEST), rule, eta)

    def visit(self, problem_P: np.ndarray[Any, Any], right_P: FloatArray, judged_P: FloatArray) -> None:
        """Change the difficulty of problems after a visit.

        Args:
            problem_P: row numbers, each at most once.
            right_P: rollouts that were judged right.
            judged_P: rollouts that were judged at all; where 0, nothing changes.
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

    def visit_prompt(self, prompt_id: str, pool: str, right: float, wrong: float) -> None:
        """Add the rollouts of one prompt to the counts of its variant and of its pool.

        Args:
            prompt_id: variant_id, or problem_id of an original.
            pool: its pool.
            right: rollouts that were right.
            wrong: rollouts that were wrong.
        """
        for counts, key in ((self.variants, prompt_id), (self.pools, pool)):
            counts[key] = counts_after_visit(counts.get(key, BetaCounts()), right, wrong)

    def counts_of(self, prompt_ids: Sequence[str]) -> FloatArray:
        """Return (V, 2) remembered right and wrong rollouts of prompts."""
        return _counts(self.variants, prompt_ids)

    def pooled(self, pools: Sequence[str], prior_V: FloatArray) -> FloatArray:
        """Return (V,) pass rates of pools in this run; each prior pass rate counts as four rollouts."""
        right_V, wrong_V = _counts(self.pools, pools).T
        rate_V: FloatArray = (PRIOR_STRENGTH * prior_V + right_V) / (PRIOR_STRENGTH + right_V + wrong_V)
        return rate_V

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as copies."""
        return {
            "difficulty": self.difficulty.copy(),
            "uncertainty": self.uncertainty.copy(),
            "prior": self.prior.copy(),
            "counts": self.counts.copy(),
            "variants": {name: tuple(counts) for name, counts in self.variants.items()},
            "pools": {name: tuple(counts) for name, counts in self.pools.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.difficulty = np.asarray(state["difficulty"]).copy()
        self.uncertainty = np.asarray(state["uncertainty"]).copy()
        self.prior = np.asarray(state["prior"]).copy()
        self.counts = np.asarray(state["counts"]).copy()
        self.variants = {name: BetaCounts(*counts) for name, counts in state["variants"].items()}
        self.pools = {name: BetaCounts(*counts) for name, counts in state.get("pools", {}).items()}


def _counts(known: Mapping[str, BetaCounts], keys: Sequence[str]) -> FloatArray:
    none = BetaCounts()
    counts = chain.from_iterable([known.get(key, none) for key in keys])
    return np.fromiter(counts, np.float64, 2 * len(keys)).reshape(-1, 2)
