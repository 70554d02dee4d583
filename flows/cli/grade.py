"""`diva grade`: grade a file of responses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diva_grpo.flows.cli.summary import conclude
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.schemas.exceptions import ConfigError

if TYPE_CHECKING:
    from diva_grpo.pipeline.grade.files import GradedRow

_SHOWN = 20
_WIDTH = 60


def _column_option(name: str, text: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}-column", metavar="COLUMN", default=name, show_default=True, help=text)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@_column_option("response", "Column with the response.")
@_column_option("answer", "Column with the reference answer.")
@_column_option("options", "Column with the list of choices.")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where the verdicts are written.  [default: FILE with .verdicts.jsonl]",
)
@click.option(
    "--audit", is_flag=True, help="Compare with math-verify alone, and show the rows where the two differ."
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first rows.")
def grade(
    file: Path,
    response_column: str,
    answer_column: str,
    options_column: str,
    output: Path | None,
    audit: bool,
    limit: int | None,
) -> None:
    """Grade a JSON Lines file of responses: columns response, answer, and options where there are choices.

    Prints how many are correct and how their answers were found. Writes each row with the columns outcome, extracted
    and how. `diva_grpo.pipeline.grade.files.grade_file` does the same in a notebook.

    \b
    examples: diva grade answers.jsonl
              diva grade answers.jsonl --answer-column reference --output verdicts.jsonl
              diva grade answers.jsonl --audit
    """
    from diva_grpo.pipeline.grade.files import counts, grade_file, write_verdicts

    output = output or file.with_name(f"{file.stem}.verdicts.jsonl")
    if output.resolve() == file.resolve():
        raise ConfigError(f"--output {output} is the file of responses itself")
    with progress_bar(None, "rows") as progress:
        graded = grade_file(
            file,
            response_column=response_column,
            answer_column=answer_column,
            options_column=options_column,
            audit=audit,
            limit=limit,
            progress=progress,
        )
    write_verdicts(graded, output)
    outcomes = counts(graded)
    found_by = counts([row for row in graded if row.grade.answer is not None], "how")
    figures: dict[str, Any] = {
        "rows": len(graded),
        "outcomes": outcomes,
        "found_by": found_by,
        "verdicts": output,
    }
    lines = [f"{len(graded)} rows: {_listed(outcomes)}"]
    lines += [f"found by: {_listed(found_by)}"] if graded else []
    lines += [
        f"error: {_short(row.grade.how)}: {_short(row.grade.answer or '')}"
        for row in [row for row in graded if row.grade.outcome == "error"][:_SHOWN]
    ]
    if audit:
        differing = [row for row in graded if row.differs]
        compared = sum(row.math_verify is not None for row in graded)
        figures["math_verify"] = {"compared": compared, "differing": len(differing)}
        lines.append(f"math-verify alone differs in {len(differing)} of {compared} rows without options")
        lines += [_difference(row, answer_column) for row in differing[:_SHOWN]]
        if len(differing) > _SHOWN:
            lines.append(f"  and {len(differing) - _SHOWN} more, in {output}")
    conclude("\n".join([*lines, f"verdicts: {output}"]), figures)


def _difference(row: GradedRow, answer_column: str) -> str:
    found, reference = _short(str(row.grade.answer)), _short(str(row.row[answer_column]))
    return f"  {found} for {reference}: {row.grade.outcome}, math-verify {row.math_verify}"


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "none"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
