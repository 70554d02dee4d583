"""Run SQL that a user wrote: a single SELECT that reads only the store's tables, with time and memory limits."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from diva_grpo.pipeline.store.files.database import literal, quoted
from diva_grpo.pipeline.store.limits import (
    MAX_RESULT_BYTES,
    SQL_MEMORY_MB,
    SQL_TIMEOUT_S,
    too_large,
    too_long,
)
from diva_grpo.pipeline.store.query_errors import first_line, query_error
from diva_grpo.pipeline.store.store import VariantStore
from diva_grpo.pipeline.store.terminal import visible
from diva_grpo.schemas.exceptions import QueryError
from diva_grpo.schemas.records import RECORDS

FORMATS = ("table", "csv", "json", "parquet", "html")

_BATCH_ROWS = 8_192
_INTERRUPT_EVERY_S = 0.1
_OUT_OF_MEMORY = "Out of Memory Error"

# Inside the allowed folders, these settings do not forbid COPY, EXPORT and ATTACH. `run_select` therefore also accepts
# only a SELECT. Only the folders of the tables are allowed, so that no query reads the journal, the images or other
# files of the store.
_LOCKS = """
SET memory_limit = '{memory_mb}MiB';
SET max_temp_directory_size = '{spill_mb}MiB';
SET allowed_directories = [{folders}];
SET enable_external_access = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET python_enable_replacements = false;
SET lock_configuration = true
"""


def run_select(
    store: VariantStore, sql: str, *, timeout_s: float = SQL_TIMEOUT_S, memory_mb: int = SQL_MEMORY_MB
) -> pa.Table:
    """Run one SELECT over the store's views, in this process.

    DuckDB cannot count the memory of a single function call or interrupt it, for example one that creates a string
    of gigabytes. `run_apart` stops such a query too, because it runs the same query in a separate process.

    Args:
        store: the store.
        sql: one SELECT statement. WITH, FROM-first, VALUES, DESCRIBE and SHOW also count as SELECT.
        timeout_s: seconds after which DuckDB is asked to stop the query.
        memory_mb: memory limit of DuckDB, in MiB. Nothing is spilled to disk.

    Returns:
        The result, a pyarrow.Table whose columns all have different names.

    Raises:
        QueryError: `sql` is not exactly one SELECT, DuckDB reports an error, the query exceeds a time or memory
            limit, or the result is larger than `MAX_RESULT_BYTES`.
        StoreError: a part file is damaged.
    """
    with locked(store, sql, memory_mb=memory_mb) as connection:
        return select(store, connection, sql, timeout_s=timeout_s, memory_mb=memory_mb)


def locked(store: VariantStore, queries: str, *, memory_mb: int = SQL_MEMORY_MB) -> duckdb.DuckDBPyConnection:
    """Return a connection for `select` that can read only the store's tables. The caller must close it.

    Args:
        store: the store.
        queries: text of all queries that will run on the connection.
        memory_mb: see `run_select`.

    Raises:
        QueryError: the memory limit is too small to open the store.
        StoreError: a part file is damaged.
    """
    try:
        connection = store.connect(query=queries, memory_mb=memory_mb)
    except duckdb.OutOfMemoryException as error:
        raise QueryError(too_large(memory_mb)) from error
    lock(connection, store, memory_mb=memory_mb)
    return connection


def select(
    store: VariantStore,
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    *,
    timeout_s: float = SQL_TIMEOUT_S,
    memory_mb: int = SQL_MEMORY_MB,
) -> pa.Table:
    """Run one SELECT on a connection from `locked`; see `run_select`."""
    statements = _statements(sql, connection)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("only one SELECT is admitted: the store is read-only by SQL")
    # DuckDB 2 allows COPY, INSERT, UPDATE and DELETE in the WITH clause of a SELECT, but only at the top level. A
    # sub-query cannot write. The outer SELECT also makes column names unique, by adding numbers.
    query = "SELECT * FROM (\n" + _without_end(statements[0].query) + "\n)"
    with _time_limit(connection, timeout_s) as expired:
        try:
            with store.naming_damage(sql):
                return _collected(connection.sql(query).to_arrow_reader(_BATCH_ROWS))
        # Arrow wraps DuckDB's errors in an OSError.
        except (duckdb.Error, OSError, MemoryError) as error:
            if expired.is_set():
                raise QueryError(too_long(timeout_s)) from error
            if isinstance(error, MemoryError) or _OUT_OF_MEMORY in str(error):
                raise QueryError(too_large(memory_mb)) from error
            raise query_error(connection, sql, error) from error


def split_statements(sql: str) -> list[str]:
    """Split SQL into its statements and return them without their semicolons.

    Raises:
        QueryError: the SQL has a syntax error.
    """
    return [_without_end(statement.query) for statement in _statements(sql, None)]


def _without_end(statement: str) -> str:
    """Return a statement without its final semicolon and without comments at its end, for use as a sub-query."""
    content, end = statement.encode(), len(statement.encode())
    for start, kind in reversed(duckdb.tokenize(statement)):
        if kind != duckdb.token_type.comment and content[start:end].strip() != b";":
            break
        end = start
    return content[:end].decode().strip()


def lock(
    connection: duckdb.DuckDBPyConnection, store: VariantStore, *, memory_mb: int, spill_mb: int = 0
) -> None:
    """Restrict a connection so that it can read only the store's tables. This cannot be undone.

    Args:
        connection: from `store.connect()`.
        store: the store.
        memory_mb: memory limit of DuckDB, in MiB.
        spill_mb: MiB that DuckDB may spill to disk.
    """
    tables = [str(store.root / record.table) for record in RECORDS]
    # DuckDB compares the allowed folders with the paths in a query as text, so the escaped form is added too.
    folders = ", ".join(map(quoted, dict.fromkeys([*tables, *map(literal, tables)])))
    connection.execute(_LOCKS.format(memory_mb=memory_mb, folders=folders, spill_mb=spill_mb))


def _statements(sql: str, connection: duckdb.DuckDBPyConnection | None) -> list[duckdb.Statement]:
    try:
        sql.encode()
        return connection.extract_statements(sql) if connection else duckdb.extract_statements(sql)
    except UnicodeEncodeError as error:
        raise QueryError(
            "the query contains half of a surrogate pair, so it is not valid Unicode text"
        ) from error
    except duckdb.Error as error:
        raise QueryError(first_line(error)) from error


@contextmanager
def _time_limit(connection: duckdb.DuckDBPyConnection, timeout_s: float) -> Iterator[threading.Event]:
    """Interrupt the connection after `timeout_s` seconds. Yields an event that is set at that time."""
    finished, expired = threading.Event(), threading.Event()

    def watch() -> None:
        if not finished.wait(timeout_s):
            expired.set()
            # Repeated, because DuckDB ignores an interrupt that comes before it begins to execute.
            while not finished.wait(_INTERRUPT_EVERY_S):
                connection.interrupt()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield expired
    finally:
        finished.set()
        watcher.join()


def _collected(reader: pa.RecordBatchReader) -> pa.Table:
    batches, size = [], 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > MAX_RESULT_BYTES:
            raise QueryError(f"the result is larger than {MAX_RESULT_BYTES >> 20} MiB: narrow it by a LIMIT")
    return pa.Table.from_batches(batches, reader.schema)


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches(_BATCH_ROWS):
        columns = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                columns.append(column.to_pylist())
            except (OverflowError, ValueError) as error:
                message = (
                    f"column {name!r} has values beyond Python's ({error}): cast it to VARCHAR in the query"
                )
                raise QueryError(message) from error
        yield from zip(*columns, strict=True)


def _plain(value: Any) -> Any:
    """Convert a value to types that JSON has: NaN and infinities to None, decimals to numbers, times to text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _cell(value: Any) -> Any:
    """Convert a value to a cell of a table or CSV file. A list or struct is written as JSON."""
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, list | dict) else value


def _csv(table: pa.Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(map(_cell, row) for row in _rows(table))
    return buffer.getvalue().removesuffix("\n")


def as_text(table: pa.Table, output_format: str) -> str:
    """Return a result as text, in any of `FORMATS` except Parquet; see `render`."""
    if output_format == "csv":
        return _csv(table)
    if output_format == "json":
        rows = (dict(zip(table.column_names, map(_plain, row), strict=True)) for row in _rows(table))
        texts = [textwrap.indent(json.dumps(row, ensure_ascii=False, indent=1), " ") for row in rows]
        return "[\n" + ",\n".join(texts) + "\n]" if texts else "[]"
    cells = [list(map(_cell, row)) for row in _rows(table)]
    form = "html" if output_format == "html" else "simple"
    from tabulate import tabulate  # imported here because it is slow to load and not always needed

    return visible(
        tabulate(cells, headers=table.column_names, tablefmt=form, disable_numparse=True, missingval="")
    )


def render(table: pa.Table, output_format: str, out: Path | None = None) -> str | None:
    """Return a result as text, or write it to a file.

    Args:
        table: result of `run_select`.
        output_format: one of `FORMATS`. In CSV, lists and structs are written as JSON, and NULL as an empty cell.
        out: file to write; required for Parquet. None returns the text.

    Returns:
        The text; None if a file was written.

    Raises:
        QueryError: the format is Parquet and `out` is None, the file cannot be written, or the format cannot
            represent a value.
    """
    if output_format != "parquet":
        text = as_text(table, output_format)
        if out is not None:
            write_text(text, out)
        return text if out is None else None
    if out is None:
        raise QueryError("--format parquet needs --output FILE")
    with _writing(out), out.open("wb") as file:
        pq.write_table(table, file)
    return None


def write_text(text: str, out: Path) -> None:
    """Write text and a final line break to a file.

    Raises:
        QueryError: the file cannot be written.
    """
    with _writing(out):
        out.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise QueryError(f"{out} cannot be written: {first_line(error)}") from error
