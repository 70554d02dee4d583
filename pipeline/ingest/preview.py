"""Show what `ingest` would store, without writing: the layout, and the first rows as problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diva_grpo.pipeline.ingest.answers import check_own_answer
from diva_grpo.pipeline.ingest.cells import RowError
from diva_grpo.pipeline.ingest.intake import read_columns, split_of, unread_images
from diva_grpo.pipeline.ingest.opening import open_with_layout
from diva_grpo.pipeline.ingest.readers import Unreadable
from diva_grpo.pipeline.ingest.rows import read_problem
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.records import Problem


def preview(
    source: str,
    mapping: ColumnMapping | None,
    count: int,
    changes: Mapping[str, object] | None = None,
    *,
    source_name: str | None = None,
    split: str | None = None,
) -> Iterator[str]:
    """Yield lines that show the layout and the first rows: each as a problem, or with the reason why it is rejected.

    Args:
        source: as for `ingest`.
        mapping: as for `ingest`.
        count: number of rows to show.
        changes: as for `ingest`.
        source_name: as for `ingest`.
        split: as for `ingest`.

    Raises:
        SourceError: the source cannot be read.
        ConfigError: the source's name is empty or contains a slash.
    """
    opened = open_with_layout(source, mapping, changes, source_name=source_name, split=split, streaming=True)
    yield opened.layout.line()
    left = count
    read = read_columns(opened.layout.mapping)
    unread: set[str] = set()
    for part in opened.parts:
        for row in part.rows:
            if left == 0:
                break
            left -= 1
            yield ""
            try:
                if isinstance(row, Unreadable):
                    raise RowError(row.reason)
                unread |= unread_images(row.values, read)
                where = split_of(row, part, split, opened.layout.mapping)
                problem, _ = read_problem(row.values, opened.layout.mapping, opened.name, where, part.place)
                check_own_answer(problem)
            except RowError as error:
                yield f"row {row.number} of {part.label} would be rejected: {error}"
            else:
                yield from _shown(problem)
    yield from (f"\n{line}" for line in unread_lines(unread))


def unread_lines(columns: set[str] | tuple[str, ...]) -> list[str]:
    """One message for each column that contains images but is not in the mapping.

    The message names the option that reads the column.
    """
    return [
        f"the column {column!r} holds images that are not read: --images-column {column} reads them"
        for column in sorted(columns)
    ]


def _shown(problem: Problem) -> Iterator[str]:
    values = problem.model_dump(exclude={"ingested_at", "source"})
    values["images"] = [f"{image.width} x {image.height} pixels" for image in problem.images]
    for field, value in values.items():
        if value not in (None, []):
            yield f"{field}: {value}"
