"""Language, LaTeX, near duplicates and evaluation sets."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diva_grpo.pipeline.checks import (
    EvaluationSets,
    OtherProblems,
    check_format,
    check_leak,
    read_evaluation_sets,
)
from diva_grpo.pipeline.checks.answer import false_equation
from diva_grpo.pipeline.checks.duplicate import nearly_equal
from diva_grpo.pipeline.checks.language import foreign_part
from diva_grpo.pipeline.quantities.latex import has_math_dollars, imbalance
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError, SourceError
from diva_grpo.schemas.records import Image, Problem, Variant

ENGLISH = "Natalia sold clips to 48 of her friends, and then she sold half as many in May. How many clips?"


def _problem(text: str, **values: object) -> Problem:
    made = {"problem_id": "p/1", "source": "p", "split": "train", "text": text, "answer": "1"}
    return Problem.model_validate(made | values)


def _variant(text: str, kind: str = "reword", **values: object) -> Variant:
    made = {"variant_id": "v", "problem_id": "p/1", "generator_model": "m", "prompt_version": "1"}
    return Variant.model_validate({**made, "kind": kind, "text": text, **values})


# --- language


@pytest.mark.parametrize(
    "text",
    [
        "Natalia verkaufte 48 Clips an ihre Freunde, und im Mai halb so viele. Wie viele Clips?",
        "Natalia vendió clips a 48 de sus amigos y luego la mitad en mayo. ¿Cuántos clips vendió?",
        "娜塔莉亚卖给48个朋友发夹，五月卖了一半。一共多少？",
        "Natalia sold clips to 48 of her friends, and then half as many in May. Combien de clips a-t-elle vendus ?",
        "Natalia sold clips to 48 of her friends, and then half as many in May. 一共有多少个发夹？",
    ],
)
def test_another_language_is_found_also_in_one_sentence(text: str) -> None:
    finding = check_format(_variant(text), _problem(ENGLISH))
    assert (finding.detail or "").startswith("language: ")


@pytest.mark.parametrize(
    ("original", "text"),
    [
        ("小明有3个苹果，又买了4个。他现在有几个苹果？", "小明买了4个苹果，原来有3个。现在一共有几个苹果？"),
        (r"Compute $\alpha+\beta$ for α = 2.", r"Find the value of $\alpha+\beta$ where α is 2."),
        (
            ENGLISH,
            "See https://example.org/aufgaben/wie-viele-eier-hat-sie for the picture. How many clips are sold?",
        ),
        (
            "Was ist „Nachhaltigkeit“ in the German text of Anna?",
            "In Anna's German text: was ist „Nachhaltigkeit“?",
        ),
    ],
)
def test_languages_and_signs_of_the_original_pass(original: str, text: str) -> None:
    assert foreign_part(text, original) is None


# --- LaTeX


@pytest.mark.parametrize(
    "text",
    [
        r"\(x",
        r"x\)",
        r"\[ x \)",
        r"\frac{1}{2",
        r"}{",
        r"\begin{cases} x \end{matrix}",
        "a side of $3",
        "$x$ and $y",
    ],
)
def test_latex_that_does_not_balance_is_found(text: str) -> None:
    assert imbalance(text, dollars=True)


@pytest.mark.parametrize(
    "text",
    [
        r"\(x\) and \[y\]",
        r"\{1, 2\} and \frac{1}{2}",
        r"\begin{cases} x \\[2pt] y \end{cases}",
        r"$x$ for \$5",
        "$x$",
    ],
)
def test_latex_that_balances_passes(text: str) -> None:
    assert imbalance(text, dollars=True) is None


@pytest.mark.parametrize(
    ("text", "mathematics"),
    [
        ("She pays $5 for eggs and $10 for milk.", False),
        ("It costs $5, $10 or $15.", False),
        ("between $5-$10", False),
        ("A side of $3$ and $AB = 12$", True),
        (r"$10 \mathrm{~cm}$ long", True),
        ("Point $ A$ lies on $ BC$.", True),
    ],
)
def test_dollars_are_mathematics_or_money(text: str, mathematics: bool) -> None:
    assert has_math_dollars(text) is mathematics


def test_money_of_a_text_without_latex_needs_no_partner() -> None:
    assert check_format(
        _variant("For $5 Ann buys eggs. How much is left?"), _problem("Ann pays $5. What is left?")
    ).passed


# --- preamble


@pytest.mark.parametrize(
    "text",
    [
        "Here are 5 boxes with 6 eggs each. How many eggs?",
        "Here is Tom with 5 boxes of 6 eggs. How many eggs?",
        "Well water fills 5 jugs of 6 litres. How many litres?",
        "Right triangles have 3 sides. How many have 5 of 6 of them?",
        "Great Falls has 5 parks with 6 trees. How many trees?",
        "Answer this: how many eggs are in 5 boxes of 6?",
    ],
)
def test_honest_opening_is_no_preamble(text: str) -> None:
    assert check_format(_variant(text), _problem("A box holds 6 eggs. How many eggs are in 5 boxes?")).passed


# --- leak of a choice

CHOICE = _problem("<image>\nWhich figure is it?", answer="C")


@pytest.mark.parametrize(
    ("step", "passed"),
    [
        ("So the answer is C.", False),
        ("We choose (C).", False),
        ("Figure C fits.", False),
        (r"\boxed{C}", False),
        ("Call the corner C, and AC the line.", True),
        ("A choice between two ways.", True),
    ],
)
def test_hint_must_not_name_the_choice(step: str, passed: bool) -> None:
    hint = _variant(CHOICE.text, "think_step", hint=[step], hint_steps=1, hint_total=3)
    assert check_leak(hint, CHOICE).passed is passed


# --- false equations


@pytest.mark.parametrize(
    ("step", "wrong"),
    [
        ("He has 2 + 3 = 4 apples.", "2 + 3 = 4"),
        ("3.75 / .75 = 51", "3.75 / .75 = 51"),
        ("So $10,000 + 5400 = $15,4001.", "$10,000 + 5400 = $15,4001"),
        ("10 / 3 = 5", "10 / 3 = 5"),
        ("10 / 3 = 3.33 each, 2 * (3 + 4) = 14", None),
        ("5% of 20 * 3 = 3", None),
        ("x + 3 = 4, and 2 * 3 = 6x", None),
        ("a * 3 + 4 = 5 and 1/0 = 3", None),
    ],
)
def test_false_equations_between_numbers_are_found(step: str, wrong: str | None) -> None:
    assert false_equation(step) == wrong


# --- near duplicates


@pytest.mark.parametrize(
    "other",
    [
        ENGLISH.replace("friends", "freinds"),
        ENGLISH.replace("sold clips", "just sold clips"),
        ENGLISH.replace("then ", ""),
        f"**{ENGLISH}**",
    ],
)
def test_small_edits_make_a_near_duplicate(other: str) -> None:
    assert nearly_equal(other, ENGLISH)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ENGLISH, f"Solve the following problem. {ENGLISH}"),
        ("Calculate 12 + 34 - 5.", "Compute 12 + 34 - 5."),
        (ENGLISH, "In May, Natalia sold half as many clips as before to 48 friends. How many were sold?"),
    ],
)
def test_framed_and_rewritten_texts_are_none(one: str, other: str) -> None:
    assert not nearly_equal(one, other)


def test_near_duplicate_of_another_problem_needs_its_numbers_picture_and_answer() -> None:
    others = OtherProblems()
    picture = [Image(hash="a", width=1, height=1)]
    others.add([(_problem(ENGLISH, problem_id="p/2", images=picture), ENGLISH)])
    copy = f"Please read: {ENGLISH}"
    assert others.like(copy, _problem(ENGLISH, images=picture)) == "p/2"
    assert others.like(copy, _problem(ENGLISH, problem_id="p/2", images=picture)) is None, "its own problem"
    assert others.like(copy, _problem(ENGLISH)) is None
    assert others.like(copy, _problem(ENGLISH, images=picture, answer="2")) is None
    assert others.like(copy.replace("48", "49"), _problem(ENGLISH, images=picture)) is None


# --- evaluation sets


@pytest.mark.parametrize(
    ("question", "text", "shared"),
    [
        (ENGLISH, f"Think. {ENGLISH} Explain.", True),
        (ENGLISH, ENGLISH.replace("friends", "pals").replace("half", "twice"), False),
        (
            "How many different digits can you find in it?",
            "Say how many different digits can you find in it?",
            True,
        ),
        ("What is 3 + 4?", "What is 3 + 4?", True),
        ("What is 3 + 4?", "What is 3 + 4 when doubled?", False),
        ("<image1>\nWhich figure is the net?", "Which figure is the net? <image1>", True),
    ],
)
def test_shared_runs_of_words_are_found(question: str, text: str, shared: bool) -> None:
    assert (EvaluationSets([("set", question)]).shared(text) is not None) is shared


def test_evaluation_sets_are_read_from_files_and_stores(tmp_path: Path, store: VariantStore) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": ENGLISH}) + "\n" + json.dumps({"id": 2}) + "\n")
    pq.write_table(
        pa.table({"question": ["What is the sum of the first ninety-nine odd numbers?"]}),
        tmp_path / "b.parquet",
    )
    sets = read_evaluation_sets([str(tmp_path / "a.jsonl"), str(tmp_path / "b.parquet"), str(store.root)])
    assert len(sets) == 1 + 1 + 5
    assert (sets.shared("Ann reads 12 pages a day. How many pages in 3 days?") or ("",))[0] == str(store.root)


def test_evaluation_sets_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file or folder"):
        read_evaluation_sets([str(tmp_path / "none.jsonl")])
    (tmp_path / "c.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ConfigError, match="no row has a question"):
        read_evaluation_sets([str(tmp_path / "c.jsonl")])
