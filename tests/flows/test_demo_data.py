"""The project's own problems, their rewordings by template, and the demo's model."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from diva_grpo.flows.demo.wordings import harder, rewordings, split_question

DATA = Path(__file__).parents[2] / "data"

NUMBER = re.compile(r"\d+(?:\.\d+)?")
PLACEHOLDER = re.compile(r"<image\d*>")
STEP = re.compile(r"(-?\d+) ([+-]) (\d+) = (-?\d+)")
EQUATION = re.compile(r"(?<![\d.,*/x+-])(?<![*/x+-] )((?:[\d.,]+ ?[-+*/x×÷] ?)+[\d.,]*\d) ?= ?([\d.,]*\d)")

Model = tuple[Any, Any]  # a causal language model and its tokenizer

expressions = st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(0, 999)), min_size=1, max_size=8).map(
    lambda tail: "7" + "".join(f" {sign} {term}" for sign, term in tail)
)
one_liners = st.builds(
    str.format,
    st.sampled_from(["What is {}?", "Compute {}.", "Find the value of {}.", "{} =", "Work out {}"]),
    expressions,
)
sentences = st.lists(
    st.sampled_from(
        ["Mr. Lee", "has", "2.5", "kg", "of", "rice", "17", "cats", "<image1>", "and", "<image2>", "$x^2$"]
    ),
    min_size=1,
    max_size=8,
).map(" ".join)
word_problems = st.builds(
    lambda told, asked, separator, mark: separator.join(
        [*(f"{sentence}." for sentence in told), asked + mark]
    ),
    st.lists(sentences, max_size=4),
    sentences,
    st.sampled_from([" ", "\n", "  "]),
    st.sampled_from(["?", ".", "", "? A. 5 cats B. 6 cats"]),
)
any_text = st.text(min_size=1).filter(str.strip)


def numbers(text: str) -> Counter[str]:
    return Counter(NUMBER.findall(text))


def jsonl(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@given(one_liners | word_problems)
@example("<image>\nWhat is the perimeter?")
@example("Noor has <image1>. How many more than <image2> are there?")
def test_rewordings_keep_numbers_and_the_order_of_images(text: str) -> None:
    for wording in rewordings(text):
        assert numbers(wording) == numbers(text)
        assert PLACEHOLDER.findall(wording) == PLACEHOLDER.findall(text)


@given(one_liners | word_problems | any_text)
@example("What number does 12 + 34 give?")
@example("A student was asked this: What is 12 + 34?")
def test_there_are_five_distinct_rewordings_and_two_distinct_harder_texts(text: str) -> None:
    assert len({text, text.strip(), *rewordings(text)} - {text, text.strip()}) == 5
    assert len({text, text.strip(), *harder(text)} - {text, text.strip()}) == 2
    assert rewordings(text) == rewordings(text)


@given(one_liners | word_problems)
def test_harder_texts_lose_no_number_and_no_image(text: str) -> None:
    distracted, story = harder(text)
    assert (numbers(distracted) - numbers(text)).total() == 1
    assert not numbers(text) - numbers(distracted)
    assert numbers(story) == numbers(text)
    for wording in (distracted, story):
        assert PLACEHOLDER.findall(wording) == PLACEHOLDER.findall(text)


def test_bare_arithmetic_is_asked_for_in_natural_words() -> None:
    assert rewordings("What is 12 + 34 - 5?") == [
        "What is the value of 12 + 34 - 5?",
        "Calculate 12 + 34 - 5.",
        "Work out 12 + 34 - 5.",
        "Find the value of 12 + 34 - 5.",
        "What number does 12 + 34 - 5 give?",
    ]
    assert "What is the value of 12 + 34?" not in rewordings("What is the value of 12 + 34?")
    long_form = "State the final answer to the following arithmetic problem: 12 + 34 ="
    assert rewordings(long_form)[1] == "Calculate 12 + 34."


def test_a_unit_behind_the_expression_is_kept() -> None:
    assert all("3 apples" in wording for wording in rewordings("How many apples are 12 + 3 apples?"))


@pytest.mark.parametrize(
    ("text", "body", "question"),
    [
        ("Mr. Lee has 2.5 kg. How much is left?", "Mr. Lee has 2.5 kg.", "How much is left?"),
        ("It is 9 p.m. now. How late is Dr. Ray?", "It is 9 p.m. now.", "How late is Dr. Ray?"),
        (
            "Ann has 3 cats. How many? Do not include units.",
            "Ann has 3 cats.",
            "How many? Do not include units.",
        ),
        ("<image>\nFind x.", "<image>", "Find x."),
        ("What is 1 + 2?", "", "What is 1 + 2?"),
    ],
)
def test_the_question_is_split_off(text: str, body: str, question: str) -> None:
    assert split_question(text) == (body, question)


def test_a_question_is_moved_before_its_facts_unless_an_image_is_in_the_way() -> None:
    assert "Question: How many? Known facts: Ann has 3 cats." in rewordings("Ann has 3 cats. How many?")
    assert not any(w.startswith("Question:") for w in rewordings("See <image>. How many are in <image>?"))


@pytest.mark.parametrize("function", [rewordings, harder])
def test_a_blank_text_is_refused(function: Callable[[str], list[str]]) -> None:
    with pytest.raises(ValueError, match="blank"):
        function(" \n")


def test_the_committed_problems_are_what_the_script_writes() -> None:
    script = [sys.executable, str(DATA / "scripts" / "make_problems.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_sees_a_changed_file(tmp_path: Path) -> None:
    for name in ("word_problems.jsonl", "sums_train.parquet", "sums_test.parquet", "figures.jsonl"):
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
    (tmp_path / "figures").mkdir()
    for path in (DATA / "figures").glob("*.png"):
        (tmp_path / "figures" / path.name).write_bytes(path.read_bytes())
    with Image.open(tmp_path / "figures" / "figure-02.png") as figure:
        changed = figure.convert("RGB")
    changed.putpixel((5, 5), (1, 2, 3))
    changed.save(tmp_path / "figures" / "figure-02.png")
    table = pq.read_table(tmp_path / "sums_test.parquet")
    pq.write_table(table.slice(1), tmp_path / "sums_test.parquet")
    (tmp_path / "figures" / "figure-03.png").unlink()
    (tmp_path / "figures" / "stray.png").touch()
    script = [
        sys.executable,
        str(DATA / "scripts" / "make_problems.py"),
        "--check",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "figures/stray.png: not written by this script",
        "figures/figure-02.png: differs",
        "figures/figure-03.png: missing",
        "sums_test.parquet: differs",
    ]


def test_word_problems_end_in_their_answer_and_their_equations_hold() -> None:
    problems = jsonl("word_problems.jsonl")
    assert len(problems) == len({problem["question"] for problem in problems}) == 120
    checked = 0
    for problem in problems:
        *steps, last = problem["answer"].split("\n")
        assert re.fullmatch(r"#### \d+", last)
        assert last.removeprefix("#### ") in NUMBER.findall(steps[-1].replace(",", ""))
        for left, right in EQUATION.findall(re.sub(r"[£€$]", "", "\n".join(steps))):
            assert math.isclose(value(left), float(right.replace(",", ""))), left
            checked += 1
    assert checked > 200


def value(expression: str) -> float:
    """Evaluate digits and the four operations, as they are written in worked solutions."""
    plain = expression.replace(",", "").replace("x", "*").replace("×", "*").replace("÷", "/")
    assert re.fullmatch(r"[\d.+*/ -]+", plain)
    return float(eval(plain))


def test_the_steps_of_sums_follow_from_each_other() -> None:
    train, test = (pq.read_table(DATA / f"sums_{split}.parquet").to_pylist() for split in ("train", "test"))
    assert not {row["problem"] for row in train} & {row["problem"] for row in test}
    assert len({row["problem"] for row in train + test}) == 800
    assert Counter(row["terms"] > 5 for row in train) == {True: 300, False: 300}
    assert {row["terms"] for row in test} == {6, 7, 8}
    for row in train + test:
        terms = re.findall(r"\d+", row["problem"])
        assert len(terms) == row["terms"] == len(row["steps"]) + 1
        total, *others = terms
        for step, term in zip(row["steps"], others, strict=True):
            match = STEP.fullmatch(step)
            assert match is not None
            left, sign, right, result = match.groups()
            assert (left, right) == (total, term)
            assert int(left) + int(sign + right) == int(result)
            total = result
        assert total == row["answer"]


def test_figures_are_small_and_whole() -> None:
    records = jsonl("figures.jsonl")
    assert Counter(record["params"]["family"] for record in records) == {
        "geometry": 20,
        "charts": 20,
        "counting": 20,
    }
    total = 0
    for record in records:
        assert PLACEHOLDER.findall(record["problem"]) == ["<image>"]
        assert record["answer"] in NUMBER.findall(record["steps"][-1])
        (path,) = record["images"]
        total += (DATA / path).stat().st_size
        with Image.open(DATA / path) as image:
            image.load()
            assert max(image.size) <= 320
            assert len(image.getcolors() or []) > 3
    assert total < 300_000


@pytest.fixture(scope="module")
def demo_model() -> Model:
    """The demo's model and tokenizer, loaded with the network ruled out."""
    transformers = pytest.importorskip("transformers")
    folder = DATA / "demo_model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model, tokenizer


def test_the_demo_model_is_small() -> None:
    assert sum(path.stat().st_size for path in (DATA / "demo_model").iterdir()) < 3_000_000


@given(st.text())
@example("Janet’s ducks lay 16 eggs\tper day.  What is x = 3 + 4? ½ 算 <image>\r\n")
def test_any_text_comes_back_from_the_demo_tokenizer(demo_model: Model, text: str) -> None:
    tokenizer = demo_model[1]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_sums_make_short_prompts(demo_model: Model) -> None:
    tokenizer = demo_model[1]
    for row in pq.read_table(DATA / "sums_test.parquet").to_pylist():
        for text in [row["problem"], *rewordings(row["problem"]), *harder(row["problem"])]:
            assert len(tokenizer.encode(text + "\n")) <= 48
        opening = "\n".join(row["steps"])
        joined = tokenizer.encode(f"{row['problem']}\n{opening}")
        assert joined == tokenizer.encode(f"{row['problem']}\n") + tokenizer.encode(opening)


def test_hints_raise_the_demo_models_pass_rate(demo_model: Model) -> None:
    torch = pytest.importorskip("torch")
    model, tokenizer = demo_model
    rows = pq.read_table(DATA / "sums_test.parquet").slice(0, 64).to_pylist()

    def right(prompts: list[str]) -> int:
        torch.manual_seed(0)
        batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        tokens = model.generate(**batch, do_sample=True, top_k=0, max_new_tokens=112)
        texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return sum(t.rpartition("#### ")[2] == row["answer"] for t, row in zip(texts, rows, strict=True))

    plain = right([row["problem"] + "\n" for row in rows])
    opened = right(
        [row["problem"] + "\n" + "".join(step + "\n" for step in row["steps"][:-1]) for row in rows]
    )
    assert 0 < plain < opened < 64
