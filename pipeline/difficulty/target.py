"""The offset that a variant should have for a problem of a given difficulty, and the nearest available offset.

Selection uses both to choose a variant. The search for shortages uses both to find problems without a suitable variant.
"""

from __future__ import annotations

import math
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.difficulty.scale import FloatArray

TARGET_DIFFICULTY: Final = (9.0, 8.0, 7.0, 6.0, 6.0, 5.0, 5.0, 5.0, 4.0)
"""Target difficulty of a single variant, for the rounded difficulties 1 to 9 of its problem (the authors' released
code)."""
MEAN_TARGET_DIFFICULTY: Final = (8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 4.5, 3.5, 3.0)
"""Means of the normal distributions from which the target difficulties of several variants are drawn, for the rounded
difficulties 1 to 9 of their problem (the authors' released code)."""


@overload
def target_difficulty(difficulty: float) -> float: ...
@overload
def target_difficulty(difficulty: npt.ArrayLike) -> FloatArray: ...
def target_difficulty(difficulty: Any) -> Any:
    """Return the difficulty that a single variant of a problem should have.

    It is looked up in the table of DIVA-GRPO's released code (arXiv 2603.01106), for the rounded difficulty (halves are
    rounded up).

    Args:
        difficulty: Live difficulty of the problem, 1 to 9; a number or an array.
    """
    if isinstance(difficulty, float | int):
        return TARGET_DIFFICULTY[rounded_level(difficulty) - 1]
    rows = np.clip(np.floor(np.asarray(difficulty, np.float64) + 0.5), 1, 9).astype(np.intp) - 1
    return np.asarray(TARGET_DIFFICULTY)[rows]


@overload
def wanted_delta(difficulty: float) -> float: ...
@overload
def wanted_delta(difficulty: npt.ArrayLike) -> FloatArray: ...
def wanted_delta(difficulty: Any) -> Any:
    """Return the offset that a single variant of a problem should have: target minus (unrounded) live difficulty.

    Args:
        difficulty: Live difficulty of the problem, 1 to 9; a number or an array.
    """
    return target_difficulty(difficulty) - difficulty


def rounded_level(difficulty: float) -> int:
    """Return a difficulty as a whole level from 1 to 9. Halves are rounded up."""
    return min(max(half_up(difficulty), 1), 9)


def half_up(value: float) -> int:
    """Return the nearest whole number. If two are equally near, return the larger one."""
    return math.floor(value + 0.5)


def nearest_delta(
    owner_V: npt.NDArray[np.intp], delta_V: FloatArray, wanted_P: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Return for each problem the offset of its variants that is nearest to the wanted offset.

    Args:
        owner_V: (V,) index of each variant's problem in `wanted_P`.
        delta_V: (V,) offset of each variant, in levels.
        wanted_P: (P,) wanted offsets, in levels.

    Returns:
        (P,) nearest offsets, NaN for a problem without a variant; (P,) distances from the wanted offsets, in levels,
        infinite for a problem without a variant.
    """
    wanted = np.asarray(wanted_P, np.float64)
    distance_V = np.abs(delta_V - wanted[owner_V])
    order = np.lexsort((distance_V, owner_V))
    owners, firsts = np.unique(owner_V[order], return_index=True)
    best = order[firsts]
    nearest_P, distance_P = np.full(len(wanted), np.nan), np.full(len(wanted), np.inf)
    nearest_P[owners], distance_P[owners] = delta_V[best], distance_V[best]
    return nearest_P, distance_P
