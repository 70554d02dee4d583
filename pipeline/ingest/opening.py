"""Open a source: find its name, its parts and its layout. `ingest` and `preview` use this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice

from diva_grpo.pipeline.ingest.layouts import SAMPLE_ROWS, Layout, recognised
from diva_grpo.pipeline.ingest.readers import Row
from diva_grpo.pipeline.ingest.sources import Part, default_name, open_source
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.mapping import AnswerFormat, ColumnMapping


@dataclass(frozen=True)
class Opened:
    """A source that is ready to be read.

    Attributes:
        name: first part of the ids of its problems.
        parts: its files or splits.
        layout: its columns, after the changes of the user.
    """

    name: str
    parts: list[Part]
    layout: Layout


def open_with_layout(
    source: str,
    mapping: ColumnMapping | None,
    changes: Mapping[str, object] | None = None,
    *,
    source_name: str | None = None,
    split: str | None = None,
    streaming: bool = False,
) -> Opened:
    """Open a source, and recognise its layout if no mapping is given.

    Args:
        source: as for `open_source`.
        mapping: the columns; None recognises them from the first rows.
        changes: fields that replace fields of the mapping, whether it was given or recognised.
        source_name: first part of the ids. By default the preset's name; without a preset the name of the file.
        split: as for `open_source`.
        streaming: as for `open_source`.

    Raises:
        SourceError: there is no such source or split, or its format is not known.
        ConfigError: the source's name is empty or contains a slash.
    """
    given = (mapping or ColumnMapping()).model_copy(update=changes or {})
    if changes and changes.get("hub_config") and source not in (given.name, given.hub):
        given = given.model_copy(update={"hub": None})
    name = source_name if source_name is not None else default_name(source, given)
    if not name or "/" in name:
        raise ConfigError(f"the source's name {name!r} must not be empty or contain a slash: choose another")
    parts = open_source(source, given, split=split, streaming=streaming)
    if mapping is not None:
        return Opened(name, parts, Layout(given.name or "given", given))
    rows, parts = _sampled(parts)
    return Opened(name, parts, _changed(recognised(rows), changes or {}))


def _changed(layout: Layout, changes: Mapping[str, object]) -> Layout:
    """Apply the changes of the user to a recognised layout.

    If they name another answer column, the answer format becomes `plain` (unless they also name a format).
    """
    mapping = layout.mapping
    other_answer = changes.get("answer", mapping.answer) != mapping.answer
    plain = {"answer_format": AnswerFormat.PLAIN} if other_answer else {}
    return replace(layout, mapping=mapping.model_copy(update=plain | dict(changes)))


def _sampled(parts: list[Part]) -> tuple[list[Mapping[str, object]], list[Part]]:
    """Return the first rows of the first part that has any, and the parts, which still yield these rows."""
    parts = list(parts)
    for i, part in enumerate(parts):
        first = list(islice(part.rows, SAMPLE_ROWS))
        parts[i] = replace(part, rows=chain(first, part.rows))
        rows = [row.values for row in first if isinstance(row, Row)]
        if rows:
            return rows, parts
    return [], parts
