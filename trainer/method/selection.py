"""Five selectors, which choose the variants of a problem to train on, and the random draws that they use.

A selector is a pure function of the live difficulties of a batch's problems, their accepted variants, and a `Draw` for
each problem. One call chooses for all problems of a batch; the choice for one problem does not depend on the others.
Every random number is a hash of (seed, step, problem, slot, purpose), so all processes and a resumed run choose the
same variants.

Axes: P problems of a batch, K places for the candidates of each problem. Slot 0 is the original of a problem, slots 1
to M are its variants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from scipy import special

from diva_grpo.pipeline.difficulty.scale import (
    MIDDLE,
    FloatArray,
    pass_rate_from_difficulty,
    variant_difficulty,
)
from diva_grpo.pipeline.difficulty.target import (
    MEAN_TARGET_DIFFICULTY,
    half_up,
    rounded_level,
    wanted_delta,
)
from diva_grpo.pipeline.difficulty.tiers import TIER_KINDS, tier_of
from diva_grpo.schemas.records import Kind
from diva_grpo.trainer.method.difficulty import posterior_parameters

IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

SECOND_HINT_DELTAS: Final = (0.0, 1.0, 2.0, 3.0)
"""With the selector `paper` and several variants: if a second slot of a problem asks for a hint, its delta is drawn
from this tuple instead."""

_TIE: Final = 1e-9
"""Distances that differ by less than this, in levels, count as equal, because deltas have rounding errors."""
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Candidates:
    """Prompts to choose from. Each problem has K places, and its candidates fill the first of them, ordered by id.

    Attributes:
        there_PK: (P, K) whether a place has a candidate. Where it has none, the values of the other arrays have no
            meaning.
        variant_id_PK: (P, K) ids, as objects.
        kind_PK: (P, K) kinds, as objects: `reword harder think_step image image_text composite` or `original`.
        delta_PK: (P, K) difficulty offsets from the original, in levels.
        pass_rate_PK: (P, K) pass rates of the labels, or those that `variant_prior` gives; NaN where there is none.
        right_PK: (P, K) counts of right rollouts, in which older rollouts have less weight
            (`trainer.method.difficulty.counts_after_visit`).
        wrong_PK: (P, K) counts of wrong rollouts, weighted in the same way.
        share_left_PK: (P, K) share of the worked solution that the hint does not give; 1 without a hint.
        prior_rollouts: with the selector `signal`, the number of rollouts that a prior pass rate counts as.
    """

    there_PK: BoolArray
    variant_id_PK: npt.NDArray[np.object_]
    kind_PK: npt.NDArray[np.object_]
    delta_PK: FloatArray
    pass_rate_PK: FloatArray
    right_PK: FloatArray
    wrong_PK: FloatArray
    share_left_PK: FloatArray
    prior_rollouts: float = 8.0  # about as many as one visit has


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to create
class Draw:
    """Random numbers for one problem at one step. Each is a hash of seed, step, problem, slot and purpose.

    They are the same on every process, machine and Python version.

    Attributes:
        seed: seed of the run.
        step: training step.
        problem_id: id of the problem, or another name that the numbers are to depend on.
    """

    seed: int
    step: int
    problem_id: str

    def hashes(self, slot: int, purposes: Sequence[str]) -> list[bytes]:
        """Return a hash of 8 bytes for a slot and each of some purposes."""
        # The length of the id prevents two different (problem_id, purpose) from giving the same key.
        key = f"{self.seed},{self.step},{slot},{len(self.problem_id)},{self.problem_id},"
        start = blake2b(key.encode(), digest_size=8)
        hashes = []
        for purpose in purposes:
            one = start.copy()
            one.update(purpose.encode())
            hashes.append(one.digest())
        return hashes

    def uniform(self, slot: int, purpose: str) -> float:
        """Return a uniform random number between 0 and 1, both excluded, for a slot and a purpose."""
        [digest] = self.hashes(slot, [purpose])
        return _to_unit_interval(int.from_bytes(digest, "little"))

    def index(self, count: int, slot: int, purpose: str) -> int:
        """Return a random integer from 0 to count - 1, all equally likely."""
        return int(self.uniform(slot, purpose) * count)

    def normal(self, mean: float, deviation: float, slot: int, purpose: str) -> float:
        """Return a draw from Normal(mean, deviation)."""
        return mean + deviation * _NORMAL.inv_cdf(self.uniform(slot, purpose))


def uniforms(draw_P: Sequence[Draw], slot: int, purposes_P: Sequence[Sequence[str]]) -> FloatArray:
    """Return what `Draw.uniform` gives for each purpose of each problem, in one array in their order."""
    hashes = [
        digest
        for draw, purposes in zip(draw_P, purposes_P, strict=True)
        for digest in draw.hashes(slot, purposes)
    ]
    return _to_unit_interval(np.frombuffer(b"".join(hashes), "<u8"))


@overload
def _to_unit_interval(number: int) -> float: ...
@overload
def _to_unit_interval(number: npt.NDArray[np.uint64]) -> FloatArray: ...
def _to_unit_interval(number: Any) -> Any:
    """Map an integer of 64 bits, or an array of them, to floats between 0 and 1, both excluded."""
    # (52-bit integer + 0.5) / 2**52 is never 0 or 1, and is exact as a float.
    return ((number >> 12) + 0.5) * 2.0**-52


class Selector(Protocol):
    """Chooses the variants of a batch's problems for one step."""

    def __call__(
        self, difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]
    ) -> IntArray:
        """Choose `count` candidates for each problem.

        A candidate is chosen a second time only after all candidates of its problem that may be chosen.

        Args:
            difficulty_P: (P,) live difficulties of the problems, 1 to 9.
            candidates: the candidates of the problems.
            count: how many to choose for each problem.
            draw_P: for each problem, the source of its random numbers.

        Returns:
            (P, `count`) places of the chosen candidates; -1 for a problem without candidates, whose slots get the
            original.
        """
        ...


def _nearest(
    distance_PK: FloatArray, pool_PK: BoolArray, slot: int, draw_P: Sequence[Draw]
) -> npt.NDArray[np.intp]:
    """Return (P,) a place with the smallest distance among those of `pool_PK`; ties are resolved at random."""
    distance_PK = np.where(pool_PK, distance_PK, np.inf)
    limit_P = distance_PK.min(axis=1, initial=np.inf) + _TIE
    return _any_of(pool_PK & (distance_PK <= limit_P[:, None]), slot, draw_P)


def _any_of(pool_PK: BoolArray, slot: int, draw_P: Sequence[Draw]) -> npt.NDArray[np.intp]:
    """Return (P,) a random place among those of `pool_PK` for each problem; 0 if it has none."""
    size_P = pool_PK.sum(axis=1)
    number_P = np.zeros(len(size_P), np.int64)
    tied = np.flatnonzero(size_P > 1)
    draws = [draw_P[problem] for problem in tied.tolist()]
    uniform_T = uniforms(draws, slot, [("variant",)] * len(draws))
    number_P[tied] = (uniform_T * size_P[tied]).astype(np.int64)
    place_P: npt.NDArray[np.intp] = (pool_PK.cumsum(axis=1) > number_P[:, None]).argmax(axis=1)
    return place_P


def _without_repeats(
    candidates: Candidates,
    count: int,
    pick: Callable[[BoolArray, int], npt.NDArray[np.intp]],
    *,
    once: str | None = None,
) -> IntArray:
    """Fill the slots 1 to `count`, each from the candidates that have not been picked yet.

    Candidates are reused once all have been picked. At most one of kind `once` is picked, unless a problem has no other
    kinds.

    Args:
        candidates: the candidates of the problems.
        count: number of slots.
        pick: called with (pool_PK, slot); returns (P,) a place in the pool of each problem.
        once: a kind of variant; None for no such limit.

    Returns:
        (P, `count`) places; -1 for a problem without candidates.
    """
    chosen_PM = np.full((len(candidates.there_PK), count), -1, np.int64)
    if not candidates.there_PK.any():
        return chosen_PM
    problem_P = np.arange(len(chosen_PM))
    there_P = candidates.there_PK.any(axis=1)
    once_PK = candidates.kind_PK == once
    usable_PK = candidates.there_PK
    left_PK = np.zeros_like(usable_PK)
    for slot in range(1, count + 1):
        left_PK = np.where(left_PK.any(axis=1, keepdims=True), left_PK, usable_PK)
        place_P = pick(left_PK, slot)
        chosen_PM[:, slot - 1] = np.where(there_P, place_P, -1)
        left_PK = left_PK.copy()
        left_PK[problem_P, place_P] = False
        used_up_P = once_PK[problem_P, place_P] & there_P & (usable_PK & ~once_PK).any(axis=1)
        usable_PK = usable_PK & ~(once_PK & used_up_P[:, None])
        left_PK &= usable_PK
    return chosen_PM


def _paper(difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]) -> IntArray:
    """Choose variants as in the paper (arXiv 2603.01106) and its released code: the delta nearest to the wanted one.

    For one variant, the wanted delta comes from a table of target difficulties. For several, the target of each slot is
    drawn from a normal distribution, rounded and clipped to 1 to 9. At most one think step is chosen per problem,
    unless it has no variants of other kinds.
    """
    if count == 1:
        delta_PM = wanted_delta(difficulty_P)[:, None]
    else:
        wanted = [
            _wanted_deltas(difficulty, count, draw)
            for difficulty, draw in zip(difficulty_P.tolist(), draw_P, strict=True)
        ]
        delta_PM = np.array(wanted).reshape(len(wanted), count)

    def pick(pool_PK: BoolArray, slot: int) -> npt.NDArray[np.intp]:
        distance_PK = np.abs(candidates.delta_PK - delta_PM[:, slot - 1, None])
        return _nearest(distance_PK, pool_PK, slot, draw_P)

    return _without_repeats(candidates, count, pick, once=Kind.THINK_STEP)


def _wanted_deltas(difficulty: float, count: int, draw: Draw) -> list[float]:
    """Return the wanted delta of each of `count` variants of one problem.

    A target below the problem's rounded difficulty asks for a hint. From the second such target on, the delta is drawn
    from `SECOND_HINT_DELTAS` instead.
    """
    level = rounded_level(difficulty)
    deltas: list[float] = []
    hint_wanted = False
    for slot in range(1, count + 1):
        target = min(max(half_up(draw.normal(MEAN_TARGET_DIFFICULTY[level - 1], 1.0, slot, "target")), 1), 9)
        asks_for_hint = target < level
        if asks_for_hint and hint_wanted:
            deltas.append(SECOND_HINT_DELTAS[draw.index(len(SECOND_HINT_DELTAS), slot, "second hint")])
        else:
            deltas.append(target - difficulty)
        hint_wanted |= asks_for_hint
    return deltas


def _tier(difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]) -> IntArray:
    """Choose by the paper's tiers: harder kinds below difficulty 4, `reword` from 4 to 6, think steps above 6.

    Among the variants of the tier's kinds, it takes the delta nearest to 5 - D, where D is the live difficulty. If none
    of them remains, it takes the delta nearest to the one that the selector `paper` wants for one variant.
    """
    tiers = [tier_of(difficulty) for difficulty in difficulty_P.tolist()]
    in_tier_PK = np.zeros_like(candidates.there_PK)
    for tier, kinds in TIER_KINDS.items():
        of_tier_P = np.array([mine == tier for mine in tiers], bool)
        for kind in kinds:
            in_tier_PK |= (candidates.kind_PK == kind) & of_tier_P[:, None]

    def pick(pool_PK: BoolArray, slot: int) -> npt.NDArray[np.intp]:
        of_tier_PK = pool_PK & in_tier_PK
        tier_P1 = of_tier_PK.any(axis=1, keepdims=True)
        wanted_P1 = np.where(tier_P1, MIDDLE - difficulty_P[:, None], wanted_delta(difficulty_P)[:, None])
        distance_PK = np.abs(candidates.delta_PK - wanted_P1)
        return _nearest(distance_PK, np.where(tier_P1, of_tier_PK, pool_PK), slot, draw_P)

    return _without_repeats(candidates, count, pick)


def _posterior(
    difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]
) -> IntArray:
    """Choose by Thompson sampling: draw a pass rate for each variant from its posterior, take those nearest to 1/2.

    The expected gradient grows with p(1 - p), so it is largest at the pass rate p = 1/2. There are no parameters to
    tune. A variant's prior pass rate is `pass_rate_PK`, or else follows from its difficulty (see `_prior`).
    """
    there_PK = candidates.there_PK
    alpha_PK, beta_PK = posterior_parameters(
        candidates.right_PK, candidates.wrong_PK, _prior(candidates, difficulty_P)
    )
    size_P = there_PK.sum(axis=1)
    ids = iter(candidates.variant_id_PK[there_PK].tolist())
    uniform_V = uniforms(draw_P, 1, [[*islice(ids, size)] for size in size_P.tolist()])
    distance_PK = np.full(there_PK.shape, np.inf)
    distance_PK[there_PK] = np.abs(special.betaincinv(alpha_PK[there_PK], beta_PK[there_PK], uniform_V) - 0.5)
    ranked_PK = distance_PK.argsort(axis=1, kind="stable")
    place_PM = np.arange(count) % np.maximum(size_P, 1)[:, None]
    if not there_PK.shape[1]:
        return np.full(place_PM.shape, -1, np.int64)
    return np.where(size_P[:, None] > 0, np.take_along_axis(ranked_PK, place_PM, axis=1), -1)


def _signal(difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]) -> IntArray:
    """Choose the prompts with the largest expected p(1 - p) times the share of the solution that the policy writes.

    E[p(1 - p)], the mean over the posterior of the pass rate p, measures the signal of a group's rewards. The share
    (`share_left_PK`) measures how much of the original task that signal is about. So a hint is chosen if the policy is
    expected to fail without it, a shorter hint is preferred, and the original is preferred if the policy can solve it.

    The selector `posterior` keeps choosing long hints after they are no longer needed: their pass rates may stay
    nearest to 1/2, although the step that remains is not what a test asks for.
    """
    # No uniform part, unlike `posterior_parameters`: a prompt that was never solved must not keep a pass rate of 1/6.
    # But an offset is a guess. If it says that a hint solves the problem for certain, half a rollout says otherwise:
    # else p(1 - p) is 0, and a shorter hint that never worked would be preferred until the difficulty has risen.
    strength = candidates.prior_rollouts
    guessed_PK = (strength * _prior(candidates, difficulty_P) + 0.5) / (strength + 1.0)
    prior_PK = np.where(np.isnan(candidates.pass_rate_PK), guessed_PK, candidates.pass_rate_PK)
    alpha_PK = strength * prior_PK + candidates.right_PK
    beta_PK = strength * (1.0 - prior_PK) + candidates.wrong_PK
    total_PK = alpha_PK + beta_PK
    expected_PK = candidates.share_left_PK * alpha_PK * beta_PK / (total_PK * (total_PK + 1.0))
    return _without_repeats(
        candidates, count, lambda pool_PK, slot: _nearest(-expected_PK, pool_PK, slot, draw_P)
    )


def _prior(candidates: Candidates, difficulty_P: FloatArray) -> FloatArray:
    """Return (P, K) `pass_rate_PK`, and where it is NaN the pass rate at the difficulty of the candidate."""
    by_delta_PK = pass_rate_from_difficulty(variant_difficulty(difficulty_P[:, None], candidates.delta_PK))
    return np.where(np.isnan(candidates.pass_rate_PK), by_delta_PK, candidates.pass_rate_PK)


def _uniform(
    difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]
) -> IntArray:
    """Choose variants at random: the control for experiments, with the same variants but without live difficulty."""
    return _without_repeats(candidates, count, lambda pool_PK, slot: _any_of(pool_PK, slot, draw_P))


SELECTORS: Final[Mapping[str, Selector]] = MappingProxyType(
    {"paper": _paper, "tier": _tier, "posterior": _posterior, "signal": _signal, "uniform": _uniform}
)
"""The selectors by name (`CurriculumSettings.selector`)."""
