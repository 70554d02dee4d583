"""`diva grade`: grade a file of responses."""

from __future__ import annotations

from pathlib import Path

import click

from diva_grpo.schemas.exceptions import ConfigError

_SHOWN = 20
_WIDTH = 60


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--response-column",
    metavar="COLUMN",
    default="response",
    show_default=True,
    help="Column with the response.",
)
@click.option(
    "--answer-column",
    metavar="COLUMN",
    default="answer",
    show_default=True,
    help="Column with the reference answer.",
)
@click.option(
    "--options-column",
    metavar="COLUMN",
    default="options",
    show_default=True,
    help="Column with the list of choices.",
)
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
    graded = grade_file(
        file,
        response_column=response_column,
        answer_column=answer_column,
        options_column=options_column,
        audit=audit,
        limit=limit,
    )
    write_verdicts(graded, output)
    outcomes = counts(graded)
    click.echo(f"{len(graded)} rows: {_listed(outcomes)}")
    if graded:
        click.echo(
            f"found by: {_listed(counts([row for row in graded if row.grade.answer is not None], 'how'))}"
        )
    for row in [row for row in graded if row.grade.outcome == "error"][:_SHOWN]:
        click.echo(f"error: {_short(row.grade.how)}: {_short(row.grade.answer or '')}")
    if audit:
        differing = [row for row in graded if row.differs]
        compared = sum(row.math_verify is not None for row in graded)
        click.echo(f"math-verify alone differs in {len(differing)} of {compared} rows without options")
        for row in differing[:_SHOWN]:
            reference = _short(str(row.row[answer_column]))
            found = _short(str(row.grade.answer))
            click.echo(f"  {found} for {reference}: {row.grade.outcome}, math-verify {row.math_verify}")
        if len(differing) > _SHOWN:
            click.echo(f"  and {len(differing) - _SHOWN} more, in {output}")
    click.echo(f"verdicts: {output}")


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "none"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
