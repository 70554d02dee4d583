"""Which variants of a problem to train on: five selectors with one signature, and the random draws that they share.

A selector is a pure function of the live difficulty, the accepted variants and a `Draw`. Every random number
is a hash of (seed, step, problem, slot). So all processes and a resumed run choose the same variants, and the order
of the candidates has no influence.

Slots count the prompts of a problem's group: 0 is the original, 1 to M are the variants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist
from types import MappingProxyType
from typing import Final, Protocol

from scipy import special

from diva_grpo.pipeline.difficulty.scale import MIDDLE, pass_rate_from_difficulty, variant_difficulty
from diva_grpo.pipeline.difficulty.target import (
    MEAN_TARGET_DIFFICULTY,
    half_up,
    rounded_level,
    wanted_delta,
)
from diva_grpo.pipeline.difficulty.tiers import TIER_KINDS, tier_of
from diva_grpo.schemas.records import Kind
from diva_grpo.trainer.method.difficulty import BetaCounts, posterior_parameters

SECOND_HINT_DELTAS: Final = (0.0, 1.0, 2.0, 3.0)
"""Where several variants are drawn: what a second wanted delta below 0 becomes one of."""

_TIE: Final = 1e-9
"""Distances in levels that differ by less are equal: deltas are differences of rounded numbers."""
_NORMAL: Final = NormalDist()
_SIGNAL_STRENGTH: Final = 8.0
"""Rollouts that the prior pass rate counts as with the selector `signal`: one visit says as much."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An accepted variant of a problem."""

    variant_id: str
    kind: str
    """One of `reword harder think_step image image_text composite`."""
    delta: float
    """Difficulty offset from the original, in levels."""
    pass_rate: float | None = None
    """Its label's pass rate; None where it has none."""
    right: float = 0.0
    """Faded count of its rollouts that were correct (`trainer.method.difficulty.counts_after_visit`)."""
    wrong: float = 0.0
    """Faded count of its rollouts that were wrong."""
    share_left: float = 1.0
    """Share of a worked solution that it leaves to the policy; 1 where nothing is given."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Random numbers of one problem at one step, each a hash of what it is for.

    The same on every process, machine and Python version (`beta` up to the rounding of SciPy).
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

    def beta(
        self, alphas: Sequence[float], betas: Sequence[float], slot: int, purposes: Sequence[str]
    ) -> list[float]:
        """Return independent draws from Beta(alphas[i], betas[i]), one for each purpose."""
        uniforms = [self.uniform(slot, purpose) for purpose in purposes]
        draws: list[float] = special.betaincinv(alphas, betas, uniforms).tolist()
        return draws


class Selector(Protocol):
    """Chooses the variants of one problem for one step."""

    def __call__(
        self, difficulty: float, candidates: Sequence[Candidate], count: int, draw: Draw
    ) -> list[Candidate]:
        """Return `count` of the candidates, for the slots 1 to `count`.

        No candidate comes twice while one that may be chosen is left over. Without any candidate the list is
        empty: the trainer then takes the original once more.

        Args:
            difficulty: Live difficulty of the problem, 1 to 9.
            candidates: Its accepted variants, in any order, with ids of their own.
            count: Number M of variants wanted.
            draw: Source of every random choice.
        """
        ...


def _nearest(pool: Sequence[Candidate], delta: float, slot: int, draw: Draw) -> Candidate:
    """The candidate whose delta is nearest to `delta`; ties by the draw."""
    distances = [abs(candidate.delta - delta) for candidate in pool]
    limit = min(distances) + _TIE
    nearest = [candidate for candidate, distance in zip(pool, distances, strict=True) if distance <= limit]
    return nearest[0] if len(nearest) == 1 else _any_of(nearest, slot, draw)


def _any_of(pool: Sequence[Candidate], slot: int, draw: Draw) -> Candidate:
    ordered = sorted(pool, key=_variant_id)
    return ordered[draw.index(len(ordered), slot, "variant")]


def _variant_id(candidate: Candidate) -> str:
    return candidate.variant_id


def _without_repeats(
    candidates: Sequence[Candidate],
    count: int,
    pick: Callable[[Sequence[Candidate], int], Candidate],
    *,
    once: str | None = None,
) -> list[Candidate]:
    """Fill the slots 1 to `count` by `pick(pool, slot)`, each from the candidates that are left over so far.

    Candidates are reused once all have been picked. At most one of kind `once` is picked while others remain.
    """
    chosen: list[Candidate] = []
    left: Sequence[Candidate] = ()
    for slot in range(1, count + 1 if candidates else 1):
        left = left or candidates
        choice = pick(left, slot)
        chosen.append(choice)
        left = [other for other in left if other is not choice]
        if choice.kind == once and (others := [other for other in candidates if other.kind != once]):
            candidates = others
            left = [other for other in left if other.kind != once]
    return chosen


def _paper(difficulty: float, candidates: Sequence[Candidate], count: int, draw: Draw) -> list[Candidate]:
    """The paper's aim (arXiv 2603.01106 and its released code): the delta nearest to the wanted one.

    One variant: the table of targets. Several: a rounded, clipped normal draw of the target for each slot;
    one think step in the group, and no more while there are others.
    """
    deltas = [wanted_delta(difficulty)] if count == 1 else _wanted_deltas(difficulty, count, draw)
    return _without_repeats(
        candidates,
        count,
        lambda pool, slot: _nearest(pool, deltas[slot - 1], slot, draw),
        once=Kind.THINK_STEP,
    )


def _wanted_deltas(difficulty: float, count: int, draw: Draw) -> list[float]:
    """The wanted delta of each of several variants.

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


def _tier(difficulty: float, candidates: Sequence[Candidate], count: int, draw: Draw) -> list[Candidate]:
    """The paper's tiers: harder below 4, reworded from 4 to 6, think steps above 6.

    Within the tier the delta nearest to 5 - D; where nothing of the tier is left, as `paper`.
    """
    kinds = TIER_KINDS[tier_of(difficulty)]

    def pick(pool: Sequence[Candidate], slot: int) -> Candidate:
        in_tier = [candidate for candidate in pool if candidate.kind in kinds]
        if in_tier:
            return _nearest(in_tier, MIDDLE - difficulty, slot, draw)
        return _nearest(pool, wanted_delta(difficulty), slot, draw)

    return _without_repeats(candidates, count, pick)


def _posterior(difficulty: float, candidates: Sequence[Candidate], count: int, draw: Draw) -> list[Candidate]:
    """Thompson sampling of the pass rate: the variants whose sampled pass rates are nearest to 1/2.

    There the expected gradient, which grows with p(1 - p), is largest, and nothing is left to tune. A
    variant's prior pass rate is its label's, or what its difficulty says.
    """
    parameters = [
        posterior_parameters(BetaCounts(candidate.right, candidate.wrong), _prior(candidate, difficulty))
        for candidate in candidates
    ]
    if not parameters:
        return []
    alphas, betas = zip(*parameters, strict=True)
    sampled = draw.beta(alphas, betas, 1, [candidate.variant_id for candidate in candidates])
    ranked = sorted(
        zip(sampled, candidates, strict=True), key=lambda pair: (abs(pair[0] - 0.5), pair[1].variant_id)
    )
    return [ranked[slot % len(ranked)][1] for slot in range(count)]


def _signal(difficulty: float, candidates: Sequence[Candidate], count: int, draw: Draw) -> list[Candidate]:
    """The prompts from which most is to be learnt for the original: expected p(1 - p), times what is left to do.

    p(1 - p), its mean over the posterior, is what a group's rewards can tell; the share of the solution that the
    policy writes itself is what it tells it of. So a hint is given where without it all would be wrong, no longer
    one than is needed, and none where the original is in reach. (With `posterior` hints stay when they are no
    longer needed: a pass rate of 1/2 is nearest with the last step left, of which a test asks nothing.)
    """

    def expected(candidate: Candidate) -> float:
        # Without the uniform part of `posterior_parameters`: what has never come out right is not 1/6 likely to.
        prior = _prior(candidate, difficulty)
        alpha = _SIGNAL_STRENGTH * prior + candidate.right
        beta = _SIGNAL_STRENGTH * (1.0 - prior) + candidate.wrong
        total = alpha + beta
        return candidate.share_left * alpha * beta / (total * (total + 1.0))

    def pick(pool: Sequence[Candidate], slot: int) -> Candidate:
        scores = [expected(candidate) for candidate in pool]
        limit = max(scores) - _TIE
        best = [candidate for candidate, score in zip(pool, scores, strict=True) if score >= limit]
        return best[0] if len(best) == 1 else _any_of(best, slot, draw)

    return _without_repeats(candidates, count, pick)


def _prior(candidate: Candidate, difficulty: float) -> float:
    if candidate.pass_rate is not None:
        return candidate.pass_rate
    return pass_rate_from_difficulty(variant_difficulty(difficulty, candidate.delta))


def _uniform(difficulty: float, candidates: Sequence[Candidate], count: int, draw: Draw) -> list[Candidate]:
    """Any variants: the control with the same hints and no aim."""
    return _without_repeats(candidates, count, lambda pool, slot: _any_of(pool, slot, draw))


SELECTORS: Final[Mapping[str, Selector]] = MappingProxyType(
    {"paper": _paper, "tier": _tier, "posterior": _posterior, "signal": _signal, "uniform": _uniform}
)
"""The selectors by the name that the trainer's configuration uses."""
