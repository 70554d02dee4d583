"""DuckDB databases that last as long as their connection, and how a path is written in their SQL."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Sequence

import duckdb

from diva_grpo.schemas.command import word
from diva_grpo.schemas.exceptions import StoreError

MAX_SPILL_MB = 20_000
"""MiB that a connection may spill to disk."""


def open_database() -> duckdb.DuckDBPyConnection:
    """An empty database in memory, which spills to a folder of its own among the system's temporary files."""
    database = duckdb.connect()
    # DuckDB makes the folder when it first spills, and removes it with the database; its default is `.tmp` in the
    # working folder, up to nine tenths of the disk.
    spill = quoted(os.path.join(tempfile.gettempdir(), f"diva-spill-{uuid.uuid4().hex}"))
    # A bar is written to standard output, into what a command prints there. The system caches files already; footers
    # are parsed once, since no part ever changes. The times of all records are UTC: now() must be compared as such.
    database.execute(
        f"SET enable_progress_bar = false; SET enable_external_file_cache = false; SET parquet_metadata_cache = true; "
        f"SET TimeZone = 'UTC'; SET temp_directory = {spill}; SET max_temp_directory_size = '{MAX_SPILL_MB}MiB'"
    )
    return database


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def literal(path: str, more: str = "") -> str:
    """A path as DuckDB must be given it where it takes a glob, so that it means this one file or folder.

    >>> literal("/data/run[1]/store")
    '/data/run[[]1]/store'

    Args:
        path: of a file or a folder.
        more: a glob that is appended to it.

    Raises:
        StoreError: DuckDB has no way to write it.
    """
    escaped = re.sub(r"[*?\[]", r"[\g<0>]", path) + more
    if escaped != path and "\\" in path:
        raise StoreError(
            f"DuckDB cannot read patterns in a folder whose path has a backslash: rename {word(path)}"
        )
    return escaped


def parquet(files: Sequence[str], *, names: bool = False) -> str:
    """A call of DuckDB's reader for exactly these files, by the columns in them alone.

    DuckDB by itself takes a folder named `status=accepted` above them for a column, and their paths for globs.

    Args:
        files: their paths.
        names: add the column `filename`.
    """
    return parquet_glob([literal(file) for file in files], names=names)


def parquet_glob(patterns: Sequence[str], *, names: bool = False) -> str:
    """As `parquet`, of globs, of which `literal` has written what is meant literally."""
    more = ", filename = true" if names else ""
    return f"read_parquet([{', '.join(map(quoted, patterns))}], union_by_name = true, hive_partitioning = false{more})"
