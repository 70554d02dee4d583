"""The difficulty scale: real numbers from 1 (easiest) to 9 (hardest).

A pass rate p in [0, 1] has the difficulty 9 - 8p. Functions take numbers or arrays of any shapes that broadcast.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
FloatOrArray = TypeVar("FloatOrArray", float, FloatArray)

EASIEST: Final = 1.0
MIDDLE: Final = 5.0
"""At this difficulty half of the rollouts are right. Every problem starts at it (arXiv 2603.01106, section 3.2)."""
HARDEST: Final = 9.0
LEVELS: Final = HARDEST - EASIEST
"""Levels per unit of pass rate. A variance of pass rates times LEVELS**2 is the variance of the difficulties."""


class MeasuredDifficulty(NamedTuple):
    """A difficulty that was measured from a solver's answers, with the ends of its 90 % interval, in levels."""

    difficulty: float
    low: float
    high: float


def difficulty_from_pass_rate(pass_rate: FloatOrArray) -> FloatOrArray:
    """Return the difficulty 9 - 8p of a pass rate p in [0, 1]."""
    return HARDEST - LEVELS * pass_rate


def pass_rate_from_difficulty(difficulty: FloatOrArray) -> FloatOrArray:
    """Return the pass rate (9 - D) / 8 of a difficulty D in [1, 9]."""
    return (HARDEST - difficulty) / LEVELS


def measured_difficulty(correct: int, samples: int) -> MeasuredDifficulty:
    """Return the difficulty and its 90 % interval, from the numbers of correct answers and of all answers.

    The pass rate is taken as p = (correct + 1) / (samples + 2). The ends of the interval are the difficulties of the
    95 % and the 5 % quantiles of Beta(correct + 1, samples - correct + 1).
    """
    # Imported here, because most users of the scale measure nothing, and SciPy takes a while to load.
    from scipy.special import betaincinv

    a, b = correct + 1, samples - correct + 1
    quantile_05, quantile_95 = (float(betaincinv(a, b, share)) for share in (0.05, 0.95))
    return MeasuredDifficulty(*map(difficulty_from_pass_rate, (a / (a + b), quantile_95, quantile_05)))


@overload
def variant_difficulty(difficulty: float, delta: float) -> float: ...
@overload
def variant_difficulty(difficulty: npt.ArrayLike, delta: npt.ArrayLike) -> FloatArray: ...
def variant_difficulty(difficulty: Any, delta: Any) -> Any:
    """Return the live difficulty of a variant, clip(D + delta, 1, 9).

    Args:
        difficulty: Live difficulty D of the problem.
        delta: Difficulty offset of the variant, in levels.
    """
    if isinstance(difficulty, float | int) and isinstance(delta, float | int):
        return min(max(difficulty + delta, EASIEST), HARDEST)
    return np.clip(np.add(difficulty, delta), EASIEST, HARDEST)
