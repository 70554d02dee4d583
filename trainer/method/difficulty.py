"""The rules that change live difficulty after each visit, and a Beta posterior that also gives its uncertainty.

Difficulties are on the scale of `pipeline.difficulty.scale`. All functions are pure.
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
"""How many rollouts a prior pass rate counts as in a Beta posterior."""
RETENTION: Final = 0.95
"""What the counts of a Beta posterior are multiplied by at each visit, before the new rollouts are added."""


class Band(NamedTuple):
    """Accuracies from `low` to `high`, both included, change the difficulty by `change` levels."""

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
"""The bands of the authors' released code; the first that holds an accuracy wins."""


class BetaCounts(NamedTuple):
    """Right and wrong rollouts remembered of a problem or a variant; floats, since old ones fade."""

    right: float = 0.0
    wrong: float = 0.0


class PosteriorDifficulty(NamedTuple):
    """A difficulty read off a Beta posterior.

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
    """Return the difficulty after a visit in which a share `accuracy` of the answers was correct.

    `paper` (arXiv 2603.01106): clip(old + eta * (0.5 - accuracy), d_min, d_max).
    `bands` (the authors' released code): clip(old + the change of the first band that holds the accuracy).
    An accuracy of NaN, nothing judged, leaves the difficulty as it is; so does one that no band holds.

    Args:
        old: Difficulty before the visit.
        accuracy: Share of correct answers in [0, 1], or NaN; not the weighted reward.
        rule: `paper` or `bands`.
        eta: Levels per unit of accuracy, for `paper`.
        bands: (low, high, change) triples, for `bands`.
        d_min: Smallest difficulty.
        d_max: Largest difficulty.

    Returns:
        A float for floats, otherwise an array of the broadcast shape.

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
    """Return the counts after a visit: the old ones fade, then the new rollouts are added.

    Args:
        counts: Counts before the visit.
        right: Rollouts of this visit that were judged correct.
        wrong: Rollouts of this visit that were judged wrong; those not judged are in neither.
        retention: What is left of the old counts, in [0, 1]; 0.95 remembers about the last 20 visits.
    """
    return BetaCounts(retention * counts.right + right, retention * counts.wrong + wrong)


def posterior_parameters(
    right: FloatOrArray,
    wrong: FloatOrArray,
    prior_pass_rate: FloatOrArray,
    *,
    strength: float = PRIOR_STRENGTH,
) -> tuple[FloatOrArray, FloatOrArray]:
    """Return (alpha, beta) of the Beta posterior of a pass rate, or arrays of them.

    The prior is Beta(1 + 4p, 1 + 4(1 - p)): uniform, and four rollouts at the prior pass rate p. It does not
    fade, so a problem that is not visited for long drifts back to it.

    Args:
        right: Remembered rollouts that were correct.
        wrong: Remembered rollouts that were wrong.
        prior_pass_rate: Pass rate p expected before any rollout: a label's, or (9 - D) / 8.
        strength: How many rollouts the prior pass rate counts as.
    """
    alpha = 1.0 + strength * prior_pass_rate + right
    beta = 1.0 + strength * (1.0 - prior_pass_rate) + wrong
    return alpha, beta


def posterior_difficulty(
    counts: BetaCounts, prior_pass_rate: float, *, strength: float = PRIOR_STRENGTH
) -> PosteriorDifficulty:
    """Read difficulty and uncertainty off the Beta posterior of a problem's or variant's pass rate.

    Args:
        counts: Remembered rollouts.
        prior_pass_rate: Pass rate expected before any rollout.
        strength: How many rollouts the prior pass rate counts as.

    Returns:
        D = 9 - 8 * mean, always inside (1, 9), and the standard deviation of D.
    """
    alpha, beta = posterior_parameters(*counts, prior_pass_rate, strength=strength)
    total = alpha + beta
    mean = alpha / total
    standard_deviation = math.sqrt(mean * (1.0 - mean) / (total + 1.0))
    return PosteriorDifficulty(difficulty_from_pass_rate(mean), LEVELS * standard_deviation)
