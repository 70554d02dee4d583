"""Immutable Parquet part files: their names, which of them a reader reads, and how one is published.

The name of a part tells what must be known without opening it:

    <time>-v<version>[-merged]-<rows>-<hash>.parquet

Time is nanoseconds since 1970 at the writer, the hash is the SHA-256 of the file, so that damage of any byte
shows. A part merged by compaction keeps for each row the name of the part that it was first written in (its
*origin*, in the column `part`), and the names of all origins in its metadata. So which parts a merged one
replaces follows from what is there, and a snapshot of parts merged since can still be read, row by row.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
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
"""Column of merged parts: name of the part that the row was first written in."""

IMAGES = "images"
"""Folder of the images, each under its hash."""

AHEAD_NS = 60 * 10**9
"""Nanoseconds that clocks may be apart before it is said."""

_NAME = re.compile(r"(\d{20})-v(\d+)(-merged)?-(\d+)-([0-9a-f]{16})\.parquet")
_OLD_NAME = re.compile(r"(\d{19,20})-[0-9a-f]{12}\.parquet")
_METADATA = b"diva"
_DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Part:
    """What the name of a part tells; None where it is of version 1, which told less.

    Attributes:
        written_ns: nanoseconds since 1970, by the writer's clock.
        digest: the first hex digits of the content's SHA-256.
    """

    name: str
    version: int = 1
    merged: bool = False
    written_ns: int | None = None
    rows: int | None = None
    digest: str | None = None

    @classmethod
    def named(cls, name: str) -> Part:
        """The part of a file's name."""
        if found := _NAME.fullmatch(name):
            time_ns, version, merged, rows, digest = found.groups()
            return cls(name, int(version), bool(merged), int(time_ns), int(rows), digest)
        old = _OLD_NAME.fullmatch(name)
        return cls(name, written_ns=int(old[1]) if old else None)

    @property
    def is_empty(self) -> bool:
        """Whether it is the part without rows that each table has from the start."""
        return is_empty_name(self.name)


def is_empty_name(name: str) -> bool:
    """Whether a part of this name has no rows, in any version."""
    return name.startswith("0" * 20 + "-empty")


def empty_name(schema: pa.Schema) -> str:
    """Name of the part without rows that gives a view all columns of this schema, whatever else is there."""
    fingerprint = hashlib.sha256(schema.to_string().encode()).hexdigest()[:8]
    return f"{'0' * 20}-empty-{fingerprint}.parquet"


def as_time(ns: int) -> datetime:
    """Nanoseconds since 1970 as records have times, never later than they are."""
    return datetime(1970, 1, 1) + timedelta(microseconds=ns // 1000)


# --- reading


class Catalogue:
    """The parts of a store as they are at each call; what merged parts say of themselves is remembered."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._origins: dict[str, frozenset[str]] = {}
        self._newest_ns: dict[str, int] = {}

    def now_ns(self, table: str) -> int:
        """The present moment as a table counts it, in nanoseconds since 1970: after each part that was seen here.

        So what is written in answer to a part counts as later than it, although the other's clock was ahead.
        """
        return max(time.time_ns(), self._newest_ns.get(table, 0) + 1_000)

    def parts(self, table: str) -> list[Part]:
        """All parts of a table, those that a merged one replaces included.

        Raises:
            StoreError: a part is of a version that this program does not know.
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
        """Note a part that was written here, see `now_ns`."""
        self._newest_ns[table] = max(self._newest_ns.get(table, 0), part.written_ns or 0)

    def live(self, table: str) -> list[Part]:
        """The parts that a reader needs to read: each row is in at least one of them.

        Raises:
            StoreError: a merged part is damaged, or a part is of a later version.
        """
        return self.split(table)[0]

    def split(self, table: str) -> tuple[list[Part], list[Part]]:
        """The live parts, and those that merged ones replace."""
        found, origins = self._found(table)
        if not origins:
            return found, []
        replaced = {name for names in origins.values() for name in names}
        for part, mine in origins.items():
            for other, theirs in origins.items():
                # Of two merged from the same parts, by two compactions at once, the later one stays.
                if mine < theirs or (mine == theirs and part.name < other.name):
                    replaced.add(part.name)
        return [p for p in found if p.name not in replaced], [p for p in found if p.name in replaced]

    def holding(self, table: str, names: Collection[str]) -> list[Part]:
        """The live parts that hold the rows of the named ones, and the part without rows.

        Args:
            table: of the parts.
            names: of parts as they were written; some may have been merged since.

        Raises:
            StoreError: one of them is in no live part, or a part is damaged.
        """
        of_part = {part: self.origins(table, part) for part in self.live(table)}
        for name in sorted(set(names).difference(*of_part.values())):
            if not is_empty_name(name):
                raise StoreError(f"the snapshot cannot be read: part {name} of {table} is missing")
        return [part for part, origins in of_part.items() if part.is_empty or not origins.isdisjoint(names)]

    def _found(self, table: str) -> tuple[list[Part], dict[Part, frozenset[str]]]:
        """All parts of a table, and the origins of the merged ones.

        A merged part that a later one replaced long ago may go between the list and a look into it: then the
        list is an old one, and another is made.
        """
        before: list[Part] = []
        while True:
            found = self.parts(table)
            try:
                return found, {part: self.origins(table, part) for part in found if part.merged}
            except FileNotFoundError as error:
                if found == before:  # listed, and yet not there
                    raise StoreError(damaged(self._place, table)) from error
                before = found

    def origins(self, table: str, part: Part) -> frozenset[str]:
        """Names of the parts that the rows of this one were first written in: its own, or those merged in it.

        Raises:
            StoreError: it is damaged.
            FileNotFoundError: it is gone, as one that another replaced goes in time.
        """
        if not part.merged:
            return frozenset([part.name])
        path = f"{table}/{part.name}"
        if path not in self._origins:
            try:
                self._origins[path] = frozenset(about(self._place, table, part)["origins"])
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowException, KeyError, ValueError) as error:
                raise StoreError(damaged(self._place, path)) from error
        return self._origins[path]


def about(place: Place, table: str, part: Part) -> dict[str, Any]:
    """What a part says of itself: its `table`, the `origins` of a merged one, whether it is `listed`.

    Raises:
        OSError, pyarrow.ArrowException, KeyError, ValueError: it is damaged, or of version 1, which said nothing.
    """
    with place.open(f"{table}/{part.name}") as file:
        content = (pq.read_metadata(file).metadata or {})[_METADATA]
    return dict(json.loads(content))


def damaged(place: Place, what: str) -> str:
    """The line that a user reads where a file cannot be read."""
    cure = diva("doctor", "--store", place.url, "--repair")
    return f"store {word(place.url)} cannot be read: {what} is damaged: `{cure}`"


# --- writing


def publish(place: Place, table: str, rows: pa.Table, not_before_ns: int = 0) -> Part:
    """Write rows as a new part of a table, visible to readers all at once and durable on return.

    Args:
        place: of the store.
        table: its name.
        rows: of the part.
        not_before_ns: the least time that its name may tell, see `Catalogue.now_ns`.

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
    origins: Iterable[str] = (),
    *,
    not_before_ns: int = 0,
) -> Part:
    """Write a part a row group at a time.

    Args:
        place: of the store.
        table: its name.
        schema: of the rows.
        batches: the row groups.
        origins: for a merged part, the parts that its rows were first written in.
        not_before_ns: see `publish`.
    """
    merged = sorted(origins)
    said: dict[str, object] = {"table": table, "schema_version": SCHEMA_VERSION}
    said |= {"origins": merged} if merged else {"listed": True}
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
    """Give a table its part without rows."""
    with place.draft(table) as draft:
        pq.write_table(schema.with_metadata(_about({"table": table})).empty_table(), draft)
        draft.name = empty_name(schema)


def publish_bytes(place: Place, path: str, content: bytes) -> None:
    """Write a whole file atomically; nothing is done where it is there with this content.

    Files are named by their content, so one that holds another is damaged: it gives way.

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
    """Whether the bytes of a part are those that were written (of version 1: whether they can be read)."""
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
