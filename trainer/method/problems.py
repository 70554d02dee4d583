"""Samplers that draw the problems of a generation batch, based on earlier rollouts of the run.

The sampler `epoch` is the order of the trainer's own data loader. This module has two others:

- `difficulty`: draws the problems with the largest predicted signal p(1 - p), which is the variance of the accuracies
  in a group. The pass rate p is a Thompson draw from the Beta posterior of each problem, so problems with an uncertain
  pass rate are tried too (MoPPS, arXiv 2507.04632). Because the policy changes, the counts of a problem lose weight
  while it is not visited: half of it per epoch.
- `pool`: sets aside the problems whose last visit was silent (all right or all wrong); a small share of the draws
  revisits them (GRESO, arXiv 2506.02177; the pools of prime-rl). Of the other problems, the one whose last visit is
  the longest ago comes first.

A *visit* of a problem is one generation of rollouts for it. A draw depends only on the seed and on earlier draws and
visits, so it is the same on every process, and in a run that is resumed with `restore`.

Axes: N problems of the training data, C candidates of a draw, P drawn problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.trainer.method.difficulty import RETENTION, posterior_parameters
from diva_grpo.trainer.method.selection import BoolArray, Draw, IntArray

ProblemSampler = Literal["epoch", "difficulty", "pool"]

CANDIDATES: Final = 8
"""Number of random candidates that the sampler `difficulty` compares, per problem that it draws."""

MIXED, EASY, HARD = range(3)
"""Outcome of a problem's last visit: MIXED (or no visit yet), EASY (all right), HARD (all wrong)."""


class Drawn(NamedTuple):
    """The problems drawn for one generation batch.

    Attributes:
        problem_P: (P,) row numbers in the training data, all different.
        chosen_P: (P,) how each was chosen, as objects: `signal` (largest sampled p(1 - p)), `open` (not set aside),
            `revisit` (was set aside), or `filled` (drawn at random because the sampler found too few problems).
    """

    problem_P: IntArray
    chosen_P: npt.NDArray[np.object_]


@dataclass(slots=True)
class ProblemHistory:
    """The draws and visits of a run so far.

    Attributes:
        count_N2: (N, 2) counts of right and wrong rollouts of each problem, among those that count for its live
            difficulty. Older rollouts have less weight.
        visited_at_N: (N,) the value of `drawn` at the last visit of each problem; -1 before the first.
        outcome_N: (N,) outcome of the last visit: MIXED, EASY or HARD.
        drawn: number of problems drawn so far.
        step: training step of the last draw; -1 before the first.
        drawn_before_step: value of `drawn` when that step began.
    """

    count_N2: FloatArray
    visited_at_N: IntArray = field(init=False)
    outcome_N: npt.NDArray[np.int8] = field(init=False)
    drawn: int = 0
    step: int = -1
    drawn_before_step: int = 0

    def __post_init__(self) -> None:
        self.visited_at_N = np.full(len(self.count_N2), -1, np.int64)
        self.outcome_N = np.full(len(self.count_N2), MIXED, np.int8)

    def begin(self, count: int, step: int) -> None:
        """Record that `count` problems are drawn at a training step."""
        if step != self.step:
            self.step, self.drawn_before_step = step, self.drawn
        self.drawn += count

    def observe(self, problem_P: IntArray, right_P: FloatArray, judged_P: FloatArray) -> None:
        """Record a visit of P problems.

        Args:
            problem_P: (P,) row numbers, each at most once.
            right_P: (P,) number of right rollouts.
            judged_P: (P,) number of judged rollouts. A problem with 0 keeps its counts and its outcome.
        """
        self.visited_at_N[problem_P] = self.drawn
        seen_P = judged_P > 0
        problem_P, right_P, wrong_P = problem_P[seen_P], right_P[seen_P], (judged_P - right_P)[seen_P]
        # The same rule as in `counts_after_visit`, for many problems at once.
        new_P2 = np.stack([right_P, wrong_P], axis=1)
        self.count_N2[problem_P] = RETENTION * self.count_N2[problem_P] + new_P2
        self.outcome_N[problem_P] = np.select([wrong_P == 0, right_P == 0], [EASY, HARD], MIXED)

    def free_N(self) -> BoolArray:
        """Return (N,) whether a problem has not been visited at the step of the last draw.

        A problem is drawn at most once per step, because its records have the step in their key.
        """
        free: BoolArray = self.visited_at_N <= self.drawn_before_step
        return free

    def posterior(self, number_C: IntArray, prior_N: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (C,) alpha and (C,) beta, the parameters of the Beta posteriors of the problems' pass rates.

        Args:
            number_C: (C,) row numbers of problems.
            prior_N: (N,) pass rates that are expected before any rollout.
        """
        # Age of the last visit in epochs, where an epoch is N drawn problems.
        age_C = (self.drawn - self.visited_at_N[number_C]) / len(self.count_N2)
        right_C, wrong_C = 0.5**age_C * self.count_N2[number_C].T
        return posterior_parameters(right_C, wrong_C, prior_N[number_C])

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as copies."""
        return {
            "count": self.count_N2.copy(),
            "visited_at": self.visited_at_N.copy(),
            "outcome": self.outcome_N.copy(),
            "drawn": self.drawn,
            "step": self.step,
            "drawn_before_step": self.drawn_before_step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.count_N2 = np.asarray(state["count"]).copy()
        self.visited_at_N = np.asarray(state["visited_at"]).copy()
        self.outcome_N = np.asarray(state["outcome"]).copy()
        self.drawn, self.step = state["drawn"], state["step"]
        self.drawn_before_step = state["drawn_before_step"]


def draw_problems(
    sampler: str,
    history: ProblemHistory,
    prior_N: FloatArray,
    count: int,
    step: int,
    *,
    seed: int,
    revisit: float,
) -> Drawn:
    """Draw problems with a sampler, and record the draw in the history.

    Args:
        sampler: name in `SAMPLERS`.
        history: draws and visits of the run so far.
        prior_N: (N,) pass rates that are expected before any rollout.
        count: number of problems to draw, at most N.
        step: training step.
        seed: seed of all random choices.
        revisit: with the sampler `pool`, the share of the draws that goes to problems that are set aside.
    """
    generator = np.random.default_rng(Draw(seed, history.drawn, "problems").index(2**52, 0, sampler))
    history.begin(count, step)
    numbers, chosen = SAMPLERS[sampler](history, prior_N, count, revisit, generator)
    if len(numbers) < count:
        others = np.setdiff1d(np.arange(len(prior_N)), numbers)
        numbers = np.concatenate([numbers, generator.permutation(others)[: count - len(numbers)]])
        chosen = np.concatenate([chosen, np.full(count - len(chosen), "filled", object)])
    # Texts are kept for the first problems of a generation only, and these must be a random sample.
    order = generator.permutation(count)
    return Drawn(numbers[order], chosen[order])


def _by_signal(
    history: ProblemHistory, prior_N: FloatArray, count: int, revisit: float, generator: np.random.Generator
) -> tuple[IntArray, npt.NDArray[np.object_]]:
    """Draw the problems with the largest p(1 - p) among random candidates; p is a draw from the posterior."""
    number_C = generator.permutation(np.flatnonzero(history.free_N()))[: CANDIDATES * count]
    alpha_C, beta_C = history.posterior(number_C, prior_N)
    rate_C = special.betaincinv(alpha_C, beta_C, generator.random(len(number_C)))
    best = np.argsort(-rate_C * (1 - rate_C), kind="stable")[:count]
    return number_C[best], np.full(len(best), "signal", object)


def _by_pool(
    history: ProblemHistory, prior_N: FloatArray, count: int, revisit: float, generator: np.random.Generator
) -> tuple[IntArray, npt.NDArray[np.object_]]:
    """Draw problems that are not set aside, longest unvisited first, and a share of those that are set aside."""
    number_C = generator.permutation(np.flatnonzero(history.free_N()))
    number_C = number_C[np.argsort(history.visited_at_N[number_C], kind="stable")]
    aside_C = history.outcome_N[number_C] != MIXED
    back = min(int((generator.random(count) < revisit).sum()), int(aside_C.sum()))
    # If there are too few problems that are not set aside, more of the others are revisited.
    fresh = number_C[~aside_C][: count - back]
    again = number_C[aside_C][: count - len(fresh)]
    chosen = np.array(["open"] * len(fresh) + ["revisit"] * len(again), object)
    return np.concatenate([fresh, again]), chosen


_Sampler = Callable[
    [ProblemHistory, FloatArray, int, float, np.random.Generator], tuple[IntArray, npt.NDArray[np.object_]]
]

SAMPLERS: Final[Mapping[str, _Sampler]] = MappingProxyType({"difficulty": _by_signal, "pool": _by_pool})
"""The samplers by name (`CurriculumSettings.problem_sampler`), except `epoch`, the order of the data loader."""
