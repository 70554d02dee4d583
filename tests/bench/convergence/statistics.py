"""Medians over seeds and ratios of them, with bootstrap intervals.

"Not reached" is infinity throughout: a median over seeds is then right as it stands, as long as more than half of
them are finite, and says infinity where they are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]

LEVEL = 0.9
RESAMPLES = 10_000
SEED = 20260301


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it, of probability `LEVEL`; infinite where something is not reached.

    Attributes:
        estimate: from the seeds as they are.
        low: lower end.
        high: upper end.
        seeds: how many.
    """

    estimate: float
    low: float
    high: float
    seeds: int


@cache
def _resamples(seeds: int) -> tuple[Indices, Indices]:
    """Different resamples of S seeds (R, S), and how often each was drawn (R,): of five there are but 126."""
    drawn = np.random.default_rng(SEED).integers(seeds, size=(RESAMPLES, seeds))
    return np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)


def bootstrap(statistic: Callable[[Indices], float], seeds: int) -> Interval:
    """Percentile bootstrap over seeds, with a fixed generator: equal input gives equal intervals.

    Seeds are drawn together for all that the statistic looks at, so that a ratio of two contenders is paired by
    seed. An end is a value that a resample had, the one further out: none is interpolated, as infinity could not be.

    Args:
        statistic: of the seeds at these positions (S,), in which their order plays no part.
        seeds: S, how many there are.

    Raises:
        ValueError: there is no seed.
    """
    if seeds < 1:
        raise ValueError("an interval needs one seed at least")
    distinct, counts = _resamples(seeds)
    values = np.repeat([statistic(indices) for indices in distinct], counts)
    tail = (1 - LEVEL) / 2
    return Interval(
        estimate=statistic(np.arange(seeds)),
        low=float(np.quantile(values, tail, method="lower")),
        high=float(np.quantile(values, 1 - tail, method="higher")),
        seeds=seeds,
    )


def median(values: Sequence[float]) -> Interval:
    """The median over seeds.

    Raises:
        ValueError: there is no value.
    """
    array = np.asarray(values, dtype=float)
    return bootstrap(lambda indices: float(np.median(array[indices])), len(array))


def ratio(reference: float, contender: float, budget: float) -> float:
    """How many times as much the reference needs, from what both need (infinity: not reached).

    A contender that does not get there has the ratio 0. A reference that does not is counted with what it spent in
    all, which is less than it would need: the ratio is then a lower bound, and favours the reference.

    Args:
        reference: what the reference needs.
        contender: what the contender needs.
        budget: what the reference spent in its whole run.
    """
    if math.isinf(contender):
        return 0.0
    if contender == 0:
        return math.inf
    return min(reference, budget) / contender
