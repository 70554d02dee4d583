"""In-memory DuckDB databases, and functions that write paths, texts and keys in DuckDB's SQL."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Sequence

import duckdb

from diva_grpo.schemas.command import word
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import Record

STEP = ("run_id", "step")
"""Columns that name a step of a training run."""

MAX_SPILL_MB = 20_000
"""MiB that a connection may spill to disk."""


def open_database() -> duckdb.DuckDBPyConnection:
    """Return an empty in-memory database. It spills to its own folder in the system's folder for temporary files."""
    database = duckdb.connect()
    # DuckDB creates the folder when it first spills, and deletes it with the database. By default it would use `.tmp`
    # in the working folder, and up to nine tenths of the disk.
    spill = quoted(os.path.join(tempfile.gettempdir(), f"diva-spill-{uuid.uuid4().hex}"))
    # The file cache is off because the system already caches files. Parquet footers are cached, because parts never
    # change. The time zone is UTC, because the times of all records are UTC and are compared with now().
    database.execute(
        f"SET enable_external_file_cache = false; SET parquet_metadata_cache = true; "
        f"SET TimeZone = 'UTC'; SET temp_directory = {spill}; SET max_temp_directory_size = '{MAX_SPILL_MB}MiB'"
    )
    # The progress bar would go to standard output, between the lines of a command. In Jupyter without ipywidgets it is
    # off, and setting it, even to off, is an error.
    if database.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(True,)]:
        database.execute("SET enable_progress_bar = false")
    return database


def quoted(text: str) -> str:
    """Return a text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def literal(path: str, more: str = "") -> str:
    """Escape a path for use where DuckDB takes a glob, so that it matches only this file or folder.

    >>> literal("/data/run[1]/store")
    '/data/run[[]1]/store'

    Args:
        path: path of a file or folder.
        more: a glob to append to the path; it is not escaped.

    Raises:
        StoreError: the path has both a pattern character and a backslash, which DuckDB cannot read.
    """
    escaped = re.sub(r"[*?\[]", r"[\g<0>]", path) + more
    if escaped != path and "\\" in path:
        raise StoreError(
            f"DuckDB cannot read patterns in a folder whose path has a backslash: rename {word(path)}"
        )
    return escaped


def key_of(record: type[Record]) -> str:
    """Return the columns of a record's key, for SQL."""
    return ", ".join(f'"{name}"' for name in record.key)


def latest_first(record: type[Record]) -> str:
    """Return the ORDER BY terms that put the valid record of a key first.

    A record that meets the condition `Record.holds` comes before the others, then the latest record.
    """
    known = f"({record.holds}) DESC, " if record.holds else ""
    return f"{known}recorded_at DESC, record_no DESC"


def parquet(files: Sequence[str], *, names: bool = False) -> str:
    """Return a call of DuckDB's `read_parquet` that reads exactly these files, and only the columns in them.

    By default, DuckDB would interpret the paths as globs, and a folder named `status=accepted` in a path as a column.

    Args:
        files: paths of the files.
        names: whether to add a column `filename`.
    """
    return parquet_glob([literal(file) for file in files], names=names)


def parquet_glob(patterns: Sequence[str], *, names: bool = False) -> str:
    """Like `parquet`, for globs. Parts of a glob that are not patterns must be escaped with `literal`."""
    more = ", filename = true" if names else ""
    return f"read_parquet([{', '.join(map(quoted, patterns))}], union_by_name = true, hive_partitioning = false{more})"
