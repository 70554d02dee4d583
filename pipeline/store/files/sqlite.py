"""SQLite files that are read where nothing may be written: another's store, a read-only mount."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads a file and writes nothing, whatever the file is called; closed on leaving.

    Of a file with a log (WAL), SQLite wants to make an index of the log beside it. Where it cannot, as on a
    read-only mount, the index is kept in memory, and without a log none is needed.

    Args:
        path: of the file, absolute.

    Raises:
        sqlite3.Error: it cannot be opened, or is not a database.
    """
    # Else a ? in a name begins the options, a # ends them, and %41 is an A.
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
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # the index in memory
        yield connection


def fault_of(path: Path, table: str) -> str | None:
    """What is wrong with an SQLite file, in one line; None where all is well.

    Args:
        path: of the file, absolute.
        table: that it must have.
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
    """Whether the last page of an SQLite file is not whole, which SQLite itself reads as zeros without a word.

    The file is not opened here: to close it again would take the locks of every connection of this process with
    it (sqlite.org/howtocorrupt.html, 2.2), and another process would then remove the log that these still use.

    Args:
        connection: to the file.
        path: of the file.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    [(page_size,)] = connection.execute("PRAGMA page_size").fetchall()
    connection.execute("PRAGMA schema_version").fetchall()  # reads the file
    if _log(path).exists() and _log(path).stat().st_size:  # in use, or just recovered from
        return False
    return bool(path.stat().st_size % page_size)


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
