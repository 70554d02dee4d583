"""`compact` merges many small parts into few, without a lock, while other processes read and write.

A merged part becomes visible by one atomic operation. It names the parts from which it was made, so readers ignore
those from then on (`parts.Catalogue`). A later compaction deletes the old parts, if the merged part is whole and a
grace period is over, in which earlier readers finish. Each row keeps its time, its number within its append and its
origin. Only rows that the store gives up (`pipeline.store.retention`) are dropped.

A crash at any point therefore leaves a store with the same content. Two compactions at the same time do the same work
twice. The parts that a checkpoint names can still be read.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from types import MappingProxyType

import duckdb
import pyarrow as pa

from diva_grpo.pipeline.store.files.database import (
    STEP,
    key_of,
    latest_first,
    open_database,
    parquet,
    quoted,
)
from diva_grpo.pipeline.store.files.parts import (
    ORIGIN_FIELD,
    Catalogue,
    Merged,
    Part,
    is_whole,
    publish_stream,
)
from diva_grpo.pipeline.store.files.places import Place
from diva_grpo.pipeline.store.files.progress import Progress, ignore
from diva_grpo.pipeline.store.files.published import fold
from diva_grpo.schemas.arrow import arrow_schema
from diva_grpo.schemas.exceptions import StoreError, first_line
from diva_grpo.schemas.migrations import SCHEMA_VERSION, migrated
from diva_grpo.schemas.records import RECORDS, Record

GRACE_S = 3600.0
"""Seconds for which a part is kept after it was merged. No query takes longer, and no writer needs longer to write one
part."""

MERGED_BYTES = 128 << 20
"""Approximate maximum size of a merged part, in bytes. Larger parts are not merged, so that no row is copied often."""

_SORT_MB = 1_024
"""MiB of memory for sorting the rows of a merged part. The rest is spilled to disk."""

_GROUP_ROWS = 32_768
_GROUP_BYTES = 16 << 20
_BATCH_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did.

    Attributes:
        merged: number of parts that were merged.
        made: number of merged parts that were written.
        removed: number of parts that were deleted because an earlier compaction had merged them.
        waiting: number of parts that were merged, now or earlier, but not yet deleted.
        leftovers: number of files of crashed writers that were deleted.
        damaged: paths of damaged parts, which were left as they are.
        dropped: number of rows that were left out of merged parts.
    """

    merged: int = 0
    made: int = 0
    removed: int = 0
    waiting: int = 0
    leftovers: int = 0
    damaged: tuple[str, ...] = ()
    dropped: int = 0

    def __add__(self, other: Compacted) -> Compacted:
        return Compacted(*map(operator.add, astuple(self), astuple(other)))


def compact(
    place: Place,
    catalogue: Catalogue,
    *,
    grace_s: float = GRACE_S,
    merged_bytes: int = MERGED_BYTES,
    without: Mapping[str, Collection[str]] = MappingProxyType({}),
    progress: Progress = ignore,
) -> Compacted:
    """Compact every table of a store.

    Args:
        place: location of the store's files.
        catalogue: lists the store's parts.
        grace_s: see `GRACE_S`.
        merged_bytes: see `MERGED_BYTES`.
        without: ids of the training runs whose rows are dropped, by table. Parts with such rows are rewritten,
            whatever their size.
        progress: called with the number of parts that were looked at since the previous call.

    Raises:
        StoreError: the store cannot be written, or was written by a newer program.
    """
    done = Compacted(leftovers=_remove_leftovers(place, time.time() - grace_s))
    fold(place, time.time_ns() - int(max(grace_s, GRACE_S) * 1e9))
    for record in RECORDS:
        done += _remove_replaced(place, catalogue, record.table, time.time_ns() - int(grace_s * 1e9))
        done += _merge(place, catalogue, record, merged_bytes, without.get(record.table, ()), progress)
    return done


def _remove_leftovers(place: Place, before: float) -> int:
    leftovers = [
        file
        for record in RECORDS
        for file in place.files(record.table)
        if file.path.endswith(".tmp") and file.changed_at < before
    ]
    for file in leftovers:
        place.remove(file.path)
    return len(leftovers)


def _remove_replaced(place: Place, catalogue: Catalogue, table: str, before_ns: int) -> Compacted:
    """Delete parts that merged parts replaced before `before_ns`, if the merged parts are whole."""
    live, replaced = catalogue.split(table)
    if not replaced:
        return Compacted()
    merged = [part for part in [*live, *replaced] if part.merged]
    due = [part for part in replaced if _replaced_at(catalogue, table, part, merged) <= before_ns]
    safe: set[str] = set()
    damaged: list[str] = []
    for part in (part for part in live if part.merged and due):
        if is_whole(place, table, part):
            safe |= catalogue.origins(table, part)
        else:
            damaged.append(f"{table}/{part.name}")
    removable = [part for part in due if catalogue.origins(table, part) <= safe]
    for part in removable:
        place.remove(f"{table}/{part.name}")
    return Compacted(removed=len(removable), waiting=len(replaced) - len(removable), damaged=tuple(damaged))


def _replaced_at(catalogue: Catalogue, table: str, part: Part, merged: Sequence[Part]) -> float:
    """Return when this part was first replaced by a merged part, in nanoseconds since 1970; infinity if never.

    No reader has begun to read the part after this time.
    """
    mine = catalogue.origins(table, part)
    later = [other for other in merged if other.name > part.name or not part.merged]
    times = [m.written_ns for m in later if m.written_ns is not None and mine <= catalogue.origins(table, m)]
    return min(times, default=math.inf)


def _merge(
    place: Place,
    catalogue: Catalogue,
    record: type[Record],
    merged_bytes: int,
    without: Collection[str],
    progress: Progress,
) -> Compacted:
    table = record.table
    sizes = {file.path: file.size for file in place.files(table)}
    live = [part for part in catalogue.live(table) if not part.is_empty]
    holding = _holding(place, table, live, without)
    chosen = [part for part in live if part in holding or sizes.get(f"{table}/{part.name}", 0) < merged_bytes]
    done = Compacted()
    for group in _groups(chosen, [sizes.get(f"{table}/{part.name}", 0) for part in chosen], merged_bytes):
        if len(group) > 1 or group[0].version < SCHEMA_VERSION or group[0] in holding:
            done += _merge_group(place, catalogue, record, group, holding, without)
        progress(len(group))
    return done


def _merge_group(
    place: Place,
    catalogue: Catalogue,
    record: type[Record],
    group: Sequence[Part],
    holding: Collection[Part],
    without: Collection[str],
) -> Compacted:
    table = record.table
    # A damaged part is not merged: the merged part would have a valid hash, and hide the damage.
    # Another compaction may have removed some.
    there = [part for part in group if place.exists(f"{table}/{part.name}")]
    whole = [part for part in there if is_whole(place, table, part)]
    done = Compacted(damaged=tuple(f"{table}/{part.name}" for part in there if part not in whole))
    if len(whole) > 1 or any(part.version < SCHEMA_VERSION or part in holding for part in whole):
        dropped = _publish_merged(place, catalogue, record, whole, without)
        done += Compacted(merged=len(whole), made=1, waiting=len(whole), dropped=dropped)
    return done


def _holding(place: Place, table: str, parts: Sequence[Part], runs: Collection[str]) -> frozenset[Part]:
    """Return the parts that contain rows of any of the given training runs."""
    if not runs or not parts:
        return frozenset()
    place.fetch([f"{table}/{part.name}" for part in parts])
    with open_database() as connection:
        try:
            files = parquet([f"{place.local}/{table}/{part.name}" for part in parts], names=True)
            rows = connection.execute(
                f"SELECT DISTINCT parse_filename(filename) FROM {files} WHERE run_id IN (SELECT unnest(?))",
                [list(runs)],
            ).fetchall()
        except duckdb.Error as error:
            line = first_line(error)
            raise StoreError(f"{table} cannot be compacted: {line}") from error
    names = {name for (name,) in rows}
    return frozenset(part for part in parts if part.name in names)


def _groups(parts: Sequence[Part], sizes: Sequence[int], merged_bytes: int) -> Iterator[list[Part]]:
    """Split parts into groups of consecutive parts whose total size is at most `merged_bytes`.

    A single larger part is a group of its own.
    """
    group: list[Part] = []
    total = 0
    for part, size in zip(parts, sizes, strict=True):
        if group and total + size > merged_bytes:
            yield group
            group, total = [], 0
        group.append(part)
        total += size
    if group:
        yield group


def _publish_merged(
    place: Place,
    catalogue: Catalogue,
    record: type[Record],
    group: Sequence[Part],
    without: Collection[str],
) -> int:
    """Publish the rows of a group as one part, without those of the runs in `without`.

    Returns:
        The number of rows that were left out.
    """
    place.fetch([f"{record.table}/{part.name}" for part in group])
    with open_database() as connection:
        connection.execute(f"SET memory_limit = '{_SORT_MB}MiB'")
        rows = " UNION ALL BY NAME ".join(_selects(place, catalogue, record.table, group))
        dropped = 0
        try:
            if without:
                runs = ", ".join(map(quoted, sorted(without)))
                [(dropped,)] = connection.execute(
                    f"SELECT count(*) FROM ({rows}) WHERE run_id IN ({runs})"
                ).fetchall()
                rows = f"SELECT * FROM ({rows}) WHERE run_id NOT IN ({runs})"
            schema = _merged_schema(record, connection.sql(f"{rows} LIMIT 0").to_arrow_table().schema)
            steps = _steps(connection, record, rows)
            rows, current = _current_first(connection, record, rows)
            groups = _row_groups(connection, rows, schema)
            origins = frozenset[str]().union(*(catalogue.origins(record.table, part) for part in group))
            newest = max(Part.named(name).written_ns or 0 for name in origins)
            merged = Merged(origins, current, steps)
            publish_stream(place, record.table, schema, groups, merged, not_before_ns=newest)
        except duckdb.Error as error:
            line = first_line(error)
            raise StoreError(f"{record.table} cannot be compacted: {line}") from error
    return dropped


def _steps(
    connection: duckdb.DuckDBPyConnection, record: type[Record], rows: str
) -> dict[str, tuple[int, int]] | None:
    """Return the first and the last step of each run (`parts.Merged.steps`)."""
    if not set(STEP) <= set(record.key):
        return None
    found = connection.execute(
        f"SELECT run_id, min(step), max(step) FROM ({rows}) GROUP BY run_id"
    ).fetchall()
    return {run_id: (first, last) for run_id, first, last in found}


def _current_first(
    connection: duckdb.DuckDBPyConnection, record: type[Record], rows: str
) -> tuple[str, int | None]:
    """Return a SELECT of merged rows in their order, and the number of current rows (`parts.Catalogue.current`).

    The current rows come first, in the order of the problem, then of the key. So the rows of one problem are in few row
    groups, which a lookup finds by the row groups' statistics.
    """
    by_problem = ["problem_id"] if "problem_id" in record.model_fields else []
    order = ", ".join(f'"{name}"' for name in [*by_problem, *record.key, "recorded_at", "record_no"])
    plain, key = f"FROM ({rows}) ORDER BY {order}", key_of(record)
    [(total, keys)] = connection.execute(
        f"SELECT coalesce(sum(n), 0)::BIGINT, count(*) FROM (SELECT count(*) AS n FROM ({rows}) GROUP BY {key})"
    ).fetchall()
    if keys == total:
        return plain, keys
    if "attempt" in record.model_fields and "attempt" not in record.key:
        return plain, None  # which attempt is valid depends on the table `attempts`, which may still change
    dead = f"row_number() OVER (PARTITION BY {key} ORDER BY {latest_first(record)}) > 1"
    return (
        f"SELECT * EXCLUDE (dead) FROM (SELECT *, {dead} AS dead FROM ({rows})) ORDER BY dead, {order}",
        keys,
    )


def _selects(place: Place, catalogue: Catalogue, table: str, group: Sequence[Part]) -> list[str]:
    """Return SELECTs for the rows of a group, such that each row is in only one of them.

    There is one SELECT for all unmerged parts of each version, and one for each merged part.
    """

    def files(parts: Sequence[Part]) -> list[str]:
        return [f"{place.local}/{table}/{part.name}" for part in parts]

    selects = []
    seen: set[str] = {part.name for part in group if not part.merged}
    for version in sorted({part.version for part in group if not part.merged}):
        plain = [part for part in group if not part.merged and part.version == version]
        rows = (
            "SELECT * EXCLUDE (filename), parse_filename(filename) AS part "
            f"FROM {parquet(files(plain), names=True)}"
        )
        selects.append(migrated(table, version, rows))
    for part in group:
        if part.merged:
            new = catalogue.origins(table, part) - seen
            seen |= new
            names = ", ".join(map(quoted, sorted(new))) or "NULL"
            rows = f"SELECT * FROM {parquet(files([part]))} WHERE part IN ({names})"
            selects.append(migrated(table, part.version, rows))
    return selects


def _merged_schema(record: type[Record], read: pa.Schema) -> pa.Schema:
    """Return the schema of a merged part: this version's columns, unknown columns of its sources, and the origin."""
    known = arrow_schema(record)
    more = [field for field in read if field.name not in [*known.names, ORIGIN_FIELD.name]]
    return pa.schema([*known, *more, ORIGIN_FIELD])


def _row_groups(connection: duckdb.DuckDBPyConnection, select: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the result of a SELECT in row groups. Their size limits the memory, and how much a lookup must read."""
    waiting: list[pa.Table] = []
    for batch in connection.sql(select).to_arrow_reader(_BATCH_ROWS):
        columns = [
            batch[field.name].cast(field.type)
            if field.name in batch.schema.names
            else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ]
        waiting.append(pa.table(columns, schema=schema))
        rows, size = sum(t.num_rows for t in waiting), sum(t.nbytes for t in waiting)
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
