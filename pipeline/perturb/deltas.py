"""How much harder a recipe makes a problem, by design (contract.md, Difficulty)."""

from __future__ import annotations

from schemas.recipe import OperationName, Recipe


def designed_delta(recipe: Recipe) -> float:
    """Difficulty offset in levels: it never falls as the strength of a family of operations grows.

    One operation of strength s: 1 + 20 (s - 0.30), within [1, 3]; the question drawn into the image alone: 2;
    two or more operations, of mean strength s: 4 + 20 (s - 0.30), within [4, 8].
    """
    if recipe.names == (OperationName.QUESTION,):
        return 2.0
    low, high = (1.0, 3.0) if len(recipe.operations) == 1 else (4.0, 8.0)
    # Rounded: 20 (0.35 - 0.30) is one level, and not a hair less.
    return min(high, max(low, round(low + 20 * (recipe.strength - 0.30), 6)))
