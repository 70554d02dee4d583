"""`diva grade` and the functions behind it: verdicts for a file, and the audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.grade.files import counts, grade_file, grade_rows
from diva_grpo.schemas.exceptions import ConfigError, SourceError

ROWS: list[dict[str, Any]] = [
    {"response": "\\boxed{5}", "answer": "5"},
    {"response": "\\boxed{4=5}", "answer": "5"},
    {"response": "The answer is (B).", "answer": "12", "options": ["10", "12"]},
    {"response": "", "answer": "5"},
    {"response": "\\boxed{\\frac{abc}{4R}}", "answer": "\\frac{acb}{4R}"},
    {"response": None, "answer": "5"},
    {"response": "#### 7", "answer": 7},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


def test_every_row_has_a_verdict(file: Path) -> None:
    graded = grade_file(file)
    assert [row.grade.outcome for row in graded] == [
        "correct", "wrong", "correct", "no_answer", "correct", "error", "correct",
    ]  # fmt: skip
    assert graded[2].as_dict() == {**ROWS[2], "outcome": "correct", "extracted": "(B)", "how": "stated"}
    assert graded[5].grade.how == "column 'response' holds no text"
    assert counts(graded) == {"correct": 4, "wrong": 1, "no_answer": 1, "error": 1}


def test_the_audit_shows_where_math_verify_alone_differs() -> None:
    graded = list(grade_rows(ROWS, audit=True))
    assert [row.math_verify for row in graded][2:4] == [None, "wrong"]
    assert [row.differs for row in graded][:2] == [False, True]  # it reads the last side


def test_the_command_prints_and_writes(file: Path) -> None:
    run = CliRunner().invoke(cli, ["grade", str(file), "--audit"])
    assert run.exit_code == 0, run.output
    assert "7 rows: 4 correct, 1 wrong, 1 no_answer, 1 error" in run.output
    assert "found by: 3 boxed, 1 stated, 1 hashes" in run.output
    assert "4=5 for 5: wrong, math-verify correct" in run.output
    written = [json.loads(line) for line in (file.parent / "answers.verdicts.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in written][:2] == ["correct", "wrong"]
    assert written[1]["math_verify"] == "correct"


def test_columns_of_other_names_and_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"text": "It is 5.", "gold": "5"}) * 1 + "\n\n" + "{bad json", "utf-8")
    arguments = ["--response-column", "text", "--answer-column", "gold", "--limit", "1"]
    run = CliRunner().invoke(cli, ["grade", str(path), *arguments, "--output", str(tmp_path / "v.jsonl")])
    assert run.exit_code == 0, run.output
    assert json.loads((tmp_path / "v.jsonl").read_text())["outcome"] == "correct"


@pytest.mark.parametrize(
    ("content", "arguments", "error", "message"),
    [
        ('{"response": "5", "reference": "5"}', (), ConfigError, "no row has a column 'answer'"),
        ("{bad", (), SourceError, "row 1: invalid JSON"),
        ("[1]", (), SourceError, "row 1: not a JSON object"),
        (
            '{"response": "5", "answer": "5"}',
            ("--output", "answers.jsonl"),
            ConfigError,
            "is the file of responses",
        ),
        (None, (), SourceError, "cannot be read"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    arguments: tuple[str, ...],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("answers.jsonl").write_text(content, "utf-8")
    run = CliRunner().invoke(cli, ["grade", "answers.jsonl", *arguments])
    assert isinstance(run.exception, error)
    assert message in str(run.exception)
    assert "\n" not in str(run.exception)
