"""DuckDB databases that last as long as their connection."""

from __future__ import annotations

import duckdb


def open_database() -> duckdb.DuckDBPyConnection:
    """An empty database in memory."""
    database = duckdb.connect()
    # A bar is written to standard output, into what a command prints there. The system caches files already.
    database.execute("SET enable_progress_bar = false; SET enable_external_file_cache = false")
    return database
