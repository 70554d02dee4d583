"""Which variants of a problem to train on: five selectors with one signature, and the random draws that they share.

A selector is a pure function of the live difficulties of a batch's problems, their accepted variants and a `Draw` for
each problem; it chooses for all problems at once, and for each as if it were alone. Every random number is a hash of
(seed, step, problem, slot). So all processes and a resumed run choose the same variants.

Axes: P problems of a batch, K places for candidates of each. Slots count the prompts of a problem's group: 0 is the
original, 1 to M are the variants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

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
"""Where several variants are drawn: what a second wanted delta below 0 becomes one of."""

_TIE: Final = 1e-9
"""Distances in levels that differ by less are equal: deltas are differences of rounded numbers."""
_NORMAL: Final = NormalDist()
_SIGNAL_STRENGTH: Final = 8.0
"""Rollouts that the prior pass rate counts as with the selector `signal`: one visit says as much."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Prompts to choose from. Those of a problem fill its places from the left, in the order of their ids.

    Attributes:
        there_PK: (P, K) whether a place is filled; elsewhere the other columns mean nothing.
        variant_id_PK: (P, K) ids, as objects.
        kind_PK: (P, K) kinds, as objects: `reword harder think_step image image_text composite` or `original`.
        delta_PK: (P, K) difficulty offsets from the original, in levels.
        pass_rate_PK: (P, K) pass rates of their labels; NaN without one.
        right_PK: (P, K) faded counts of rollouts that were correct (`trainer.method.difficulty.counts_after_visit`).
        wrong_PK: (P, K) faded counts of rollouts that were wrong.
        share_left_PK: (P, K) share of a worked solution that is left to the policy; 1 where nothing is given.
    """

    there_PK: BoolArray
    variant_id_PK: npt.NDArray[np.object_]
    kind_PK: npt.NDArray[np.object_]
    delta_PK: FloatArray
    pass_rate_PK: FloatArray
    right_PK: FloatArray
    wrong_PK: FloatArray
    share_left_PK: FloatArray


@dataclass(slots=True)  # not frozen, which would take thrice the time for each problem of a batch
class Draw:
    """Random numbers of one problem at one step, each a hash of what it is for.

    The same on every process, machine and Python version.
    """

    seed: int
    step: int
    problem_id: str

    def uniform(self, slot: int, purpose: str) -> float:
        """Return a uniform number strictly between 0 and 1 for a slot and a purpose."""
        # The length keeps apart what would otherwise join to the same text.
        key = f"{self.seed},{self.step},{slot},{len(self.problem_id)},{self.problem_id},{purpose}"
        digest = blake2b(key.encode(), digest_size=8).digest()
        # 52 bits and a half: neither end is reached, and every such number is a float.
        return ((int.from_bytes(digest, "little") >> 12) + 0.5) * 2.0**-52

    def index(self, count: int, slot: int, purpose: str) -> int:
        """Return one of 0, 1, ..., count - 1, all equally likely."""
        return int(self.uniform(slot, purpose) * count)

    def normal(self, mean: float, deviation: float, slot: int, purpose: str) -> float:
        """Return a draw from Normal(mean, deviation)."""
        return mean + deviation * _NORMAL.inv_cdf(self.uniform(slot, purpose))


class Selector(Protocol):
    """Chooses the variants of a batch's problems for one step."""

    def __call__(
        self, difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]
    ) -> IntArray:
        """Return (P, `count`) places of candidates, for the slots 1 to `count`; -1 for a problem without any.

        No candidate of a problem comes twice while one that may be chosen is left over. For a problem without any
        candidate the trainer takes the original once more.

        Args:
            difficulty_P: (P,) live difficulties of the problems, 1 to 9.
            candidates: their accepted variants.
            count: number M of variants wanted of each.
            draw_P: source of every random choice, of each problem.
        """
        ...


def _nearest(
    distance_PK: FloatArray, pool_PK: BoolArray, slot: int, draw_P: Sequence[Draw]
) -> npt.NDArray[np.intp]:
    """The place of the least distance in each pool; ties by the draw."""
    distance_PK = np.where(pool_PK, distance_PK, np.inf)
    limit_P = distance_PK.min(axis=1, initial=np.inf) + _TIE
    return _any_of(pool_PK & (distance_PK <= limit_P[:, None]), slot, draw_P)


def _any_of(pool_PK: BoolArray, slot: int, draw_P: Sequence[Draw]) -> npt.NDArray[np.intp]:
    """A place of each pool by the draw; 0 where a pool is empty."""
    size_P = pool_PK.sum(axis=1)
    number_P = np.zeros(len(size_P), np.int64)
    for problem in np.flatnonzero(size_P > 1).tolist():
        number_P[problem] = draw_P[problem].index(int(size_P[problem]), slot, "variant")
    place_P: npt.NDArray[np.intp] = (pool_PK.cumsum(axis=1) > number_P[:, None]).argmax(axis=1)
    return place_P


def _without_repeats(
    candidates: Candidates,
    count: int,
    pick: Callable[[BoolArray, int], npt.NDArray[np.intp]],
    *,
    once: str | None = None,
) -> IntArray:
    """Fill the slots 1 to `count` by `pick(pool_PK, slot)`, each from the candidates that are left over so far.

    Candidates are reused once all have been picked. At most one of kind `once` is picked while others remain.
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
    """The paper's aim (arXiv 2603.01106 and its released code): the delta nearest to the wanted one.

    One variant: the table of targets. Several: a rounded, clipped normal draw of the target for each slot;
    one think step in the group, and no more while there are others.
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
    """The wanted delta of each of several variants of one problem.

    A second draw below the problem's own rounded difficulty, which asks for a second hint, becomes a delta
    of 0, 1, 2 or 3.
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
    """The paper's tiers: harder below 4, reworded from 4 to 6, think steps above 6.

    Within the tier the delta nearest to 5 - D; where nothing of the tier is left, as `paper`.
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
    """Thompson sampling of the pass rate: the variants whose sampled pass rates are nearest to 1/2.

    There the expected gradient, which grows with p(1 - p), is largest, and nothing is left to tune. A
    variant's prior pass rate is its label's, or what its difficulty says.
    """
    there_PK = candidates.there_PK
    alpha_PK, beta_PK = posterior_parameters(
        candidates.right_PK, candidates.wrong_PK, _prior(candidates, difficulty_P)
    )
    uniforms = [
        draw.uniform(1, variant_id)
        for draw, ids, there in zip(draw_P, candidates.variant_id_PK, there_PK, strict=True)
        for variant_id in ids[there].tolist()
    ]
    distance_PK = np.full(there_PK.shape, np.inf)
    distance_PK[there_PK] = np.abs(
        special.betaincinv(alpha_PK[there_PK], beta_PK[there_PK], np.array(uniforms)) - 0.5
    )
    size_P = there_PK.sum(axis=1)
    ranked_PK = distance_PK.argsort(axis=1, kind="stable")
    place_PM = np.arange(count) % np.maximum(size_P, 1)[:, None]
    if not there_PK.shape[1]:
        return np.full(place_PM.shape, -1, np.int64)
    return np.where(size_P[:, None] > 0, np.take_along_axis(ranked_PK, place_PM, axis=1), -1)


def _signal(difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]) -> IntArray:
    """The prompts from which most is to be learnt for the original: expected p(1 - p), times what is left to do.

    p(1 - p), its mean over the posterior, is what a group's rewards can tell; the share of the solution that the
    policy writes itself is what it tells it of. So a hint is given where without it all would be wrong, no longer
    one than is needed, and none where the original is in reach. (With `posterior` hints stay when they are no
    longer needed: a pass rate of 1/2 is nearest with the last step left, of which a test asks nothing.)
    """
    # Without the uniform part of `posterior_parameters`: what has never come out right is not 1/6 likely to.
    prior_PK = _prior(candidates, difficulty_P)
    alpha_PK = _SIGNAL_STRENGTH * prior_PK + candidates.right_PK
    beta_PK = _SIGNAL_STRENGTH * (1.0 - prior_PK) + candidates.wrong_PK
    total_PK = alpha_PK + beta_PK
    expected_PK = candidates.share_left_PK * alpha_PK * beta_PK / (total_PK * (total_PK + 1.0))
    return _without_repeats(
        candidates, count, lambda pool_PK, slot: _nearest(-expected_PK, pool_PK, slot, draw_P)
    )


def _prior(candidates: Candidates, difficulty_P: FloatArray) -> FloatArray:
    by_delta_PK = pass_rate_from_difficulty(variant_difficulty(difficulty_P[:, None], candidates.delta_PK))
    return np.where(np.isnan(candidates.pass_rate_PK), by_delta_PK, candidates.pass_rate_PK)


def _uniform(
    difficulty_P: FloatArray, candidates: Candidates, count: int, draw_P: Sequence[Draw]
) -> IntArray:
    """Any variants: the control with the same hints and no aim."""
    return _without_repeats(candidates, count, lambda pool_PK, slot: _any_of(pool_PK, slot, draw_P))


SELECTORS: Final[Mapping[str, Selector]] = MappingProxyType(
    {"paper": _paper, "tier": _tier, "posterior": _posterior, "signal": _signal, "uniform": _uniform}
)
"""The selectors by the name that the trainer's configuration uses."""
