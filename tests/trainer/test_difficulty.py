import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diva_grpo.pipeline.difficulty.scale import (
    difficulty_from_pass_rate,
    pass_rate_from_difficulty,
    variant_difficulty,
)
from diva_grpo.trainer.method.difficulty import (
    RELEASED_BANDS,
    Band,
    BetaCounts,
    Rule,
    counts_after_visit,
    posterior_difficulty,
    posterior_parameters,
    updated_difficulty,
)

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "difficulty.json").read_text(encoding="utf-8")
)
RULES: list[Rule] = ["paper", "bands"]
DIFFICULTIES = st.floats(1, 9)
PASS_RATES = st.floats(0, 1)
COUNTS = st.builds(BetaCounts, st.floats(0, 1000), st.floats(0, 1000))


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_golden(case: dict[str, Any]) -> None:
    paper = updated_difficulty(case["old"], case["accuracy"], eta=case["eta"])
    bands = updated_difficulty(case["old_band"], case["accuracy"], rule="bands")
    assert paper == pytest.approx(case["new"], abs=1e-6)
    assert bands == pytest.approx(case["new_band"], abs=1e-6)
    assert type(paper) is type(bands) is float


def test_bands_are_those_of_the_golden_file() -> None:
    expected = [
        Band(low, high, change)
        for (low, high), change in zip(GOLDEN["bands"], GOLDEN["changes"], strict=True)
    ]
    assert list(RELEASED_BANDS) == expected


@pytest.mark.parametrize(
    ("accuracy", "change"), [(0.05, 2), (0.0501, 1), (0.3, 1), (0.3001, 0), (0.5, 0), (0.7, -1), (0.7001, -2)]
)
def test_the_first_band_that_holds_an_accuracy_wins(accuracy: float, change: int) -> None:
    assert updated_difficulty(5.0, accuracy, rule="bands") == 5 + change


def test_bands_and_limits_of_ones_own() -> None:
    bands = [Band(0.0, 0.2, 3.0)]
    assert updated_difficulty(5.0, 0.1, rule="bands", bands=bands, d_max=7.5) == 7.5
    assert updated_difficulty(5.0, 0.9, rule="bands", bands=bands) == 5.0, "no band, no change"
    assert updated_difficulty(2.0, 1.0, eta=1.0, d_min=1.8) == 1.8


@pytest.mark.parametrize("rule", RULES)
def test_arrays_of_any_shape_give_what_floats_give(rule: Rule) -> None:
    old = np.array([[1.0, 5.0, 9.0], [2.5, 4.0, 8.8]])
    accuracy = np.array([[0.0, 0.4, math.nan], [1.0, 0.05, 0.6]])

    new = updated_difficulty(old, accuracy, rule=rule)

    assert new.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert new[index] == updated_difficulty(float(old[index]), float(accuracy[index]), rule=rule)
    assert updated_difficulty(old, 0.2, rule=rule).shape == (2, 3)
    assert updated_difficulty(np.array([], float), np.array([], float), rule=rule).shape == (0,)


@pytest.mark.parametrize("rule", RULES)
@given(old=DIFFICULTIES, low=PASS_RATES, high=PASS_RATES)
def test_a_better_accuracy_never_makes_a_problem_harder(
    rule: Rule, old: float, low: float, high: float
) -> None:
    low, high = sorted((low, high))
    after_low, after_high = (updated_difficulty(old, accuracy, rule=rule) for accuracy in (low, high))
    assert 1 <= after_high <= after_low <= 9
    assert updated_difficulty(old, 0.5, rule=rule) == old


@pytest.mark.parametrize("rule", RULES)
def test_nothing_judged_leaves_the_difficulty(rule: Rule) -> None:
    assert updated_difficulty(6.3, math.nan, rule=rule) == 6.3


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, 100.0, np.array([0.5, 2.0])])
def test_an_accuracy_that_is_no_share_is_refused(accuracy: Any) -> None:
    with pytest.raises(ValueError, match="accuracy must be a share of rollouts"):
        updated_difficulty(5.0, accuracy)


def test_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match="unknown rule 'posterior'; choose one of: paper, bands"):
        updated_difficulty(5.0, 0.5, rule="posterior")  # type: ignore[call-overload]  # the mistake that is tested


@pytest.mark.parametrize(("pass_rate", "difficulty"), [(0.0, 9.0), (0.5, 5.0), (1.0, 1.0), (0.25, 7.0)])
def test_difficulty_and_pass_rate(pass_rate: float, difficulty: float) -> None:
    assert difficulty_from_pass_rate(pass_rate) == difficulty
    assert pass_rate_from_difficulty(difficulty) == pass_rate


@given(PASS_RATES)
def test_pass_rate_and_back(pass_rate: float) -> None:
    assert pass_rate_from_difficulty(difficulty_from_pass_rate(pass_rate)) == pytest.approx(
        pass_rate, abs=1e-12
    )
    array = np.array([pass_rate, 0.5])
    back = pass_rate_from_difficulty(difficulty_from_pass_rate(array))
    np.testing.assert_allclose(back, array, atol=1e-12)


def test_variant_difficulty_is_clipped() -> None:
    assert [variant_difficulty(d, delta) for d, delta in [(5.0, 2.0), (8.0, 3.0), (3.0, -8.0)]] == [7, 9, 1]
    np.testing.assert_array_equal(variant_difficulty(5.0, np.array([-8.0, 0.5, 8.0])), [1.0, 5.5, 9.0])


def test_counts_fade_before_new_rollouts_are_added() -> None:
    counts = counts_after_visit(BetaCounts(), 3, 2)
    assert counts == BetaCounts(3, 2)
    assert counts_after_visit(counts, 0, 5) == pytest.approx((2.85, 6.9))
    assert counts_after_visit(counts, 1, 1, retention=0.0) == BetaCounts(1, 1)


@given(right=st.integers(0, 16), wrong=st.integers(0, 16))
def test_fading_counts_approach_twenty_visits(right: int, wrong: int) -> None:
    counts = BetaCounts()
    for _ in range(500):
        counts = counts_after_visit(counts, right, wrong)
    assert counts == pytest.approx((20 * right, 20 * wrong))


def test_prior_is_four_rollouts_at_the_pass_rate() -> None:
    assert posterior_parameters(0.0, 0.0, 0.75) == (4.0, 2.0)
    assert posterior_parameters(10.0, 1.5, 0.0) == (11.0, 6.5)
    assert posterior_parameters(2.0, 3.0, 0.9, strength=0.0) == (3.0, 4.0)


@given(counts=COUNTS, prior=PASS_RATES)
def test_posterior_difficulty_has_the_moments_of_the_beta_distribution(
    counts: BetaCounts, prior: float
) -> None:
    beta = stats.beta(*posterior_parameters(*counts, prior))
    difficulty, uncertainty = posterior_difficulty(counts, prior)
    assert difficulty == pytest.approx(9 - 8 * beta.mean())
    assert uncertainty == pytest.approx(8 * beta.std())
    assert 1 < difficulty < 9


def test_posterior_narrows_with_evidence_and_finds_the_pass_rate() -> None:
    before = posterior_difficulty(BetaCounts(), 0.5)
    after = posterior_difficulty(BetaCounts(25, 75), 0.5)
    assert before.difficulty == 5.0
    assert after.uncertainty < before.uncertainty / 3
    assert after.difficulty == pytest.approx(7.0, abs=0.15)
