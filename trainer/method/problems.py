"""Which problems a training run takes next, by what their rollouts have shown.

Two samplers beside the order of the epoch, which is the trainer's own:

- `difficulty`: the problems with the largest predicted signal p(1 - p), which is what a group's rewards can tell. The
  pass rate p is a Thompson draw from the Beta posterior of each problem, so what is not known well is tried (MoPPS,
  arXiv 2507.04632). Evidence fades while a problem is not visited, since the policy moves: to a half in one epoch.
- `pool`: problems whose last visit was silent, all right or all wrong, are set aside, and a small share of the draws
  goes back to them (GRESO, arXiv 2506.02177; the pools of prime-rl). The others come in turn, longest unvisited first.

Every draw is a function of the seed and of what was drawn and seen before: the same on every process, and after a
resume from `state`.

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
"""The sampler `difficulty` compares this many random candidates for each problem that it takes."""

MIXED, EASY, HARD = range(3)
"""How the last visit of a problem was: mixed (or unknown), all right, all wrong."""


class Drawn(NamedTuple):
    """Problems for one generation.

    Attributes:
        problem_P: (P,) row numbers in the training data, all different.
        chosen_P: (P,) how each was chosen, as objects: `signal` (largest sampled p(1 - p)), `open` (not set aside),
            `revisit` (set aside), or `filled` (too few others).
    """

    problem_P: IntArray
    chosen_P: npt.NDArray[np.object_]


@dataclass(slots=True)
class ProblemHistory:
    """What a run has drawn, and what the visits of its problems showed.

    Attributes:
        count_N2: (N, 2) faded right and wrong rollouts of each problem, of those that count for its difficulty.
        visited_at_N: (N,) the value of `drawn` at the last visit; -1 before the first.
        outcome_N: (N,) MIXED, EASY or HARD.
        drawn: problems drawn so far.
        step: training step of the last draw.
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
        """Note a draw of `count` problems at a training step."""
        if step != self.step:
            self.step, self.drawn_before_step = step, self.drawn
        self.drawn += count

    def observe(self, problem_P: IntArray, right_P: FloatArray, judged_P: FloatArray) -> None:
        """Note a visit of problems.

        Args:
            problem_P: row numbers, each at most once.
            right_P: rollouts that were judged right.
            judged_P: rollouts that were judged at all; where 0, nothing is known that was not.
        """
        self.visited_at_N[problem_P] = self.drawn
        seen_P = judged_P > 0
        problem_P, right_P, wrong_P = problem_P[seen_P], right_P[seen_P], (judged_P - right_P)[seen_P]
        # As `counts_after_visit`, for many problems at once.
        new_P2 = np.stack([right_P, wrong_P], axis=1)
        self.count_N2[problem_P] = RETENTION * self.count_N2[problem_P] + new_P2
        self.outcome_N[problem_P] = np.select([wrong_P == 0, right_P == 0], [EASY, HARD], MIXED)

    def free_N(self) -> BoolArray:
        """(N,) whether a problem was not visited at the step of the last draw: its records have a key for each step."""
        free: BoolArray = self.visited_at_N <= self.drawn_before_step
        return free

    def posterior(self, number_C: IntArray, prior_N: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (C,) parameters alpha and beta of the posteriors of pass rates.

        Args:
            number_C: row numbers of problems.
            prior_N: (N,) pass rates expected before any rollout.
        """
        # In epochs: how often each problem could have been drawn since.
        age_C = (self.drawn - self.visited_at_N[number_C]) / len(self.count_N2)
        right_C, wrong_C = 0.5**age_C * self.count_N2[number_C].T
        return posterior_parameters(right_C, wrong_C, prior_N[number_C])

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as copies."""
        return {
            "count": self.count_N2.copy(),
            "visited_at": self.visited_at_N.copy(),
            "outcome": self.outcome_N.copy(),
            "drawn": self.drawn,
            "step": self.step,
            "drawn_before_step": self.drawn_before_step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
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
    """Draw problems, and note in the history that they were.

    Args:
        sampler: one of `SAMPLERS`.
        history: of the run.
        prior_N: (N,) pass rates expected before any rollout.
        count: problems wanted, at most N.
        step: training step.
        seed: of all random choices.
        revisit: of the sampler `pool`, the share of the draws that goes to problems that are set aside.
    """
    generator = np.random.default_rng(Draw(seed, history.drawn, "problems").index(2**52, 0, sampler))
    history.begin(count, step)
    numbers, chosen = SAMPLERS[sampler](history, prior_N, count, revisit, generator)
    if len(numbers) < count:
        others = np.setdiff1d(np.arange(len(prior_N)), numbers)
        numbers = np.concatenate([numbers, generator.permutation(others)[: count - len(numbers)]])
        chosen = np.concatenate([chosen, np.full(count - len(chosen), "filled", object)])
    # The first problems of a generation are those whose texts are kept: they must be random ones.
    order = generator.permutation(count)
    return Drawn(numbers[order], chosen[order])


def _by_signal(
    history: ProblemHistory, prior_N: FloatArray, count: int, revisit: float, generator: np.random.Generator
) -> tuple[IntArray, npt.NDArray[np.object_]]:
    """The largest p(1 - p), p a draw from the posterior, among random candidates."""
    number_C = generator.permutation(np.flatnonzero(history.free_N()))[: CANDIDATES * count]
    alpha_C, beta_C = history.posterior(number_C, prior_N)
    rate_C = special.betaincinv(alpha_C, beta_C, generator.random(len(number_C)))
    best = np.argsort(-rate_C * (1 - rate_C), kind="stable")[:count]
    return number_C[best], np.full(len(best), "signal", object)


def _by_pool(
    history: ProblemHistory, prior_N: FloatArray, count: int, revisit: float, generator: np.random.Generator
) -> tuple[IntArray, npt.NDArray[np.object_]]:
    """The open problems in turn, and a share of those that are set aside."""
    number_C = generator.permutation(np.flatnonzero(history.free_N()))
    number_C = number_C[np.argsort(history.visited_at_N[number_C], kind="stable")]
    aside_C = history.outcome_N[number_C] != MIXED
    back = min(int((generator.random(count) < revisit).sum()), int(aside_C.sum()))
    # Where too few are open, more of the others come back.
    fresh = number_C[~aside_C][: count - back]
    again = number_C[aside_C][: count - len(fresh)]
    chosen = np.array(["open"] * len(fresh) + ["revisit"] * len(again), object)
    return np.concatenate([fresh, again]), chosen


_Sampler = Callable[
    [ProblemHistory, FloatArray, int, float, np.random.Generator], tuple[IntArray, npt.NDArray[np.object_]]
]

SAMPLERS: Final[Mapping[str, _Sampler]] = MappingProxyType({"difficulty": _by_signal, "pool": _by_pool})
"""The samplers by the name that the trainer's configuration uses; `epoch` is the order of the data loader."""
