"""Problems that come with variants, as the authors' released code writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.ingest import IngestReport, ingest
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import VerifyConfig
from diva_grpo.schemas.mapping import PRESETS
from diva_grpo.schemas.records import Problem, Variant
from tests.support.endpoints import Endpoint, serving
from tests.support.planted_variants import RIGHT, teacher_of
from tests.support.sessions import verify
from tests.support.source_files import png, rejects, write_parquet

TEXT = "Tom has 3 apples. He buys 4 more. How many apples has he now?"
WORDINGS = [
    "Tom owns 3 apples and buys another 4. How many has he in the end?",
    "With 3 apples at first, Tom gets 4 more at a shop. What is his number of apples?",
]
STEPS = [
    "At first there are 3 apples.",
    "The 4 new ones are added to them.",
    "So there are 3 + 4 = 7 apples.",
]


def released(**values: Any) -> dict[str, Any]:
    """A row as the README of the release documents it."""
    row = {"problem": TEXT, "answer": "7", "variants": WORDINGS, "think_steps": STEPS, "think_answer": "7"}
    return {**row, **values}


def internal(**values: Any) -> dict[str, Any]:
    """A row in the columns that its training code reads and its merging scripts write."""
    row = {
        "id": "a-1",
        "problem": f"<image>{TEXT}",
        "answer": "7",
        "subject": "others",
        "images": {"bytes": png(30, 30), "path": ""},
        "difficulty": 5,
        "category": "origin_problem",
        "step1": [""],
        "step2": STEPS,
        "answer1": "",
        "answer2": "7",
        "correct_think": True,
        "variant": [f"As shown in the figure <image>. {text}" for text in WORDINGS],
    }
    return {**row, **values}


def taken(store: VariantStore, tmp_path: Path, rows: list[dict[str, Any]], **update: Any) -> IngestReport:
    source = write_parquet(tmp_path / "augmented.parquet", rows)
    return ingest(store, source, PRESETS["diva"].model_copy(update=update))


def test_the_documented_columns(store: VariantStore, tmp_path: Path) -> None:
    report = taken(store, tmp_path, [released()], generator_model="o3")
    assert (report.added, report.rejected, report.variants) == (1, 0, 5)
    variants = store.read(Variant)
    assert {v.status for v in variants} == {"candidate"}
    assert {(v.generator_model, v.prompt_version) for v in variants} == {("o3", "ingested")}
    assert sorted(v.text for v in variants if v.kind == "reword" and v.text) == sorted(WORDINGS)
    hints = sorted((v for v in variants if v.kind == "think_step"), key=lambda v: v.hint_steps or 0)
    assert [(v.hint, v.hint_total, v.solution_answer, v.delta_designed) for v in hints] == [
        (STEPS[:1], 3, "7", -2.0),
        (STEPS[:2], 3, "7", -4.0),
        (STEPS, 3, "7", -8.0),
    ]
    assert {v.text for v in hints} == {TEXT}


def test_the_older_columns_with_an_image(store: VariantStore, tmp_path: Path) -> None:
    report = taken(store, tmp_path, [internal()])
    assert (report.added, report.variants) == (1, 5)
    problem = store.read(Problem)[0]
    assert (problem.problem_id, problem.human_level, len(problem.images)) == ("diva/a-1", None, 1)
    assert {v.generator_model for v in store.read(Variant)} == {"diva"}
    assert "As shown in the figure <image>. Tom owns" in " ".join(v.text or "" for v in store.read(Variant))


def test_a_solution_that_the_source_calls_wrong_is_rejected_with_its_reason(
    store: VariantStore, tmp_path: Path
) -> None:
    taken(store, tmp_path, [internal(correct_think=False, answer2="8")])
    rows = store.query("SELECT kind, status, reason, count(*) FROM variants GROUP BY ALL ORDER BY ALL")
    assert rows == [
        ("reword", "candidate", None, 2),
        ("think_step", "rejected", "answer: the source says that the solution is wrong", 3),
    ]


@pytest.mark.parametrize("nothing", [{"variant": [""], "step2": [""]}, {"variant": [], "step2": None}])
def test_where_there_is_nothing_there_is_only_the_problem(
    store: VariantStore, tmp_path: Path, nothing: dict[str, Any]
) -> None:
    report = taken(store, tmp_path, [internal(**nothing), internal(id="a-2")])
    assert (report.added, report.rejected, report.variants) == (2, 0, 5)


def test_a_wording_twice_or_that_of_the_problem_is_none(store: VariantStore, tmp_path: Path) -> None:
    report = taken(
        store, tmp_path, [released(variants=[WORDINGS[0], WORDINGS[0], TEXT, "", None], think_steps=[])]
    )
    assert report.variants == 1


def test_bad_rows_become_rejects(store: VariantStore, tmp_path: Path) -> None:
    rows = [released(), released(answer=""), released(problem=f"{TEXT} ", variants=["x"])]
    rows[2]["problem"] = TEXT  # the same content, so the same id
    report = taken(store, tmp_path, rows)
    assert (report.added, report.rejected, report.variants) == (1, 2, 5)
    assert rejects(store)[2].startswith("no answer")
    assert rejects(store)[3].startswith("duplicate id")


def test_a_column_of_another_kind_is_a_reject(store: VariantStore, tmp_path: Path) -> None:
    report = taken(store, tmp_path, [released(variants="not a list")])
    assert (report.added, report.rejected, report.variants) == (0, 1, 0)
    assert "the column 'variants' is not a list" in rejects(store)[1]


def test_a_second_reading_adds_nothing_and_an_interrupted_one_is_completed(
    store: VariantStore, tmp_path: Path
) -> None:
    taken(store, tmp_path, [released()])
    before = set(store.root.rglob("*.parquet"))
    again = taken(store, tmp_path, [released()])
    assert (again.already_there, again.variants) == (1, 0)
    assert set(store.root.rglob("*.parquet")) == before
    for part in before:
        if part.parent.name == "variants" and part.name in store.variant_parts()[1:]:
            part.unlink()  # as if the process had died between the problems and their variants
    completed = taken(store, tmp_path, [released()])
    assert (completed.already_there, completed.variants) == (1, 5)


def test_none_is_accepted_unchecked_and_a_verdict_is_not_undone(store: VariantStore, tmp_path: Path) -> None:
    rows = [released(variants=[*WORDINGS, "The answer is 7, is it not?"])]
    taken(store, tmp_path, rows)
    assert store.query("SELECT count(*) FROM variants WHERE status = 'accepted'") == [(0,)]
    with serving(Endpoint(RIGHT)) as served:
        verify(store, teacher_of(served), VerifyConfig())
    counts = dict(store.query("SELECT status, count(*) FROM variants GROUP BY 1"))
    assert counts["accepted"] >= 2
    assert counts["rejected"] >= 1
    assert taken(store, tmp_path, rows).variants == 0
    assert dict(store.query("SELECT status, count(*) FROM variants GROUP BY 1")) == counts


def test_by_the_command(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "augmented.parquet", [released()])
    arguments = [
        "ingest",
        source,
        "--preset",
        "diva",
        "--generator-model",
        "o3",
        "--store",
        str(tmp_path / "s"),
    ]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "1 problems added" in result.output
    assert "5 variants, to be checked by `diva verify`" in result.output
