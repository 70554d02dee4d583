"""Read SQLite files in places where nothing can be written, such as another user's store or a read-only mount."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a read-only connection to an SQLite file. It is closed on leaving the context.

    If the file has a write-ahead log, SQLite wants to create an index of the log next to it. If this is not possible,
    as on a read-only mount, the index is kept in memory. Without a log, no index is needed.

    Args:
        path: absolute path of the file; its name may contain any characters.

    Raises:
        sqlite3.Error: the file cannot be opened, or is not a database.
    """
    # Quoted, because in a URI `?` begins the options, `#` ends them, and `%41` means A.
    address = f"file://{quote(os.fsencode(path))}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=60.0)
    with closing(connection):
        try:
            connection.execute("PRAGMA schema_version").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or not path.is_file():
                raise
        else:
            yield connection
            return
    has_log = _log(path).exists() and _log(path).stat().st_size
    more = "&vfs=unix-none" if has_log else "&immutable=1"
    with closing(sqlite3.connect(address + more, uri=True)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # keeps the index in memory
        yield connection


def fault_of(path: Path, table: str) -> str | None:
    """Check an SQLite file and return its fault in one line, or None if it has none.

    Args:
        path: absolute path of the file.
        table: name of a table that the file must have.
    """
    try:
        with reading(path) as connection:
            if is_cut_off(connection, path):
                return "its end is cut off"
            [(verdict,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
            connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    except sqlite3.Error as error:
        verdict = str(error)
    return None if verdict == "ok" else " ".join(verdict.split())


def is_cut_off(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the last page of an SQLite file is incomplete. SQLite reads such a page as zeros, without an error.

    This function does not open the file itself. Closing it would release the locks of all connections of this process
    (sqlite.org/howtocorrupt.html, 2.2), and another process could then delete the log that these connections use.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    [(page_size,)] = connection.execute("PRAGMA page_size").fetchall()
    connection.execute("PRAGMA schema_version").fetchall()  # reads the file
    if _log(path).exists() and _log(path).stat().st_size:  # in use, or just used for a recovery
        return False
    return bool(path.stat().st_size % page_size)


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
