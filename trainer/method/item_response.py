"""Pass rates along the ladder of one problem, from its own rollouts and from those of the run.

`trainer.method.ladder` gives one curve for all problems: the pass rate by the number m of steps left. Problems with as
many steps left differ, though: with five left of 15 all rollouts may be wrong, and with five left of 17 most may be
right. So each problem q has a curve of its own: it is solved with probability 1 / (1 + exp(-b (t + d - m))), where t is
the run's threshold, which moves as the policy learns, d says how many steps more q allows, and b how sharply the rate
falls. Every visit of q, with a hint of any length or without one, says something about b and d, and does so also later,
when t has moved.

SEELE (arXiv 2509.06923) fits a curve to each problem, and AdaBack (arXiv 2506.18110) bisects its ladder. Both visit a
problem often enough for that; here a problem that was seldom visited goes by what the others show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from scipy.special import expit, log_expit

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.trainer.method.difficulty import RETENTION
from diva_grpo.trainer.method.ladder import LadderCurve

_SLOPE_G, _OFFSET_G = (
    values.ravel() for values in np.meshgrid([0.5, 1.0, 2.0, 4.0], np.arange(-6.0, 6.5, 0.5), indexing="ij")
)
"""(G,) pairs of b, in logits per step, and d, in steps, that are considered."""
_SPREAD: Final = 1.5
"""Standard deviation of d over problems, in steps."""


@dataclass(slots=True)
class ProblemCurves:
    """What the rollouts of each problem say about its own curve.

    Attributes:
        log_likelihood: by row number of a visited problem, (G,) log-likelihoods of its pairs of b and d. Older visits
            have less weight, as in `counts_after_visit`.
        run: the run's curve, of which t is the threshold. What it counts as steps left is m - d, with the d that was
            expected of the problem, to half a step: else it would be as flat as the problems are different.
    """

    log_likelihood: dict[int, FloatArray] = field(default_factory=dict)
    run: LadderCurve = field(default_factory=LadderCurve)

    def visit(
        self,
        problem_V: np.ndarray[Any, Any],
        steps_V: FloatArray,
        right_V: FloatArray,
        wrong_V: FloatArray,
    ) -> None:
        """Add the rollouts of V prompts.

        What all of them have in common moves the run's threshold, and only the rest is a problem's own.

        Args:
            problem_V: (V,) row numbers of the problems.
            steps_V: (V,) number of steps that each prompt leaves; a prompt with NaN or 0 is passed over.
            right_V: (V,) number of right rollouts.
            wrong_V: (V,) number of wrong rollouts.
        """
        known_V = (steps_V > 0) & (right_V + wrong_V > 0)
        if not known_V.any():
            return
        problem_V, steps_V, right_V, wrong_V = (x[known_V] for x in (problem_V, steps_V, right_V, wrong_V))
        _, deviation = self.run.threshold(float(steps_V.max()))
        expected_V = self._weights(problem_V, deviation) @ _OFFSET_G
        for steps, right, wrong in zip(
            np.round(2 * (steps_V - expected_V)) / 2, right_V, wrong_V, strict=True
        ):
            self.run.visit(float(steps), float(right), float(wrong))
        threshold, _ = self.run.threshold(float(steps_V.max()))
        logit_VG = _SLOPE_G * (threshold + _OFFSET_G - steps_V[:, None])
        new_VG = right_V[:, None] * log_expit(logit_VG) + wrong_V[:, None] * log_expit(-logit_VG)
        for problem, new_G in zip(problem_V.tolist(), new_VG, strict=True):
            old_G = self.log_likelihood.get(problem)
            self.log_likelihood[problem] = new_G if old_G is None else RETENTION * old_G + new_G

    def pass_rates(self, problem_V: np.ndarray[Any, Any], steps_V: FloatArray) -> FloatArray:
        """Return (V,) expected pass rates of V prompts, means over the posterior of their problems' b and d.

        Args:
            problem_V: (V,) row numbers of the problems.
            steps_V: (V,) number of steps that each prompt leaves; none is NaN.
        """
        if not len(steps_V):
            return np.zeros(0)
        threshold, deviation = self.run.threshold(float(steps_V.max()))
        distinct_P, place_V = np.unique(problem_V, return_inverse=True)
        rate_VG = expit(_SLOPE_G * (threshold + _OFFSET_G - steps_V[:, None]))
        rate_V: FloatArray = (self._weights(distinct_P, deviation)[place_V] * rate_VG).sum(axis=1)
        return rate_V

    def _weights(self, problem_P: np.ndarray[Any, Any], deviation: float) -> FloatArray:
        """Return (P, G) how likely each pair of b and d is, where t has this standard deviation, in steps."""
        log_weight_PG = np.tile(-0.5 * _OFFSET_G**2 / (_SPREAD**2 + deviation**2), (len(problem_P), 1))
        for place, problem in enumerate(problem_P.tolist()):
            if problem in self.log_likelihood:
                log_weight_PG[place] += self.log_likelihood[problem]
        weight_PG: FloatArray = np.exp(log_weight_PG - log_weight_PG.max(axis=1, keepdims=True))
        weight_PG /= weight_PG.sum(axis=1, keepdims=True)
        return weight_PG

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as copies."""
        problems = {problem: values_G.copy() for problem, values_G in self.log_likelihood.items()}
        return {"problems": problems, "run": self.run.state()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> ProblemCurves:
        """Return the curves whose `state` this is; of an empty one, those of no rollouts."""
        problems = {problem: np.asarray(x_G).copy() for problem, x_G in state.get("problems", {}).items()}
        return cls(problems, LadderCurve.restored(state.get("run", {})))
