"""DuckDB databases that last as long as their connection."""

from __future__ import annotations

import os
import tempfile
import uuid

import duckdb

MAX_SPILL_MB = 20_000
"""MiB that a connection may spill to disk."""


def open_database() -> duckdb.DuckDBPyConnection:
    """An empty database in memory, which spills to a folder of its own among the system's temporary files."""
    database = duckdb.connect()
    # DuckDB makes the folder when it first spills, and removes it with the database; its default is `.tmp` in the
    # working folder, up to nine tenths of the disk.
    spill = os.path.join(tempfile.gettempdir(), f"diva-spill-{uuid.uuid4().hex}").replace("'", "''")
    # A bar is written to standard output, into what a command prints there. The system caches files already.
    database.execute(
        f"SET enable_progress_bar = false; SET enable_external_file_cache = false; "
        f"SET temp_directory = '{spill}'; SET max_temp_directory_size = '{MAX_SPILL_MB}MiB'"
    )
    return database
