"""Designed difficulty offsets of all kinds of variants, in levels of the 1 to 9 scale."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from diva_grpo.schemas.recipe import Recipe
from diva_grpo.schemas.records import Kind

IMAGE_STRENGTHS: Final[Mapping[Kind, tuple[float, ...]]] = MappingProxyType(
    {
        Kind.IMAGE: (0.30, 0.35, 0.40),
        Kind.IMAGE_TEXT: (0.30,),
        Kind.COMPOSITE: (0.30, 0.35, 0.40, 0.45, 0.50),
    }
)
"""The strengths with which image variants of each kind are made. Each strength gives another whole number of levels as
the designed offset."""
DESIGN_SD: Final = 2.0
"""Standard deviation that a designed offset is assumed to have when it is combined with a measured one, in levels."""
_LADDER_STEPS: Final = 5
"""Maximum number of steps of the solutions that teachers are asked to write."""


def designed_delta(kind: str, hint_steps: int = 0, hint_total: int = 0) -> float:
    """Return the designed offset of a text variant, in levels.

    Args:
        kind: `reword` (offset 0), `harder` (+2) or `think_step` (-2 for each step, but at least -6; -8 for the full
            solution).
        hint_steps: Number of steps that a think-step variant gives.
        hint_total: Number of steps of the full solution.
    """
    if kind == Kind.THINK_STEP:
        return -8.0 if hint_steps == hint_total else -float(min(2 * hint_steps, 6))
    return {Kind.REWORD: 0.0, Kind.HARDER: 2.0}[Kind(kind)]


def designed_delta_of_recipe(recipe: Recipe) -> float:
    """Return the designed offset of an image variant, in levels; see `designed_delta_of_image`."""
    return designed_delta_of_image(recipe.kind, recipe.strength)


def designed_delta_of_image(kind: Kind, strength: float) -> float:
    """Return the designed offset of an image variant, in levels. It never falls as the strength grows.

    `image` (one operation): 1 + 20 (strength - 0.30), limited to [1, 3]. `image_text` (the question is drawn into the
    image): 2. `composite` (two operations or more): 4 + 20 (strength - 0.30), limited to [4, 8].

    Args:
        kind: `image`, `image_text` or `composite`.
        strength: Mean strength of the operations.
    """
    if kind == Kind.IMAGE_TEXT:
        return 2.0
    low, high = (1.0, 3.0) if kind == Kind.IMAGE else (4.0, 8.0)
    # Rounded, because 20 (0.35 - 0.30) in floating point is slightly less than one level.
    return min(high, max(low, round(low + 20 * (strength - 0.30), 6)))


def designed_deltas(kind: Kind) -> tuple[float, ...]:
    """Return all designed offsets that occur for variants of a kind, in levels."""
    if kind in IMAGE_STRENGTHS:
        return tuple(designed_delta_of_image(kind, strength) for strength in IMAGE_STRENGTHS[kind])
    if kind == Kind.THINK_STEP:
        steps = range(1, _LADDER_STEPS + 1)
        return tuple(sorted({designed_delta(kind, j, _LADDER_STEPS) for j in steps}))
    return (designed_delta(kind),)
