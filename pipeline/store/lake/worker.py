"""The program that changes a DuckLake for `pipeline.store.lake.catalogue`, in a separate process.

Each build of the DuckLake extension works with one release of DuckDB only. This program imports only duckdb, so it can
run in an environment with another release. It reads a plan from standard input and writes the result to standard
output, both as JSON. On an error it writes one line to standard error and exits with code 3.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import duckdb

REFUSED = 3
_BACKENDS = {"postgres": "postgres_scanner", "sqlite": "sqlite_scanner", "mysql": "mysql_scanner"}
_SCHEMA = "parts"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def load_extension(connection: duckdb.DuckDBPyConnection, extension: str) -> None:
    """Load an extension from its PyPI package. Without the package, DuckDB searches for it or downloads it."""
    package = importlib.util.find_spec(f"duckdb_extension_{extension}")
    for folder in package.submodule_search_locations or () if package else ():
        for file in Path(folder).rglob(f"v{duckdb.__version__}/{extension}.duckdb_extension"):
            connection.execute(f"LOAD {_quoted(str(file))}")
            return
    try:
        connection.execute(f"LOAD {extension}")
    except duckdb.Error:
        connection.execute(f"INSTALL {extension}; LOAD {extension}")


def _columns(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    return {str(row[0]): str(row[1]) for row in connection.execute(f"DESCRIBE {source}").fetchall()}


def _make_table(connection: duckdb.DuckDBPyConnection, table: str, empty: str, exists: bool) -> bool:
    """Create a table of the lake, or add missing columns to it.

    Args:
        connection: to the lake.
        table: name of the table.
        empty: path of the table's part without rows, which has all columns. The column `part` is added to them.
        exists: whether the lake has the table already.

    Returns:
        Whether the table was changed.
    """
    wanted = _columns(connection, f"FROM read_parquet({_quoted(empty)})") | {"part": "VARCHAR"}
    if not exists:
        columns = ", ".join(f'"{name}" {kind}' for name, kind in wanted.items())
        connection.execute(f"CREATE TABLE {_SCHEMA}.{table} ({columns})")
        return True
    new = wanted.keys() - _columns(connection, f"{_SCHEMA}.{table}").keys()
    for name in sorted(new):
        connection.execute(f'ALTER TABLE {_SCHEMA}.{table} ADD COLUMN "{name}" {wanted[name]}')
    return bool(new)


def _match(connection: duckdb.DuckDBPyConnection, table: str, live: list[str]) -> tuple[int, int]:
    """Add the live files that the lake's table does not have, and remove its files that are not live.

    Returns:
        The numbers of added and of removed files.
    """
    listed = connection.execute(
        f"SELECT data_file FROM ducklake_list_files('lake', '{table}', schema => '{_SCHEMA}')"
    ).fetchall()
    # Files are compared by name, which contains the hash of the content. Their folders may differ between machines.
    there = {os.path.basename(file): file for (file,) in listed}
    wanted = {os.path.basename(file): file for file in live}
    gone = [there[name] for name in sorted(there.keys() - wanted.keys())]
    new = [wanted[name] for name in sorted(wanted.keys() - there.keys())]
    if gone:
        # If all rows of a file are deleted, DuckLake removes the file and writes no file of deletions.
        connection.execute(
            f"DELETE FROM {_SCHEMA}.{table} WHERE filename IN (SELECT unnest(?::VARCHAR[]))", [gone]
        )
    if new:
        connection.execute(
            f"CALL ducklake_add_data_files('lake', '{table}', ?::VARCHAR[], schema => '{_SCHEMA}', "
            "allow_missing => true, ignore_extra_columns => true)",
            [new],
        )
    return len(new), len(gone)


def sync(plan: dict[str, Any]) -> dict[str, int]:
    """Apply a plan to a DuckLake in one transaction.

    Args:
        plan: a dictionary with `catalog` (the address for ATTACH), `data_path`, `tables` (for each table, `empty` is
            the path of its part without rows, and `live` has the paths of its live parts) and `views` (the CREATE
            VIEW statements in order).

    Returns:
        The numbers of files that were `added` and `removed`, and the id of the catalogue's latest `snapshot`.

    Raises:
        duckdb.Error: the extension does not exist for this release of DuckDB, or the catalogue cannot be used.
    """
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")  # the bar would go to standard output
        load_extension(connection, "ducklake")
        kind = str(plan["catalog"]).split(":")[1]
        if kind in _BACKENDS:
            load_extension(connection, _BACKENDS[kind])
        # If deletions were stored inside the catalogue, a file without rows would stay listed.
        connection.execute(
            f"ATTACH {_quoted(plan['catalog'])} AS lake "
            f"(DATA_PATH {_quoted(plan['data_path'])}, DATA_INLINING_ROW_LIMIT 0); USE lake; BEGIN"
        )
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
        tables = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake' AND schema_name = ?",
            [_SCHEMA],
        ).fetchall()
        added = removed = 0
        changed = False
        for table, files in plan["tables"].items():
            changed |= _make_table(connection, table, files["empty"], (table,) in tables)
            new, gone = _match(connection, table, files["live"])
            added, removed = added + new, removed + gone
        if changed or added or removed:
            # If two syncs run at the same time, DuckLake refuses one of them, because both replace the same views.
            for statement in plan["views"]:
                connection.execute(statement)
            connection.execute("COMMIT")
        else:
            connection.execute("ROLLBACK")
        [(snapshot,)] = connection.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchall()
    return {"added": added, "removed": removed, "snapshot": int(snapshot)}


def main() -> None:
    """Read a plan from standard input, apply it with `sync` and print the result."""
    try:
        print(json.dumps(sync(json.load(sys.stdin))))
    except duckdb.Error as error:
        print(f"DuckDB {duckdb.__version__}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
