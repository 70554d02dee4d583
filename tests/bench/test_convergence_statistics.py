"""Medians and ratios over seeds, with their intervals."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.convergence.statistics import LEVEL, bootstrap, median, ratio

costs = st.lists(st.one_of(st.floats(1, 1e6), st.just(math.inf)), min_size=1, max_size=5)
FEW = settings(max_examples=25, deadline=None)


@FEW
@given(costs)
def test_an_interval_holds_its_estimate_and_lies_within_the_seeds(values: list[float]) -> None:
    found = median(values)
    assert found.estimate == np.median(values)
    assert min(values) <= found.low <= found.estimate <= found.high <= max(values)
    assert found.seeds == len(values)


@FEW
@given(costs, st.randoms())
def test_the_order_of_seeds_plays_no_part(values: list[float], random: Random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    assert median(shuffled).estimate == median(values).estimate


@FEW
@given(costs, st.sampled_from([0.5, 2.0, 1024.0]))
def test_units_play_no_part(values: list[float], unit: float) -> None:
    found, scaled = median(values), median([value * unit for value in values])
    assert (scaled.low, scaled.estimate, scaled.high) == (
        found.low * unit,
        found.estimate * unit,
        found.high * unit,
    )


def test_five_seeds_give_an_interval_from_the_least_to_the_greatest() -> None:
    found = median([5, 1, 4, 2, 3])
    assert (found.low, found.estimate, found.high) == (1, 3, 5)


def test_one_seed_has_no_width_and_none_is_refused() -> None:
    found = median([7])
    assert (found.low, found.estimate, found.high) == (7, 7, 7)
    with pytest.raises(ValueError, match="one seed"):
        median([])


def test_intervals_hold_the_truth_as_often_as_they_can() -> None:
    # From the least to the greatest of five: both on one side of the median once in 16 times.
    rng = np.random.default_rng(1)
    found = [median(list(rng.normal(size=5))) for _ in range(400)]
    held = np.mean([interval.low <= 0 <= interval.high for interval in found])
    assert held == pytest.approx(15 / 16, abs=3 * np.sqrt(15 / 16 / 16 / 400))
    assert held >= LEVEL


def test_ratios_are_paired_by_seed() -> None:
    reference = np.array([10.0, 100.0, 1000.0, 50.0, 20.0])
    contender = reference / 4
    found = bootstrap(lambda i: ratio(float(np.median(reference[i])), float(np.median(contender[i])), 1e9), 5)
    assert (found.low, found.estimate, found.high) == (4, 4, 4)


@FEW
@given(st.floats(1, 1e6), st.floats(1, 1e6))
def test_a_ratio_turns_over(one: float, other: float) -> None:
    assert ratio(one, other, math.inf) * ratio(other, one, math.inf) == pytest.approx(1)


def test_what_is_not_reached_never_favours_the_contender() -> None:
    assert ratio(100, math.inf, 200) == 0
    assert ratio(math.inf, math.inf, 200) == 0
    assert ratio(math.inf, 50, 200) == 4  # the reference's whole run, which was not enough
    assert ratio(100, 0, 200) == math.inf
