"""Quantities of a text, and the check that none is lost or changed."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.pipeline.checks import check_numbers
from diva_grpo.pipeline.quantities.texts import quantities
from diva_grpo.schemas.records import Problem, Variant
from tests.bench.planted.rules import number_words


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("two hundred and five thousand, forty-two", [205_000, 42]),
        ("1,200 and 1.5 million and $80,000", [1200, 1_500_000, 80_000]),
        ("half of it, a third of it, three quarters, 3/4, 2 thirds", ["1/2", "1/3", "3/4", "3/4", "2/3"]),
        (r"$2 \frac{1}{4}$ turns, 2 1/2, two and a half, 2½", ["9/4", "5/2", "5/2", "5/2"]),
        (r"45%, $45 \%$, 45 percent, 45 per cent", ["9/20"] * 4),
        ("a dozen, half a dozen, 2 dozen", [12, 6, 24]),
        ("twice, double, thrice", [2, 2, 3]),
        ("the 3rd floor, a third friend, <image1>, A3 and x30", []),
        ("f(x)=-3.5x+7, 12-5, 12 - 5, minus five, 12 minus 5", ["-7/2", 7, 12, 5, 12, 5, -5, 12, 5]),
        ("1,2,3 and 5:6 and a 30-minute walk", [1, 2, 3, 5, 6, 30]),
        ("15!, x^2, 10 cm^2", [15, 2, 10]),
        ("1/0 and 1/2/2020", [1, 0, 1, "1/1010"]),
    ],
)
def test_numbers_are_read_however_they_are_written(text: str, values: list[int | str]) -> None:
    assert [q.value for q in quantities(text)] == [Fraction(value) for value in values]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("$5, 5 dollars, 5 cents, €5", ["dollar", "dollar", "cent", "euro"]),
        (r"$10 \mathrm{~cm}$, 10cm, 10 square centimeters", ["centimetre"] * 3),
        (r"$30^{\circ}$ and 30 degrees and 30°", ["degree"] * 3),
        ("5 m are long, 5m is a product", ["metre", None]),
        ("a 30-minute show of two hours", ["minute", "hour"]),
        ("5 apples", [None]),
    ],
)
def test_units_are_read_however_they_are_written(text: str, units: list[str | None]) -> None:
    assert [q.unit for q in quantities(text)] == units


@given(st.integers(0, 999_999))
def test_number_words_are_read_as_their_number(n: int) -> None:
    assert [q.value for q in quantities(f"There are {number_words(n)} of them.")] == [n]


@given(st.text(max_size=80))
def test_any_text_can_be_read(text: str) -> None:
    assert all(isinstance(q.value, Fraction) for q in quantities(text))


def _passes(original: str, text: str, kind: str = "reword") -> bool | None:
    problem = Problem(problem_id="p/1", source="p", split="train", text=original, answer="1")
    values = {"variant_id": "v", "problem_id": "p/1", "generator_model": "m", "prompt_version": "1"}
    return check_numbers(Variant.model_validate({**values, "kind": kind, "text": text}), problem).passed


@pytest.mark.parametrize(
    ("original", "text"),
    [
        ("3 boxes of 12 eggs", "a dozen eggs lie in each of three boxes"),
        ("20% of 50", "one fifth of fifty"),
        ("She has 3 cats. The 3 cats eat.", "Her three cats eat."),
        ("Her 3 cats eat 5 fish.", "She has 3 cats. The 3 cats eat 5 fish."),
        ("Tom is 5 and Ann is 6.", "One of them, Tom, is 5, the other one is 6."),
        ("1 hour at 60 km", "an hour at 60 km"),
        ("sides of 5 cm and 7 cm", "sides of 5 and 7 centimetres"),
        ("Tom has 5, Ann has 6.", "The two of them have 5 and 6."),
        ("It costs $5 each.", "Each costs 5 dollars."),
        ("$3$ circles of radius $2$", r"\(3\) circles of radius \(2\)"),
    ],
)
def test_same_quantities_in_other_words_pass(original: str, text: str) -> None:
    assert _passes(original, text)


@pytest.mark.parametrize(
    ("original", "text"),
    [
        ("3 boxes of 12 eggs", "3 boxes of 13 eggs"),
        ("3 boxes of 12 eggs", "3 boxes of eggs"),
        ("twice as many as 5", "three times as many as 5"),
        ("twice as many as 5", "half as many as 5"),
        ("20% of 50", "20 of 50"),
        ("3 and 3 and 5", "3 and 5 and 5"),
        ("3 boxes of 12 eggs", "3 boxes of 12 eggs in 4 rows"),
        ("a side of 5 cm", "a side of 5 m"),
        ("1 m by 1 m", "1 m by 1 cm"),
        ("a side of 5 cm", "a side of 5"),
        ("$5 each", "5 cents each"),
        ("-3 degrees", "3 degrees"),
    ],
)
def test_lost_changed_and_new_numbers_and_units_are_found(original: str, text: str) -> None:
    assert _passes(original, text) is False


def test_harder_text_may_add_numbers_and_must_not_change_any() -> None:
    assert _passes("3 boxes of 12 eggs", "3 boxes of 12 eggs in 1987", "harder")
    assert _passes("3 boxes of 12 eggs", "4 boxes of 12 eggs in 1987", "harder") is False
    assert _passes("3 rows of 3", "3 rows of 4 in 1987", "harder") is False


def test_think_steps_are_exempt() -> None:
    assert _passes("3 boxes of 12 eggs", "3 boxes", "think_step")
