"""Immutable Parquet part files, each published by one atomic rename."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.exceptions import StoreError

EMPTY_PART = "00000000000000000000-empty.parquet"
"""A part without rows in every table, so that a view always has a schema to read."""


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _published(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is at `path` on leaving: all at once, and durably."""
    # A name that no reader's glob matches and no other writer has.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def publish(folder: Path, table: pa.Table, name: str | None = None) -> str:
    """Write `table` as a new part of `folder`, visible to readers all at once and durable on return.

    Returns:
        The part's file name; names sort by the time of writing.

    Raises:
        StoreError: the folder cannot be written, or the disk is full.
    """
    name = name or f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.parquet"
    with _published(folder / name) as out:
        pq.write_table(table, out, compression="zstd")
    return name


def publish_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically; nothing is done where it exists (contents are addressed by hash).

    Raises:
        StoreError: the folder cannot be written, or the disk is full.
    """
    if path.exists():
        return
    with _published(path) as out:
        out.write(content)
