"""The selectors as they are read: one problem at a time, a candidate at a time. The oracle of those over arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
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
from diva_grpo.trainer.method.difficulty import posterior_parameters
from diva_grpo.trainer.method.selection import SECOND_HINT_DELTAS, SELECTORS, Candidates, Draw

TIE: Final = 1e-9
SIGNAL_STRENGTH: Final = 8.0


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


def beta_draws(
    draw: Draw, alphas: Sequence[float], betas: Sequence[float], slot: int, purposes: Sequence[str]
) -> list[float]:
    """Independent draws from Beta(alphas[i], betas[i]), one for each purpose."""
    uniforms = [draw.uniform(slot, purpose) for purpose in purposes]
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
    limit = min(distances) + TIE
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
        posterior_parameters(candidate.right, candidate.wrong, _prior(candidate, difficulty))
        for candidate in candidates
    ]
    if not parameters:
        return []
    alphas, betas = zip(*parameters, strict=True)
    sampled = beta_draws(draw, alphas, betas, 1, [candidate.variant_id for candidate in candidates])
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
        if candidate.pass_rate is None:  # an offset's promise is never certain
            prior = (SIGNAL_STRENGTH * prior + 0.5) / (SIGNAL_STRENGTH + 1.0)
        alpha = SIGNAL_STRENGTH * prior + candidate.right
        beta = SIGNAL_STRENGTH * (1.0 - prior) + candidate.wrong
        total = alpha + beta
        return candidate.share_left * alpha * beta / (total * (total + 1.0))

    def pick(pool: Sequence[Candidate], slot: int) -> Candidate:
        scores = [expected(candidate) for candidate in pool]
        limit = max(scores) - TIE
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


SCALAR_SELECTORS: Final[Mapping[str, Selector]] = MappingProxyType(
    {"paper": _paper, "tier": _tier, "posterior": _posterior, "signal": _signal, "uniform": _uniform}
)


def as_arrays(candidates: Sequence[Sequence[Candidate]]) -> Candidates:
    """Candidates of several problems, each sequence in the order of variant_id, as arrays."""
    shape = len(candidates), max(map(len, candidates), default=0)

    def column(name: str, missing: object, kind: type) -> np.ndarray[Any, Any]:
        filled: np.ndarray[Any, Any] = np.full(shape, missing, kind)
        for problem, row in enumerate(candidates):
            for place, candidate in enumerate(row):
                filled[problem, place] = getattr(candidate, name)
        return filled

    delta, pass_rate, right, wrong, share_left = (
        column(name, np.nan, np.float64) for name in ("delta", "pass_rate", "right", "wrong", "share_left")
    )
    return Candidates(
        np.array([[place < len(row) for place in range(shape[1])] for row in candidates], bool).reshape(
            shape
        ),
        column("variant_id", "", object),
        column("kind", "", object),
        delta,
        pass_rate,
        right,
        wrong,
        share_left,
    )


def select_one(
    name: str, difficulty: float, candidates: Sequence[Candidate], count: int, draw: Draw
) -> list[Candidate]:
    """What the selector over arrays chooses for one problem."""
    ordered = sorted(candidates, key=_variant_id)
    [places] = SELECTORS[name](np.array([difficulty]), as_arrays([ordered]), count, [draw])
    return [ordered[place] for place in places.tolist() if place >= 0]
