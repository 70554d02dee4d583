"""Designed difficulty offsets of all kinds of variants, in levels of the 1 to 9 scale."""

from __future__ import annotations

from diva_grpo.schemas.recipe import OperationName, Recipe
from diva_grpo.schemas.records import Kind


def designed_delta_of_recipe(recipe: Recipe) -> float:
    """Difficulty offset in levels: it never falls as the strength of a family of operations grows.

    One operation of strength s: 1 + 20 (s - 0.30), within [1, 3]; the question drawn into the image alone: 2;
    two or more operations, of mean strength s: 4 + 20 (s - 0.30), within [4, 8].
    """
    if recipe.names == (OperationName.QUESTION,):
        return 2.0
    low, high = (1.0, 3.0) if len(recipe.operations) == 1 else (4.0, 8.0)
    # Rounded: 20 (0.35 - 0.30) is one level, and not a hair less.
    return min(high, max(low, round(low + 20 * (recipe.strength - 0.30), 6)))


def designed_delta(kind: str, hint_steps: int = 0, hint_total: int = 0) -> float:
    """Difficulty offset of a text variant by design, in levels (contract.md, Difficulty)."""
    if kind == Kind.THINK_STEP:
        return -8.0 if hint_steps == hint_total else -float(min(2 * hint_steps, 6))
    return {Kind.REWORD: 0.0, Kind.HARDER: 2.0}[Kind(kind)]
