"""Immutable Parquet part files: their names, which of them a reader reads, and how one is published.

The name of a part contains the facts that are needed without opening the file:

    <time>-v<version>[-merged]-<rows>-<hash>.parquet

The time is in nanoseconds since 1970, by the writer's clock. The hash is the start of the SHA-256 of the file, so that
a change of any byte is detected. In a part that was merged by compaction, the column `part` names for each row the
part in which the row was first written (its *origin*). The metadata of the merged part lists all origins. A reader
therefore knows which parts a merged part replaces, and can still read the rows of a snapshot whose parts were merged.
The metadata also has the number of *current* rows: the first rows of the part, one for each key. The rows after them
are of the same keys and older, so that no view shows them. If the rows are of training steps, it has the first and the
last step of each run.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diva_grpo.pipeline.store.files.places import Place, sha256_of
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.migrations import SCHEMA_VERSION

ORIGIN_FIELD = pa.field("part", pa.string())
"""Column of merged parts: the name of the part in which the row was first written."""

IMAGES = "images"
"""Folder of the images. The name of each file is its SHA-256."""

AHEAD_NS = 60 * 10**9
"""A part whose time is more than this many nanoseconds in the future causes a warning about wrong clocks."""

_NAME = re.compile(r"(\d{20})-v(\d+)(-merged)?-(\d+)-([0-9a-f]{16})\.parquet")
_OLD_NAME = re.compile(r"(\d{19,20})-[0-9a-f]{12}\.parquet")
_METADATA = b"diva"
_DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Part:
    """A part, with the facts that its file name contains.

    Attributes:
        name: name of the file.
        version: schema version of its writer.
        merged: whether a compaction made it from other parts.
        written_ns: time of writing in nanoseconds since 1970, by the writer's clock; None if the name lacks it.
        rows: number of rows; None for a part of version 1.
        digest: first hex digits of the content's SHA-256; None for a part of version 1.
    """

    name: str
    version: int = 1
    merged: bool = False
    written_ns: int | None = None
    rows: int | None = None
    digest: str | None = None

    @classmethod
    def named(cls, name: str) -> Part:
        """Return the part with this file name."""
        if found := _NAME.fullmatch(name):
            time_ns, version, merged, rows, digest = found.groups()
            return cls(name, int(version), bool(merged), int(time_ns), int(rows), digest)
        old = _OLD_NAME.fullmatch(name)
        return cls(name, written_ns=int(old[1]) if old else None)

    @property
    def is_empty(self) -> bool:
        """Whether this is the part without rows that each table has from the start."""
        return is_empty_name(self.name)


def is_empty_name(name: str) -> bool:
    """Whether a name is that of a part without rows, of any version."""
    return name.startswith("0" * 20 + "-empty")


def empty_name(schema: pa.Schema) -> str:
    """Return the name of the part without rows that has all columns of this schema.

    With this part in a table, the table's view has all columns, even if the other parts lack some.
    """
    fingerprint = hashlib.sha256(schema.to_string().encode()).hexdigest()[:8]
    return f"{'0' * 20}-empty-{fingerprint}.parquet"


def as_time(ns: int) -> datetime:
    """Convert nanoseconds since 1970 to a UTC datetime without time zone, rounded down to microseconds."""
    return datetime(1970, 1, 1) + timedelta(microseconds=ns // 1000)


# --- reading


@dataclass(frozen=True, slots=True)
class Merged:
    """What the metadata of a merged part says about its rows.

    Attributes:
        origins: names of the parts in which the rows were first written.
        current: number of rows at the start of the part of which no two have the same key; None if it is not known.
        steps: first and last step of each run; None if it is not known, or if the key of the rows has no step.
    """

    origins: frozenset[str]
    current: int | None = None
    steps: Mapping[str, tuple[int, int]] | None = None


class Catalogue:
    """Lists the parts of a store. Each call lists the files again; only the metadata of merged parts is cached.

    Args:
        place: location of the store's files.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._facts: dict[str, Merged] = {}
        self._newest_ns: dict[str, int] = {}

    def now_ns(self, table: str) -> int:
        """Return the time to give to a new part of a table, in nanoseconds since 1970.

        This is the present time, or just after the newest part that this process has seen. A new part is therefore
        later than the parts that it follows, even if another machine's clock was ahead.
        """
        return max(time.time_ns(), self._newest_ns.get(table, 0) + 1_000)

    def parts(self, table: str) -> list[Part]:
        """Return all parts of a table, including those that a merged part replaces.

        Raises:
            StoreError: a part has a schema version that this program does not know.
        """
        found = [Part.named(name) for name in self._place.names(table) if name.endswith(".parquet")]
        newest = max((part.version for part in found), default=0)
        if newest > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self._place.url} was written by a newer diva-grpo (schema {newest}, this one knows "
                f"{SCHEMA_VERSION}): update diva-grpo"
            )
        self._newest_ns[table] = max((part.written_ns or 0 for part in found), default=0)
        return found

    def saw(self, table: str, part: Part) -> None:
        """Take account of a part that this process has written, for `now_ns`."""
        self._newest_ns[table] = max(self._newest_ns.get(table, 0), part.written_ns or 0)

    def live(self, table: str) -> list[Part]:
        """Return the live parts of a table: those that a reader must read. Each row is in at least one of them.

        Raises:
            StoreError: a merged part is damaged, or a part has a later schema version.
        """
        return self.split(table)[0]

    def split(self, table: str) -> tuple[list[Part], list[Part]]:
        """Return the live parts of a table, and the parts that merged parts replace.

        Raises:
            StoreError: see `live`.
        """
        found, origins = self._found(table)
        if not origins:
            return found, []
        replaced = {name for names in origins.values() for name in names}
        for part, mine in origins.items():
            for other, theirs in origins.items():
                # If two simultaneous compactions merged the same parts, the later merged part is live.
                if mine < theirs or (mine == theirs and part.name < other.name):
                    replaced.add(part.name)
        return [p for p in found if p.name not in replaced], [p for p in found if p.name in replaced]

    def holding(self, table: str, names: Collection[str]) -> list[Part]:
        """Return the live parts that contain the rows of the named parts, and the part without rows.

        Args:
            table: the table of the parts.
            names: names under which parts were first written; some may have been merged since.

        Raises:
            StoreError: the rows of a named part are in no live part, or a part is damaged.
        """
        of_part = {part: self.origins(table, part) for part in self.live(table)}
        for name in sorted(set(names).difference(*of_part.values())):
            if not is_empty_name(name):
                raise StoreError(f"the snapshot cannot be read: part {name} of {table} is missing")
        return [part for part, origins in of_part.items() if part.is_empty or not origins.isdisjoint(names)]

    def _found(self, table: str) -> tuple[list[Part], dict[Part, frozenset[str]]]:
        """Return all parts of a table, and the origins of the merged parts.

        A compaction may delete a replaced merged part after it was listed and before it is read. The parts are then
        listed again.
        """
        before: list[Part] = []
        while True:
            found = self.parts(table)
            try:
                return found, {part: self.origins(table, part) for part in found if part.merged}
            except FileNotFoundError as error:
                if found == before:  # the part is still listed, but cannot be opened
                    raise StoreError(damaged(self._place, table)) from error
                before = found

    def origins(self, table: str, part: Part) -> frozenset[str]:
        """Return the names of the parts in which the rows of this part were first written.

        For a part that is not merged, this is only its own name.

        Raises:
            StoreError: the part is damaged.
            FileNotFoundError: the part does not exist any more; a compaction deletes replaced parts.
        """
        return self._merged(table, part).origins if part.merged else frozenset([part.name])

    def current(self, table: str, part: Part) -> int | None:
        """Return the number of rows at the start of a part of which no two have the same key; None if it is not known.

        No view shows the rows after them. The number is known for parts that were merged under the present schema.

        Raises:
            StoreError, FileNotFoundError: see `origins`.
        """
        known = part.merged and part.version == SCHEMA_VERSION
        return self._merged(table, part).current if known else None

    def steps(self, table: str, part: Part) -> Mapping[str, tuple[int, int]] | None:
        """Return the first and the last step of each run in a part; None if they are not known.

        Raises:
            StoreError, FileNotFoundError: see `origins`.
        """
        return self._merged(table, part).steps if part.merged else None

    def _merged(self, table: str, part: Part) -> Merged:
        path = f"{table}/{part.name}"
        if path not in self._facts:
            try:
                facts = about(self._place, table, part)
                steps = facts.get("steps") and {
                    run: (low, high) for run, (low, high) in facts["steps"].items()
                }
                self._facts[path] = Merged(frozenset(facts["origins"]), facts.get("current"), steps)
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowException, KeyError, ValueError) as error:
                raise StoreError(damaged(self._place, path)) from error
        return self._facts[path]


def about(place: Place, table: str, part: Part) -> dict[str, Any]:
    """Read the metadata of a part.

    These are its `table`, and `listed` (if its writer lists parts); if it is merged, the attributes of `Merged`.

    Raises:
        KeyError: the part has no such metadata, as in version 1.
        OSError, pyarrow.ArrowException, ValueError: the part is damaged.
    """
    with place.open(f"{table}/{part.name}") as file:
        content = (pq.read_metadata(file).metadata or {})[_METADATA]
    return dict(json.loads(content))


def damaged(place: Place, what: str) -> str:
    """Return the error message for a damaged file of a store.

    Args:
        place: location of the store's files.
        what: name of what is damaged, such as a part's path.
    """
    cure = diva("doctor", "--store", place.url, "--repair")
    return f"store {word(place.url)} cannot be read: {what} is damaged: `{cure}`"


# --- writing


def publish(place: Place, table: str, rows: pa.Table, not_before_ns: int = 0) -> Part:
    """Write rows as a new part of a table, and add it to the list of published parts.

    All rows become visible to readers at the same time. When the function returns, they are durable.

    Args:
        place: location of the store's files.
        table: name of the table.
        rows: rows of the part.
        not_before_ns: earliest time for the name of the part, see `Catalogue.now_ns`.

    Raises:
        StoreError: the folder cannot be written, or the disk is full.
    """
    part = publish_stream(place, table, rows.schema, [rows], not_before_ns=not_before_ns)
    place.note([f"+{table}/{part.name}"])
    return part


def publish_stream(
    place: Place,
    table: str,
    schema: pa.Schema,
    batches: Iterable[pa.Table],
    merged: Merged | None = None,
    *,
    not_before_ns: int = 0,
) -> Part:
    """Write a part one row group at a time. Unlike `publish`, this does not add it to the list of published parts.

    Args:
        place: location of the store's files.
        table: name of the table.
        schema: schema of the rows.
        batches: the row groups.
        merged: for a merged part, what its metadata says about its rows.
        not_before_ns: see `publish`.
    """
    said: dict[str, object] = {"table": table, "schema_version": SCHEMA_VERSION}
    said |= asdict(merged) | {"origins": sorted(merged.origins)} if merged else {"listed": True}
    rows = 0
    with place.draft(table) as draft:
        with pq.ParquetWriter(draft, schema.with_metadata(_about(said)), compression="zstd") as writer:
            for batch in batches:
                writer.write_table(batch.replace_schema_metadata(_about(said)))
                rows += batch.num_rows
        kind = "-merged" if merged else ""
        digest = draft.digest[:_DIGEST_DIGITS]
        draft.name = (
            f"{max(time.time_ns(), not_before_ns):020d}-v{SCHEMA_VERSION}{kind}-{rows}-{digest}.parquet"
        )
    return Part.named(draft.name)


def publish_empty(place: Place, table: str, schema: pa.Schema) -> None:
    """Write the part without rows of a table, see `empty_name`."""
    with place.draft(table) as draft:
        pq.write_table(schema.with_metadata(_about({"table": table})).empty_table(), draft)
        draft.name = empty_name(schema)


def publish_bytes(place: Place, path: str, content: bytes) -> None:
    """Write a whole file atomically, unless it already exists with this content.

    The name of such a file is derived from its content. An existing file with other content is therefore damaged and
    is replaced.

    Raises:
        StoreError: the folder cannot be written, or the disk is full.
    """
    if place.exists(path):
        with place.open(path) as file:
            if file.read() == content:
                return
        place.remove(path)
    folder, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
    with place.draft(folder) as draft:
        draft.write(content)
        draft.name = name


def _about(content: Mapping[str, object]) -> dict[bytes, bytes]:
    return {_METADATA: json.dumps(content).encode()}


# --- checking


def is_whole(place: Place, table: str, part: Part) -> bool:
    """Whether the content of a part is undamaged.

    The content is compared with the hash in the name. A part of version 1 has no hash: it only must be readable.

    Raises:
        FileNotFoundError: the part does not exist.
    """
    try:
        with place.open(f"{table}/{part.name}") as file:
            if part.digest is not None:
                return sha256_of(file).startswith(part.digest)
            with pq.ParquetFile(file) as parquet:
                for _ in parquet.iter_batches():
                    pass
            return True
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException):
        return False
