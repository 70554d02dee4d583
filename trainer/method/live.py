"""Live difficulty of the problems of one training run, and what is remembered of their variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from diva_grpo.trainer.method.difficulty import (
    PRIOR_STRENGTH,
    BetaCounts,
    FloatArray,
    counts_after_visit,
    pass_rate_from_difficulty,
    posterior_difficulty,
    updated_difficulty,
)

LiveRule = Literal["paper", "bands", "posterior"]

START = 5.0
"""Difficulty of every problem before its first visit (paper, section 3.2)."""


@dataclass(slots=True)
class LiveDifficulty:
    """Arrays over the problems of a run, by their row number in the training data.

    The same on every process: each sees the rewards of all.

    Attributes:
        difficulty: (N,) levels.
        uncertainty: (N,) standard deviation in levels; NaN where the rule knows none.
        prior: (N,) pass rate expected before any rollout.
        counts: (N, 2) remembered right and wrong rollouts (rule `posterior`).
        variants: remembered right and wrong rollouts by variant_id, or problem_id for an original.
        pools: the same of all prompts of the run that help as much, by `pool_of`.
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
        cls, problem_ids: Sequence[str], labels: dict[str, float] | None, rule: LiveRule, eta: float
    ) -> LiveDifficulty:
        """Before the first step: 5 for all, or the labels where there are any (5 for a problem without)."""
        known = labels or {}
        start = np.array([known.get(problem_id, START) for problem_id in problem_ids], np.float64)
        return cls(np.clip(start, 1.0, 9.0), rule, eta)

    def visit(self, problem_P: np.ndarray[Any, Any], right_P: FloatArray, judged_P: FloatArray) -> None:
        """Move the difficulty of problems that were visited.

        Args:
            problem_P: row numbers, each at most once.
            right_P: rollouts called right.
            judged_P: rollouts judged at all; where 0, nothing changes.
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
        """Remember the rollouts of one prompt.

        Args:
            prompt_id: variant_id, or problem_id of an original.
            pool: what it counts for beside itself.
            right: rollouts that were right.
            wrong: rollouts that were wrong.
        """
        for counts, key in ((self.variants, prompt_id), (self.pools, pool)):
            counts[key] = counts_after_visit(counts.get(key, BetaCounts()), right, wrong)

    def pooled(self, pool: str, prior: float) -> float:
        """Pass rate of a pool in this run, as far as it is known: the prior counts as four rollouts."""
        right, wrong = self.pools.get(pool, BetaCounts())
        return (PRIOR_STRENGTH * prior + right) / (PRIOR_STRENGTH + right + wrong)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, of types that `torch.load(weights_only=True)` admits."""
        return {
            "difficulty": torch.from_numpy(self.difficulty.copy()),
            "uncertainty": torch.from_numpy(self.uncertainty.copy()),
            "prior": torch.from_numpy(self.prior.copy()),
            "counts": torch.from_numpy(self.counts.copy()),
            "variants": {name: tuple(counts) for name, counts in self.variants.items()},
            "pools": {name: tuple(counts) for name, counts in self.pools.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.difficulty = state["difficulty"].numpy()
        self.uncertainty = state["uncertainty"].numpy()
        self.prior = state["prior"].numpy()
        self.counts = state["counts"].numpy()
        self.variants = {name: BetaCounts(*counts) for name, counts in state["variants"].items()}
        self.pools = {name: BetaCounts(*counts) for name, counts in state.get("pools", {}).items()}
