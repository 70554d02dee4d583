"""Checks that need no model: each planted fault is found by its check, and what is sound passes."""

from __future__ import annotations

from typing import Any

import pytest

from diva_grpo.pipeline.checks import check_duplicate, check_format, check_leak, normalised
from diva_grpo.schemas.records import Problem, Variant

PROBLEM = Problem(
    problem_id="p/1",
    source="p",
    split="train",
    text="A box holds 6 eggs. How many eggs are in 5 boxes?",
    answer="30",
)
FIGURE = PROBLEM.model_copy(update={"text": "<image>\nHow long is AB in <image2>?", "answer": "12"})
CHOICE = PROBLEM.model_copy(update={"text": "Which is prime?", "answer": "C", "options": ["8", "9", "seven"]})


def _text(text: str | None, kind: str = "reword", **values: Any) -> Variant:
    defaults: dict[str, Any] = {
        "variant_id": "v",
        "problem_id": "p/1",
        "kind": kind,
        "text": text,
        "generator_model": "m",
        "prompt_version": "1",
    }
    return Variant.model_validate(defaults | values)


def _hint(*steps: str, total: int = 9, problem: Problem = PROBLEM) -> Variant:
    return _text(problem.text, "think_step", hint=list(steps), hint_steps=len(steps), hint_total=total)


# --- format


@pytest.mark.parametrize(
    "text",
    [
        "How many eggs do 5 boxes of 6 hold?",
        "Ann packs 5 boxes with 6 eggs each. Of course, she counts them. How many eggs?",
        "Six eggs fit into a box. Here, 5 boxes are full. How many eggs are there?",
    ],
)
def test_sound_wording_passes(text: str) -> None:
    assert check_format(_text(text), PROBLEM).passed


@pytest.mark.parametrize(
    "text",
    [
        "Sure! How many eggs do 5 boxes of 6 hold?",
        "Here is a rewording: How many eggs do 5 boxes of 6 hold?",
        "Certainly: How many eggs do 5 boxes of 6 hold?",
        "  rewritten: How many eggs do 5 boxes of 6 hold?",
        "Variant 1: How many eggs do 5 boxes of 6 hold?",
    ],
)
def test_preamble_is_found(text: str) -> None:
    finding = check_format(_text(text), PROBLEM)
    assert finding.passed is False
    assert finding.detail is not None
    assert finding.detail.startswith("preamble")


def test_opening_of_the_original_is_no_preamble() -> None:
    original = PROBLEM.model_copy(update={"text": "Here are 5 boxes of 6 eggs. How many eggs?"})
    assert check_format(_text("Here are 5 boxes with 6 eggs in each. How many eggs?"), original).passed


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_empty_text_is_found(text: str | None) -> None:
    assert check_format(_text(text), PROBLEM).detail == "empty text"


@pytest.mark.parametrize("steps", [("",), ("One box: 6.", "  ")])
def test_empty_step_is_found(steps: tuple[str, ...]) -> None:
    assert check_format(_hint(*steps), PROBLEM).detail == "empty text"


@pytest.mark.parametrize("text", ["Eggs?", "egg " * 500])
def test_length_beyond_reason_is_found(text: str) -> None:
    assert check_format(_text(text), PROBLEM).detail == f"length {len(text)} against 49 of the original"


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("In <image2>, what is the length of AB?\n<image>", True),
        ("In <image2>, what is the length of AB?", False),
        ("<image>\nWhat is the length of AB?", False),
        ("<image>\n<image>\nIn <image2>, what is the length of AB?", False),
        ("<image>\nIn <image3>, what is the length of AB?", False),
    ],
)
def test_image_placeholders_must_all_be_there_once(text: str, passed: bool) -> None:
    assert check_format(_text(text), FIGURE).passed is passed


# --- leak


@pytest.mark.parametrize(
    "step",
    [
        "6 + 6 + 6 + 6 + 6 = 30",
        "So there are 30.",
        "30",
        "The total is 30.0 eggs",
        "that makes \\(30\\) eggs",
    ],
)
def test_hint_that_states_the_answer_leaks(step: str) -> None:
    assert check_leak(_hint("One box: 6 eggs.", step), PROBLEM).detail == "the hint states the answer '30'"


@pytest.mark.parametrize(
    "step", ["One box: 6 eggs.", "Multiply 6 by 5", "130 and 305 and 3.30 and x30 are others"]
)
def test_hint_that_does_not_state_it_passes(step: str) -> None:
    assert check_leak(_hint(step), PROBLEM).passed


def test_full_solution_may_state_the_answer() -> None:
    assert check_leak(_hint("One box: 6.", "5 * 6 = 30", total=2), PROBLEM).passed


@pytest.mark.parametrize(
    ("answer", "step", "passed"),
    [
        ("1,000", "in all 1000 eggs", False),
        ("1000", "in all 1,000 eggs", False),
        ("-4", "x = -4", False),
        ("4", "x = -4", True),
        ("0.5", "a half of it", False),
        ("0.5", "so 50% of it", False),
        ("7", "so he has seven", False),
        ("25", "twenty-five are left", False),
        ("\\frac{1}{2}", "so x = \\frac{1}{2}", False),
        ("\\frac{1}{2}", "so x = \\frac{1}{3}", True),
        ("x+1", "we get x+1.", False),
        ("x+1", "we get 2x+12.", True),
        ("Tuesday", "so it is Tuesday", False),
    ],
)
def test_answer_is_found_as_a_number_or_as_words(answer: str, step: str, passed: bool) -> None:
    problem = PROBLEM.model_copy(update={"answer": answer})
    assert check_leak(_hint(step), problem).passed is passed


@pytest.mark.parametrize(
    ("step", "passed"),
    [("A number C is prime if ...", True), ("8 and 9 are not prime", True), ("so it is seven", False)],
)
def test_choice_leaks_by_its_text_and_not_by_its_letter(step: str, passed: bool) -> None:
    assert check_leak(_hint(step, problem=CHOICE), CHOICE).passed is passed


def test_answer_in_words_does_not_stand_for_an_option() -> None:
    problem = CHOICE.model_copy(update={"answer": "Cat", "options": ["Ape", "Bee", "Dog"]})
    assert check_leak(_hint("not a Dog", problem=problem), problem).passed


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("5 boxes of 6 eggs: how many? The answer is 30.", False),
        ("5 boxes of 6 eggs: how many? Answer: 30", False),
        ("5 boxes of 6 eggs: how many? (answer = $30$)", False),
        ("5 boxes of 6 eggs: how many? \\boxed{30}", False),
        ("5 boxes of 6 eggs: how many? The answer is 30.5 or less.", True),
        ("5 boxes of 6 eggs at 30 degrees: how many eggs?", True),
        ("5 boxes of 6 eggs: how many? The answer is 300 or less.", True),
    ],
)
def test_wording_must_not_state_the_answer(text: str, passed: bool) -> None:
    assert check_leak(_text(text), PROBLEM).passed is passed


def test_wording_may_hold_what_the_original_holds() -> None:
    original = PROBLEM.model_copy(update={"text": "If the answer is 30, what was asked?"})
    assert check_leak(_text("What was asked, if the answer is 30?"), original).passed


# --- duplicate


@pytest.mark.parametrize(
    "text",
    [
        PROBLEM.text,
        "  a BOX holds 6 eggs.\nHow many eggs are in 5 boxes ? ",
        "A box holds 6 eggs. How many eggs are in 5 boxes",
    ],
)
def test_copy_of_the_original_is_found(text: str) -> None:
    assert check_duplicate(_text(text), PROBLEM, []).detail == "copy of the original"


def test_copy_of_a_sibling_is_found() -> None:
    first = _text("How many eggs do 5 boxes of 6 hold?")
    second = _text("how many eggs do 5  boxes of 6 hold")
    assert check_duplicate(second, PROBLEM, [first]).detail == "copy of a sibling"


def test_hint_with_the_text_of_the_original_is_no_copy() -> None:
    assert check_duplicate(_hint("One box: 6."), PROBLEM, [_hint("Five boxes.")]).passed


def test_hint_of_a_sibling_is_a_copy() -> None:
    assert check_duplicate(_hint("One box:  6"), PROBLEM, [_hint("one box: 6.")]).passed is False


def test_punctuation_within_a_text_counts() -> None:
    assert normalised("What is 3-4?") != normalised("What is 34?")
