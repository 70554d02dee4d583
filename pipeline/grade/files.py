"""Grade a file of responses, and compare the verdicts with those of math-verify alone (an audit).

    >>> rows = [{"response": text, "answer": "5"} for text in ("It is 5.", "So it is 5.0.", "It is 6.", "Hello!")]
    >>> counts([*grade_rows(rows)])
    {'correct': 2, 'wrong': 2}

Each row is graded independently. A row that cannot be graded gets the outcome `error` with a reason, so no row is lost.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.grade import DEADLINE_S, Grade, UndecidedError, grade, warm_up
from diva_grpo.pipeline.grade._symbolic import WORKER
from diva_grpo.schemas.exceptions import ConfigError, SourceError


@dataclass(frozen=True, slots=True)
class GradedRow:
    """The verdict on one row.

    Attributes:
        row: the row as it was read.
        grade: the verdict, the answer that was found, and how.
        math_verify: the verdict of math-verify alone: `correct`, `wrong` or `error`. None without an audit, and for
            rows with options, because math-verify does not support options.
    """

    row: Mapping[str, Any]
    grade: Grade
    math_verify: str | None = None

    @property
    def differs(self) -> bool:
        """Whether math-verify would give another reward. False without an audit."""
        ours = self.grade.outcome
        return self.math_verify is not None and (ours == "correct") != (self.math_verify == "correct")

    def as_dict(self) -> dict[str, Any]:
        """Return the row with the columns `outcome`, `extracted`, `how` and, after an audit, `math_verify`."""
        verdict = {"outcome": self.grade.outcome, "extracted": self.grade.answer, "how": self.grade.how}
        return {**self.row, **verdict, **({"math_verify": self.math_verify} if self.math_verify else {})}


def grade_file(
    path: str | Path,
    *,
    response_column: str = "response",
    answer_column: str = "answer",
    options_column: str = "options",
    deadline_s: float = DEADLINE_S,
    audit: bool = False,
    limit: int | None = None,
    progress: Callable[[int], object] = bool,
) -> list[GradedRow]:
    """Grade the rows of a JSON Lines file.

    Args:
        path: a file with one JSON object per line.
        response_column: column with the model's text.
        answer_column: column with the reference answer.
        options_column: column with the list of choices. Rows without this column are graded without options.
        deadline_s: deadline of each row, in seconds.
        audit: also get the verdict of math-verify alone for each row without options.
        limit: number of rows to grade, from the first; None grades all.
        progress: called with 1 after each row.

    Raises:
        SourceError: the file cannot be read, or a line is not a JSON object.
        ConfigError: no row has the response column or the answer column.
    """
    rows = list(_read(Path(path), limit))
    for column in (response_column, answer_column):
        if rows and not any(column in row for row in rows):
            raise ConfigError(
                f"{path}: no row has a column {column!r}; the first has {', '.join(rows[0]) or 'none'}"
            )
    columns = (response_column, answer_column, options_column)
    graded = []
    for row in grade_rows(rows, columns=columns, deadline_s=deadline_s, audit=audit):
        graded.append(row)
        progress(1)
    return graded


def grade_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: tuple[str, str, str] = ("response", "answer", "options"),
    deadline_s: float = DEADLINE_S,
    audit: bool = False,
) -> Iterator[GradedRow]:
    """Grade rows one by one, such as those of a data set in a notebook.

    Args:
        rows: mappings from column names to values.
        columns: names of the columns with response, reference answer and options.
        deadline_s: deadline of each row, in seconds.
        audit: also get the verdict of math-verify alone for each row without options.
    """
    if audit:
        warm_up()
    response_column, answer_column, options_column = columns
    for row in rows:
        response, answer, options = (
            row.get(response_column),
            row.get(answer_column),
            row.get(options_column) or (),
        )
        reason = _unusable(response, answer, options, columns)
        if reason:
            yield GradedRow(row, Grade("error", None, reason))
            continue
        response, answer = str(response), str(answer)
        graded = grade(response, answer, options=options, deadline_s=deadline_s)
        alone = _math_verify(response, answer, deadline_s) if audit and not options else None
        yield GradedRow(row, graded, alone)


def counts(graded: Sequence[GradedRow], by: str = "outcome") -> dict[str, int]:
    """Count the rows by outcome or, with `by="how"`, by how the answer was found. The most frequent comes first."""
    return dict(Counter(str(getattr(row.grade, by)) for row in graded).most_common())


def write_verdicts(graded: Sequence[GradedRow], path: str | Path) -> None:
    """Write rows with their verdicts to a JSON Lines file.

    Raises:
        SourceError: the file cannot be written.
    """
    lines = (json.dumps(row.as_dict(), ensure_ascii=False) for row in graded)
    try:
        Path(path).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror}") from error


def _unusable(response: object, answer: object, options: object, columns: tuple[str, str, str]) -> str | None:
    """Return the reason why a row cannot be graded, or None if it can."""
    for value, column in ((response, columns[0]), (answer, columns[1])):
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            return f"column {column!r} holds no text"
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        return f"column {columns[2]!r} holds no list of texts"
    return None


def _math_verify(response: str, answer: str, deadline_s: float) -> str:
    try:
        equal = WORKER.math_verify(response, answer, time.monotonic() + deadline_s)
    except UndecidedError:
        return "error"
    return "correct" if equal else "wrong"


def _read(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            number = 0
            for number, line in enumerate((line for line in lines if line.strip()), 1):
                if limit is not None and number > limit:
                    return
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise SourceError(f"{path}, row {number}: not a JSON object")
                yield row
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}, row {number}: invalid JSON: {error}") from error
