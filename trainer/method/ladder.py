"""Pass rates along the ladders of hints of a run: an item-response curve over the number of steps left to the policy.

The curve is logistic: a prompt with m steps left is solved with probability 1 / (1 + exp(-b (t - m))), where t is the
number of steps that the policy solves half of the time and b says how sharply the rate falls. So every rollout, with a
hint of any length or without one, says something about all hints, also about those that the run has not tried, or not
lately. SEELE (arXiv 2509.06923) fits such a curve to each problem; this one is fitted to a run, which visits a problem
a few times only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.special import expit, log_expit

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.trainer.method.difficulty import BetaCounts, counts_after_visit

_SLOPES: Final = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
"""Values of b that are considered, in logits per step. If each step is right with probability 1/4, b is about 1.4."""
_THRESHOLDS: Final = np.linspace(0.0, 1.5, 151)
"""Values of t that are considered, as shares of the longest solution."""


@dataclass(slots=True)
class LadderCurve:
    """What the latest rollouts of a run say about the pass rate by the number of steps left.

    Attributes:
        counts: counts of right and wrong rollouts by the number of steps that were left to the policy. Each visit of
            any prompt fades all of them, since they are about one policy, which changes.
    """

    counts: dict[float, BetaCounts] = field(default_factory=dict)

    def visit(self, steps: float, right: float, wrong: float) -> None:
        """Add the rollouts of one prompt.

        Args:
            steps: number of steps that its hint leaves, or that the solution has if there is no hint.
            right: number of right rollouts.
            wrong: number of wrong rollouts.
        """
        for known, counts in self.counts.items():
            self.counts[known] = counts_after_visit(counts, 0.0, 0.0)
        old = self.counts.get(steps, BetaCounts())
        self.counts[steps] = BetaCounts(old.right + right, old.wrong + wrong)

    def pass_rates(self, steps_V: FloatArray) -> FloatArray:
        """Return (V,) expected pass rates of prompts, given the number of steps that each leaves.

        They are means over the posterior of t and b. Before the first rollout all pairs of values are equally likely.
        """
        if not len(steps_V):
            return np.zeros(0)
        slope_G, threshold_G, weight_G = self._posterior(float(steps_V.max()))
        # The prompts of a batch have few different numbers of steps.
        steps_S, place_V = np.unique(steps_V, return_inverse=True)
        rate_S: FloatArray = expit(slope_G * (threshold_G - steps_S[:, None])) @ weight_G
        return rate_S[place_V]

    def threshold(self, longest: float) -> tuple[float, float]:
        """Return mean and standard deviation of t, in steps, over its posterior.

        Args:
            longest: number of steps of the longest solution that is asked about.
        """
        _, threshold_G, weight_G = self._posterior(longest)
        mean = float(threshold_G @ weight_G)
        return mean, float(np.sqrt((threshold_G - mean) ** 2 @ weight_G))

    def _posterior(self, longest: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return (G,) values of b and of t, and how likely each pair is."""
        longest = max(longest, *self.counts, 1)
        slope_G, threshold_G = (
            values.ravel() for values in np.meshgrid(_SLOPES, _THRESHOLDS * longest, indexing="ij")
        )
        log_weight_G = np.zeros(len(slope_G))
        for steps, (right, wrong) in sorted(self.counts.items()):
            logit_G = slope_G * (threshold_G - steps)
            log_weight_G += right * log_expit(logit_G) + wrong * log_expit(-logit_G)
        weight_G = np.exp(log_weight_G - log_weight_G.max())
        return slope_G, threshold_G, weight_G / weight_G.sum()

    def state(self) -> dict[float, tuple[float, float]]:
        """Return the state for a checkpoint."""
        return {steps: (counts.right, counts.wrong) for steps, counts in self.counts.items()}

    @classmethod
    def restored(cls, state: Mapping[float, tuple[float, float]]) -> LadderCurve:
        """Return the curve whose `state` this is."""
        return cls({steps: BetaCounts(*counts) for steps, counts in state.items()})
