"""Layouts as they are published, by the command; and the table of them in the docs."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.export import export
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.ingest.sources import _hub_parts
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import ExportConfig
from diva_grpo.schemas.exceptions import SourceError
from diva_grpo.schemas.records import Problem
from tests.support.source_files import rejects, write_jsonl, write_parquet
from tests.support.source_layouts import CASES, FIGURE, ROWS, TEXTS, Case, table

ROOT = Path(__file__).parents[2]


def diva(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.title} ({case.file})")
def test_a_layout_is_recognised_and_said(tmp_path: Path, folder: Path, case: Case) -> None:
    result = diva("ingest", case.write(folder), *case.flags, "--store", tmp_path / "store")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(case.says)
    problems = VariantStore(tmp_path / "store").read(Problem)
    assert {(problem.text, problem.answer) for problem in problems} == set(case.expected)
    if case.images:
        assert [len(problem.images) for problem in problems] == [case.images] * len(problems)


def test_the_table_of_the_docs_is_up_to_date() -> None:
    assert (ROOT / "docs" / "layouts.md").read_text("utf-8") == table(), (
        "python -m tests.support.source_layouts"
    )


@pytest.mark.parametrize("preset", [None, "trl", "verl", "easyr1", "sft"])
def test_our_own_exports_come_back_in(tmp_path: Path, preset: str | None) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    solved = [{**row, "solution": f"It is {row['answer']}."} for row in ROWS]
    ingest(store, write_jsonl(tmp_path / "mine.jsonl", solved))
    export(store, tmp_path / "out.parquet", ExportConfig.model_validate({"preset": preset}))
    other = VariantStore(tmp_path / "other", create=True)
    assert ingest(other, str(tmp_path / "out.parquet")).added == 2
    assert {(problem.text, problem.answer) for problem in other.read(Problem)} == set(TEXTS)


def test_a_column_of_images_that_is_not_read_is_named(tmp_path: Path, folder: Path) -> None:
    source = write_parquet(folder / "mine.parquet", [{**ROWS[0], "figure": FIGURE}])
    result = diva("ingest", source, "--store", tmp_path / "store")
    assert result.exit_code == 0
    assert "--images-column figure" in result.stderr
    read = diva("ingest", source, "--images-column", "figure", "--store", tmp_path / "other")
    assert "not read" not in read.stderr


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("default/test/0000.parquet", "test"),
        ("gsm8k_test.parquet", "test"),
        ("geoqa-test.parquet", "test"),
        ("testset/a.parquet", "test"),
        ("validation-00000-of-00001.parquet", "validation"),
        ("latest/contest.parquet", "train"),
        ("train_test.parquet", "train"),
    ],
)
def test_the_split_is_in_the_path(store: VariantStore, folder: Path, file: str, split: str) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    write_parquet(folder / file, ROWS)
    ingest(store, str(folder))
    assert {problem.split for problem in store.read(Problem)} == {split}


def test_a_split_that_is_given_overrides(tmp_path: Path, folder: Path) -> None:
    (folder / "test").mkdir()
    source = write_jsonl(folder / "test" / "0000.jsonl", ROWS)
    for name, flags, split in (("a", (), "test"), ("b", ("--split", "train"), "train")):
        assert diva("ingest", source, *flags, "--store", tmp_path / name).exit_code == 0
        assert {problem.split for problem in VariantStore(tmp_path / name).read(Problem)} == {split}


def test_a_preview_writes_nothing(tmp_path: Path, folder: Path) -> None:
    source = write_jsonl(folder / "mine.jsonl", [*ROWS, {"problem": "x?", "answer": ""}, *ROWS])
    before = sorted(tmp_path.rglob("*"))
    result = diva("ingest", source, "--preview", "3")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("read as plain: --problem-column problem")
    assert [f"text: {problem}" in result.output for problem, _ in TEXTS] == [True, True]
    assert f"row 3 of {source} would be rejected: no answer" in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_where_nothing_came_in_the_exit_status_is_1(tmp_path: Path, folder: Path) -> None:
    bad = [{"problem": "x?", "answer": ""}, {"problem": "y?", "answer": ""}, {"problem": "", "answer": "1"}]
    source = write_jsonl(folder / "mine.jsonl", [*bad, *ROWS])
    assert diva("ingest", source, "--store", tmp_path / "some").exit_code == 0
    result = diva("ingest", write_jsonl(folder / "mine.jsonl", bad), "--store", tmp_path / "none")
    assert result.exit_code == 1
    assert "most often: no answer: the column 'answer' is empty" in str(result.exception)


def test_names_that_collide_are_said(tmp_path: Path, folder: Path) -> None:
    write_jsonl(folder / "mine.jsonl", [{"id": 1, **ROWS[0]}])
    (folder / "mine.csv").write_text("id,problem,answer\n1,1 + 1?,2\n")
    store = ("--id-column", "id", "--store", tmp_path / "store")
    assert "--source-name" not in diva("ingest", folder / "mine.jsonl", *store).stderr
    result = diva("ingest", folder / "mine.csv", *store)
    assert result.exit_code == 1
    assert "mine.jsonl by the name 'mine': --source-name" in result.stderr
    assert "--source-name" in str(result.exception)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"answer": "First we add both, then we halve them, which gives $x=1$ as we had to show."},
            "a statement that no response repeats",
        ),
        ({"answer": "proof"}, "no answer"),
        ({"answer": "See solution."}, "no answer"),
        ({"answer": 1, "options": ["3", "4"]}, "none of the 2 options"),
        ({"answer": "AD", "options": ["3", "4"]}, "none of the 2 options"),
    ],
)
def test_an_answer_that_nothing_can_meet_is_a_reject(
    store: VariantStore, folder: Path, row: dict[str, object], reason: str
) -> None:
    ingest(store, write_jsonl(folder / "mine.jsonl", [{"problem": "1 + 1?", **row}]))
    assert reason in rejects(store)[1]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("$\\boxed{\\frac{3}{4}}$", "\\frac{3}{4}"),
        ("\\boxed{3} or \\boxed{-3}", "3, -3"),
        ("We add.\nIt is \\boxed{2}.", "2"),
        ("Ivan the Terrible", "Ivan the Terrible"),
        (["1", "2"], "1, 2"),
    ],
)
def test_answers(store: VariantStore, folder: Path, answer: object, read: str) -> None:
    ingest(store, write_jsonl(folder / "mine.jsonl", [{"problem": "x?", "answer": answer}]))
    assert [problem.answer for problem in store.read(Problem)] == [read]


@pytest.mark.parametrize("answer", ["AC", "A, C", "A and C", "(B)", "b", "B. 4", "4"])
def test_answers_that_name_options(store: VariantStore, folder: Path, answer: str) -> None:
    row = {"problem": "Which?", "answer": answer, "options": ["A. 3", "B. 4", "C. 5"]}
    ingest(store, write_jsonl(folder / "mine.jsonl", [row]))
    assert [problem.options for problem in store.read(Problem)] == [["3", "4", "5"]]


def test_configurations_of_the_hub_are_listed(tmp_path: Path) -> None:
    """By the library itself, on a data set with two configurations that lies here."""
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("main", "socratic"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for name in ("main", "socratic"):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS)
    with pytest.raises(SourceError, match="choose one with --config: main, socratic"):
        _hub_parts("me/set", str(tmp_path), None, None, streaming=True)
    (part,) = _hub_parts("me/set", str(tmp_path), "main", "train", streaming=True)
    assert len(list(part.rows)) == 2


def test_a_configuration_is_for_the_hub(tmp_path: Path, folder: Path) -> None:
    source = write_jsonl(folder / "mine.jsonl", ROWS)
    result = diva("ingest", source, "--config", "main", "--store", tmp_path / "store")
    assert "goes with a data set of the hub" in str(result.exception)


def test_damaged_compression_is_one_line(store: VariantStore, folder: Path) -> None:
    whole = next(case for case in CASES if case.file == "mine.jsonl.gz")
    (folder / "mine.jsonl.gz").write_bytes(whole.content[:-12])
    with pytest.raises(SourceError, match=r"mine.jsonl.gz could not be read") as error:
        ingest(store, str(folder / "mine.jsonl.gz"))
    assert "\n" not in str(error.value)


def test_zst(store: VariantStore, folder: Path) -> None:
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    with pa.output_stream(str(folder / "mine.jsonl.zst"), compression="zstd") as out:
        out.write(content)
    assert ingest(store, str(folder / "mine.jsonl.zst")).added == 2
