"""SQL that reads the rows of a table from its parts, and finds the rows that its view leaves out.

In a merged part that compaction has sorted, the first rows have all keys once, and no view shows the others
(`parts.Catalogue.current`). Such a part is *settled*: it need not be searched for keys with several rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from diva_grpo.pipeline.store.files.database import STEP, key_of, latest_first, parquet, quoted
from diva_grpo.pipeline.store.files.parts import Catalogue, Part
from diva_grpo.schemas.migrations import migrated
from diva_grpo.schemas.records import Record

PLACE = "diva_place"
"""A column that identifies a row of a source: the number of its file in the high bits, and the number of the row within
the file in the low bits."""
_ROW_BITS = 40

NO_PLACE = f"SELECT NULL::BIGINT AS {PLACE} WHERE false"


@dataclass(frozen=True, slots=True)
class Source:
    """FROM clauses over rows of a table. The rows have the columns of the present schema version, and `PLACE`.

    Attributes:
        rows: all rows.
        settled: number of settled parts. Their files have the first numbers in `PLACE`.
        loose: the rows of the other parts; None if these have no rows.
        shared: SQL conditions; each row of a step that is in several settled parts meets one of them. None if the
            steps of a part are not known.
    """

    rows: str
    settled: int = 0
    loose: str | None = None
    shared: Sequence[str] | None = None


def source(
    catalogue: Catalogue, url: str, table: str, parts: Sequence[Part], origins: Collection[str] | None = None
) -> Source:
    """Return the source of some parts of a table.

    Args:
        catalogue: has the metadata of the parts.
        url: path or URL of the folder that has the parts.
        table: name of the table.
        parts: parts to read.
        origins: names of parts; only rows that were first written in one of them are read. None reads all rows.
    """
    # If only some of a part's rows are read, others than its current rows may be valid.
    partly = {
        part
        for part in parts
        if part.merged and origins is not None and not catalogue.origins(table, part) <= set(origins)
    }
    current = {part: catalogue.current(table, part) for part in parts if part not in partly}
    settled: dict[str, list[Part]] = {}
    others: dict[tuple[int, str], list[Part]] = {}
    for part in parts:
        count = current.get(part)
        if count is not None:
            where = "" if count == part.rows else f" WHERE file_row_number < {count}"
            settled.setdefault(where, []).append(part)
        else:
            names = ", ".join(map(quoted, sorted(origins or ())))
            others.setdefault(
                (part.version, f" WHERE part IN ({names})" if part in partly else ""), []
            ).append(part)
    first = 0

    def select(group: Sequence[Part], version: int, where: str) -> str:
        nonlocal first
        rows = (
            f"SELECT *, (file_index::BIGINT + {first} << {_ROW_BITS}) + file_row_number AS {PLACE} "
            f"FROM {parquet([f'{url}/{table}/{part.name}' for part in group])}{where}"
        )
        first += len(group)
        return migrated(table, version, rows)

    of_settled = [select(group, group[0].version, where) for where, group in settled.items()]
    number = first
    of_others = [select(group, version, where) for (version, where), group in sorted(others.items())]
    loose = any(not part.is_empty for group in others.values() for part in group)
    shared = _shared_steps([catalogue.steps(table, part) for group in settled.values() for part in group])
    return Source(_union([*of_settled, *of_others]), number, _union(of_others) if loose else None, shared)


def _shared_steps(of_parts: Sequence[Mapping[str, tuple[int, int]] | None]) -> list[str] | None:
    """Return SQL conditions for the steps that may be in several parts; None if the steps of a part are not known.

    Args:
        of_parts: first and last step of each run, for each part.
    """
    ranges: list[tuple[str, int, int]] = []
    for steps in of_parts:
        if steps is None:
            return None
        ranges += [(run_id, first, last) for run_id, (first, last) in steps.items()]
    shared: list[str] = []
    latest: dict[str, int] = {}
    for run_id, first, last in sorted(ranges):
        before = latest.get(run_id, first - 1)
        if first <= before:
            shared.append(f"run_id = {quoted(run_id)} AND step BETWEEN {first} AND {min(last, before)}")
        latest[run_id] = max(last, before)
    return shared


def _union(selects: Sequence[str]) -> str:
    return "(" + " UNION ALL BY NAME ".join(selects) + ")"


def superseded(of: Source, record: type[Record], left_out: str | None) -> str:
    """Return a SELECT of the `PLACE` of each row that a record's view leaves out.

    Args:
        of: the rows.
        record: type of the records.
        left_out: condition on rows `t` that the view leaves out regardless of their key; None if there are none. They
            are left out before the latest record of a key is chosen. Otherwise a superseded row that was written late
            would hide the row that replaces it.
    """
    rows = _comparable(of, record)
    first = f"SELECT {PLACE} FROM {of.rows} t WHERE {left_out}" if left_out else NO_PLACE
    if rows is None:
        return first
    if left_out:
        rows = f"(SELECT * FROM {rows} t WHERE NOT {left_out})"
    key = key_of(record)
    among, few = rows, ""
    if of.settled:
        among, few = "among", f"among AS MATERIALIZED (SELECT * FROM {rows}), "
    # In most tables few keys have several rows. Grouping by the hash of the key finds them with a tenth of the memory
    # that grouping by the key needs.
    return (
        f"WITH {few}repeated AS (SELECT hash({key}) AS code FROM {among} GROUP BY code HAVING count(*) > 1) "
        f"{first} UNION ALL SELECT {PLACE} FROM (SELECT {PLACE} FROM {among} r "
        f"SEMI JOIN repeated ON code = hash({key}) "
        f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {latest_first(record)}) > 1)"
    )


def _comparable(of: Source, record: type[Record]) -> str | None:
    """Return a FROM clause over the rows whose key may be that of another row, too; None if there are none."""
    if of.settled == 0:
        return of.rows
    if of.settled == 1 and of.loose is None:
        return None
    if set(STEP) <= set(record.key):
        # Parts are merged in the order of time, so that few steps of a run are in several of them.
        if of.loose is None and of.shared is not None:
            return f"(SELECT * FROM {of.rows} WHERE {' OR '.join(of.shared)})" if of.shared else None
        columns = ", ".join(STEP)
        shared = (
            f"SELECT {columns} FROM {of.rows} GROUP BY ALL HAVING max({PLACE}) >= {of.settled << _ROW_BITS} "
            f"OR min({PLACE}) >> {_ROW_BITS} < max({PLACE}) >> {_ROW_BITS}"
        )
        return f"(SELECT r.* FROM {of.rows} r SEMI JOIN ({shared}) USING ({columns}))"
    if of.settled == 1:
        code = f"hash({key_of(record)})"
        return f"(SELECT * FROM {of.rows} WHERE {code} IN (SELECT {code} FROM {of.loose}))"
    return of.rows
