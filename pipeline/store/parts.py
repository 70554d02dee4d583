"""Immutable Parquet part files, each published by one atomic rename."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

EMPTY_PART = "00000000000000000000-empty.parquet"
"""A part without rows in every table, so that a view always has a schema to read."""


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    """A name beside `path` that no reader's glob matches and no other writer has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def publish(folder: Path, table: pa.Table, name: str | None = None) -> str:
    """Write `table` as a new part of `folder`, visible to readers all at once and durable on return.

    The file is written under a name that no reader's glob matches, synced, then renamed.

    Returns:
        The part's file name; names sort by the time of writing.

    Raises:
        OSError: the folder cannot be written.
    """
    name = name or f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.parquet"
    temporary = _temporary(folder / name)
    try:
        with temporary.open("wb") as out:
            pq.write_table(table, out, compression="zstd")
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    return name


def publish_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically; nothing is done where it exists (contents are addressed by hash)."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    with temporary.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
