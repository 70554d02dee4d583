"""Rules that update live difficulty after each visit. The Beta posterior also gives the uncertainty of the difficulty.

A *visit* of a problem or variant is one generation of rollouts for it. Difficulties are on the scale of
`pipeline.difficulty.scale`. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args, overload

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.difficulty.scale import (
    EASIEST,
    HARDEST,
    LEVELS,
    FloatArray,
    FloatOrArray,
    difficulty_from_pass_rate,
)

Rule = Literal["paper", "bands"]

PRIOR_STRENGTH: Final = 4.0
"""Number of rollouts that a prior pass rate counts as in a Beta posterior."""
RETENTION: Final = 0.95
"""Factor by which the counts of a Beta posterior are multiplied at each visit, before the new rollouts are added."""


class Band(NamedTuple):
    """An accuracy from `low` to `high`, both included, changes the difficulty by `change` levels."""

    low: float
    high: float
    change: float


RELEASED_BANDS: Final[tuple[Band, ...]] = (
    Band(0.0, 0.05, 2.0),
    Band(0.05, 0.3, 1.0),
    Band(0.3, 0.5, 0.0),
    Band(0.5, 0.7, -1.0),
    Band(0.7, 1.0, -2.0),
)
"""The bands of the authors' released code. The first band that contains the accuracy is used."""


class BetaCounts(NamedTuple):
    """Counts of right and wrong rollouts of a problem or variant. They are floats: older rollouts have less weight."""

    right: float = 0.0
    wrong: float = 0.0


class PosteriorDifficulty(NamedTuple):
    """A difficulty that was computed from a Beta posterior of a pass rate.

    Attributes:
        difficulty: 9 - 8 * (posterior mean of the pass rate).
        uncertainty: Posterior standard deviation of the difficulty, in levels.
    """

    difficulty: float
    uncertainty: float


@overload
def updated_difficulty(
    old: float,
    accuracy: float,
    *,
    rule: Rule = ...,
    eta: float = ...,
    bands: Sequence[Band] = ...,
    d_min: float = ...,
    d_max: float = ...,
) -> float: ...
@overload
def updated_difficulty(
    old: npt.ArrayLike,
    accuracy: npt.ArrayLike,
    *,
    rule: Rule = ...,
    eta: float = ...,
    bands: Sequence[Band] = ...,
    d_min: float = ...,
    d_max: float = ...,
) -> FloatArray: ...
def updated_difficulty(
    old: npt.ArrayLike,
    accuracy: npt.ArrayLike,
    *,
    rule: Rule = "paper",
    eta: float = 4.0,
    bands: Sequence[Band] = RELEASED_BANDS,
    d_min: float = EASIEST,
    d_max: float = HARDEST,
) -> float | FloatArray:
    """Return the difficulty after a visit in which a share `accuracy` of the answers was right.

    `paper` (arXiv 2603.01106): clip(old + eta * (0.5 - accuracy), d_min, d_max).
    `bands` (the authors' released code): clip(old + the change of the first band that contains the accuracy).
    The difficulty does not change if the accuracy is NaN (no answer was judged), or if no band contains it.

    Args:
        old: Difficulty before the visit.
        accuracy: Share of right answers in [0, 1], or NaN. This is not the weighted reward.
        rule: `paper` or `bands`.
        eta: Levels per unit of accuracy, for `paper`.
        bands: (low, high, change) triples, for `bands`.
        d_min: Smallest difficulty.
        d_max: Largest difficulty.

    Returns:
        A float if `old` and `accuracy` are numbers, otherwise an array of their broadcast shape.

    Raises:
        ValueError: For an unknown rule, or an accuracy outside [0, 1].
    """
    old_array, accuracy_array = np.asarray(old, np.float64), np.asarray(accuracy, np.float64)
    if np.any((accuracy_array < 0) | (accuracy_array > 1)):
        raise ValueError("accuracy must be a share of rollouts, from 0 to 1, or NaN")
    if rule == "paper":
        change = eta * (0.5 - accuracy_array)
    elif rule == "bands":
        inside = [(accuracy_array >= low) & (accuracy_array <= high) for low, high, _ in bands]
        change = np.select(inside, [np.float64(band_change) for _, _, band_change in bands], default=np.nan)
    else:
        raise ValueError(f"unknown rule {rule!r}; choose one of: {', '.join(get_args(Rule))}")
    new = np.where(np.isnan(change), old_array, np.clip(old_array + change, d_min, d_max))
    return float(new) if new.ndim == 0 else new


def counts_after_visit(
    counts: BetaCounts, right: float, wrong: float, *, retention: float = RETENTION
) -> BetaCounts:
    """Return the counts after a visit: the old counts times `retention`, plus the new rollouts.

    Args:
        counts: Counts before the visit.
        right: Number of rollouts of this visit that were judged right.
        wrong: Number of rollouts of this visit that were judged wrong. Those not judged are not counted.
        retention: Factor for the old counts, in [0, 1]. With 0.95, about the last 20 visits matter.
    """
    return BetaCounts(retention * counts.right + right, retention * counts.wrong + wrong)


def posterior_parameters(
    right: FloatOrArray,
    wrong: FloatOrArray,
    prior_pass_rate: FloatOrArray,
    *,
    strength: float = PRIOR_STRENGTH,
) -> tuple[FloatOrArray, FloatOrArray]:
    """Return the parameters (alpha, beta) of the Beta posterior of a pass rate; arrays if the arguments are arrays.

    With the default strength the prior is Beta(1 + 4p, 1 + 4(1 - p)): a uniform prior plus four rollouts at the prior
    pass rate p. The weight of the prior stays constant, while that of old rollouts decreases.

    Args:
        right: Count of right rollouts.
        wrong: Count of wrong rollouts.
        prior_pass_rate: Pass rate p that is expected before any rollout: that of the label, or (9 - D) / 8.
        strength: Number of rollouts that the prior pass rate counts as.
    """
    alpha = 1.0 + strength * prior_pass_rate + right
    beta = 1.0 + strength * (1.0 - prior_pass_rate) + wrong
    return alpha, beta


def posterior_difficulty(
    counts: BetaCounts, prior_pass_rate: float, *, strength: float = PRIOR_STRENGTH
) -> PosteriorDifficulty:
    """Compute difficulty and uncertainty from the Beta posterior of the pass rate of a problem or variant.

    Args:
        counts: Counts of right and wrong rollouts.
        prior_pass_rate: Pass rate that is expected before any rollout.
        strength: Number of rollouts that the prior pass rate counts as.

    Returns:
        D = 9 - 8 * (posterior mean of the pass rate), always inside (1, 9), and the standard deviation of D.
    """
    alpha, beta = posterior_parameters(*counts, prior_pass_rate, strength=strength)
    total = alpha + beta
    mean = alpha / total
    standard_deviation = math.sqrt(mean * (1.0 - mean) / (total + 1.0))
    return PosteriorDifficulty(difficulty_from_pass_rate(mean), LEVELS * standard_deviation)
