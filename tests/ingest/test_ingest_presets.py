"""Known data sets by their presets, and real problems."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.pipeline.ingest import IngestReport, RowError, ingest, split_gsm8k
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.mapping import PRESETS
from diva_grpo.schemas.records import Problem
from tests.support.source_files import png, rejects, write_jsonl, write_parquet


def test_gsm8k_row_without_a_marker_is_rejected(store: VariantStore, folder: Path) -> None:
    content = [
        {"question": "1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
        {"question": "2 + 2?", "answer": "2 + 2 = 4"},
        {"question": "3 + 3?", "answer": "3 + 3 = 6\n####"},
    ]
    source = write_jsonl(folder / "problems.jsonl", content)
    assert ingest(store, source, PRESETS["gsm8k"]) == IngestReport(1, 0, 2)
    assert rejects(store) == {
        2: "no answer: the solution has no '####'",
        3: "no answer: nothing follows '####'",
    }
    assert store.read(Problem)[0].source == "gsm8k"


def test_mathvision_as_the_hub_stores_it(store: VariantStore, folder: Path) -> None:
    row = {
        "id": "12",
        "question": "How do you get <image1> from <image2>?",
        "options": ["P", "T"],
        "image": "images/12.jpg",
        "decoded_image": {"bytes": png(), "path": "12.jpg"},
        "answer": "B",
        "solution": None,
        "level": 3,
        "subject": "topology",
    }
    plain = {**row, "id": "13", "question": "How many?\n<image1>", "options": [], "answer": "4"}
    source = write_parquet(folder / "test-00000-of-00001.parquet", [row, plain])
    assert ingest(store, source, PRESETS["mathvision"]) == IngestReport(2, 0, 0)
    first, second = store.read(Problem)
    assert (first.problem_id, first.split, first.human_level, first.answer) == (
        "mathvision/12",
        "test",
        3.0,
        "B",
    )
    # Its one picture shows both figures, each with its label.
    assert first.text == "<image>\nHow do you get [image1] from [image2]?"
    assert second.text == "How many?\n<image1>"
    assert len(first.images) == len(second.images) == 1


def test_sharevl_reads_its_columns(store: VariantStore, folder: Path) -> None:
    row = {"id": "a-1", "problem": "<image>What?", "answer": "4", "images": [{"bytes": png(), "path": None}]}
    source = write_parquet(folder / "r1.parquet", [row])
    assert ingest(store, source, PRESETS["sharevl"]) == IngestReport(1, 0, 0)
    assert store.read(Problem)[0].problem_id == "sharevl/a-1"


_STEP = st.text(
    st.characters(codec="utf-8", exclude_characters="<>#", exclude_categories=["C", "Z"]), min_size=1
)
_CALCULATION = st.from_regex(r"<<[0-9+*/=.-]{0,12}>>", fullmatch=True)


@st.composite
def solutions(draw: st.DrawFn) -> tuple[str, list[str], int]:
    """A GSM8K answer, its steps without annotations, and the number that it ends with."""
    steps = draw(st.lists(_STEP, max_size=6))
    lines = []
    for step in steps:
        cut = draw(st.integers(0, len(step)))
        lines.append(step[:cut] + draw(_CALCULATION) + step[cut:] + draw(st.sampled_from(["", " ", "\n"])))
    answer = draw(st.integers(-(10**12), 10**12))
    written = f"{answer:,}" if draw(st.booleans()) else str(answer)
    return "\n".join([*lines, f"#### {written}"]), steps, answer


@given(solutions())
def test_gsm8k_solutions_come_apart(solution: tuple[str, list[str], int]) -> None:
    text, steps, answer = solution
    assert split_gsm8k(text) == (steps, str(answer))


@given(st.text())
def test_gsm8k_parser_takes_any_text(text: str) -> None:
    try:
        steps, answer = split_gsm8k(text)
    except RowError:
        assert not text.rpartition("####")[1] or not text.rpartition("####")[2].strip()
    else:
        assert answer
        assert all(step and step == step.strip() for step in steps)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("1,234,567", "1234567"),
        ("-2,000.5", "-2000.5"),
        ("$1,000", "$1000"),
        ("1,2,3", "1,2,3"),
        ("12,34", "12,34"),
    ],
)
def test_only_thousands_separators_go(written: str, answer: str) -> None:
    assert split_gsm8k(f"so\n#### {written}")[1] == answer


# --- real data


def test_real_gsm8k_all_in_with_steps(store: VariantStore, real_data: Path) -> None:
    source = str(real_data / "gsm8k" / "problems.jsonl")
    assert ingest(store, source, PRESETS["gsm8k"]) == IngestReport(added=500, already_there=0, rejected=0)
    problems = store.read(Problem)
    assert all(problem.solution_steps for problem in problems)
    assert not any("<<" in step for problem in problems for step in problem.solution_steps)
    assert all(float(problem.answer) == int(float(problem.answer)) for problem in problems)
    assert ingest(store, source, PRESETS["gsm8k"]) == IngestReport(added=0, already_there=500, rejected=0)


def test_real_mathvision_all_in_with_images(store: VariantStore, real_data: Path) -> None:
    source = str(real_data / "mathvision" / "problems.jsonl")
    assert ingest(store, source, PRESETS["mathvision"]) == IngestReport(200, 0, 0)
    problems = store.read(Problem)
    assert all(len(problem.images) == 1 for problem in problems)
    assert all(store.image_path(problem.images[0].hash).exists() for problem in problems)
    assert all(
        len(problem.answer) == 1 and problem.answer in "ABCDE" for problem in problems if problem.options
    )
    assert {problem.human_level for problem in problems} == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert sum(bool(problem.solution_steps) for problem in problems) == 36
