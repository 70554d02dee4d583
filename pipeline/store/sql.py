"""A user's own SQL: exactly one SELECT, on this store's tables alone, within limits of time and memory."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
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
from diva_grpo.pipeline.store.store import VariantStore
from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.config import SQL_MEMORY_MB, SQL_TIMEOUT_S
from diva_grpo.schemas.exceptions import QueryError
from diva_grpo.schemas.records import RECORDS

FORMATS = ("table", "csv", "json", "parquet", "html")

MAX_RESULT_BYTES = 2**30
"""Largest result in memory; beyond it the query is ended."""

_BATCH_ROWS = 8_192
_INTERRUPT_EVERY_S = 0.1
_OUT_OF_MEMORY = "Out of Memory Error"

# What is not locked here stays open inside of an allowed folder (COPY, EXPORT, ATTACH), which is why
# `run_select` admits nothing but one SELECT as well. The folders are those of the tables: the journal of
# answers, images and whatever else lies in the store are no tables, and no query reads them.
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

    What the engine does not count or interrupt (one call that makes a string of gigabytes) is only stopped by
    `run_apart`, which is the same in a process of its own.

    Args:
        store: the store.
        sql: one SELECT statement (WITH, FROM-first, VALUES, DESCRIBE and SHOW count as such).
        timeout_s: seconds after which the query is ended, between two steps of the engine.
        memory_mb: MiB that the engine may use; it spills nothing to disk.

    Returns:
        The result, a pyarrow.Table whose columns all have different names.

    Raises:
        QueryError: more or other than one SELECT, an error of the engine, the limits of time and memory, or a
            result beyond `MAX_RESULT_BYTES`.
        StoreError: a part file is damaged.
    """
    with locked(store, sql, memory_mb=memory_mb) as connection:
        return select(store, connection, sql, timeout_s=timeout_s, memory_mb=memory_mb)


def locked(store: VariantStore, queries: str, *, memory_mb: int = SQL_MEMORY_MB) -> duckdb.DuckDBPyConnection:
    """A connection that reads the store's tables and nothing else, for `select`. The caller closes it.

    Args:
        store: the store.
        queries: text of all queries that it is for.
        memory_mb: see `run_select`.

    Raises:
        QueryError: the memory does not suffice to open the store.
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
    """Run one SELECT on a connection of `locked` to the store; see `run_select`."""
    statements = _statements(sql, connection)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("only one SELECT is admitted: the store is read-only by SQL")
    # DuckDB 2 admits COPY, INSERT, UPDATE and DELETE in the WITH clause of a SELECT, and only at the top
    # level: as a sub-query nothing can write. It also gives columns of the same name a number each.
    query = "SELECT * FROM (\n" + _without_end(statements[0].query) + "\n)"
    with _time_limit(connection, timeout_s) as expired:
        try:
            with store.naming_damage(sql):
                return _collected(connection.sql(query).to_arrow_reader(_BATCH_ROWS))
        # Arrow wraps the engine's errors in an OSError.
        except (duckdb.Error, OSError, MemoryError) as error:
            if expired.is_set():
                raise QueryError(too_long(timeout_s)) from error
            if isinstance(error, MemoryError) or _OUT_OF_MEMORY in str(error):
                raise QueryError(too_large(memory_mb)) from error
            raise QueryError(first_line(error) + _near_names(connection, sql, error)) from error


_UNKNOWN_VIEW = re.compile(r"Table with name \"?(\w+)\"? does not exist")
_UNKNOWN_COLUMN = re.compile(
    r"(?:Referenced column \"(\w+)\" (?:was )?not found|does not have a column named \"(\w+)\")"
)


def _near_names(connection: duckdb.DuckDBPyConnection, sql: str, error: Exception) -> str:
    """What to say beside an error of an unknown view or column."""
    if found := _UNKNOWN_VIEW.search(str(error)):
        names, cure = view_names(), " `diva sql --schema` shows the views"
    elif found := _UNKNOWN_COLUMN.search(str(error)):
        columns = connection.execute(
            "SELECT DISTINCT column_name FROM duckdb_columns() WHERE table_name IN (SELECT unnest(?)) ORDER BY 1",
            [[name for name in view_names() if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]],
        )
        names, cure = [name for (name,) in columns.fetchall()], ""
    else:
        return ""
    near = difflib.get_close_matches(found[found.lastindex or 1].lower(), names)
    return (f"; did you mean {' or '.join(near)}?" if near else "") + cure


def split_statements(sql: str) -> list[str]:
    """The statements of a text without their semicolons, each to be run on its own.

    Raises:
        QueryError: a syntax error.
    """
    return [_without_end(statement.query) for statement in _statements(sql, None)]


def _without_end(statement: str) -> str:
    """A statement without its semicolon, and without what stands behind it: a sub-query has none."""
    content, end = statement.encode(), len(statement.encode())
    for start, kind in reversed(duckdb.tokenize(statement)):
        if kind != duckdb.token_type.comment and content[start:end].strip() != b";":
            break
        end = start
    return content[:end].decode().strip()


def too_long(timeout_s: float) -> str:
    """What is said where the time was up."""
    return f"the query took longer than {timeout_s:g} s: narrow it, or raise --timeout"


def too_large(memory_mb: int) -> str:
    """What is said where the memory did not suffice."""
    return f"the query needs more than {memory_mb} MiB of memory: narrow it, or raise --memory"


def lock(
    connection: duckdb.DuckDBPyConnection, store: VariantStore, *, memory_mb: int, spill_mb: int = 0
) -> None:
    """Let a connection read the store's tables and nothing else, for good.

    Args:
        connection: of `store.connect()`.
        store: the store.
        memory_mb: MiB that the engine may use.
        spill_mb: MiB that it may spill to disk.
    """
    tables = [str(store.root / record.table) for record in RECORDS]
    # DuckDB compares them with paths as they are written in a query, escaped ones too.
    folders = ", ".join(map(quoted, dict.fromkeys([*tables, *map(literal, tables)])))
    connection.execute(_LOCKS.format(memory_mb=memory_mb, folders=folders, spill_mb=spill_mb))


def _statements(sql: str, connection: duckdb.DuckDBPyConnection | None) -> list[duckdb.Statement]:
    try:
        sql.encode()
        return connection.extract_statements(sql) if connection else duckdb.extract_statements(sql)
    except UnicodeEncodeError as error:
        raise QueryError("the query holds half of a surrogate pair, which is not text") from error
    except duckdb.Error as error:
        raise QueryError(first_line(error)) from error


@contextmanager
def _time_limit(connection: duckdb.DuckDBPyConnection, timeout_s: float) -> Iterator[threading.Event]:
    """Interrupt the connection when the time is up; yields an event that is set then."""
    finished, expired = threading.Event(), threading.Event()

    def watch() -> None:
        if not finished.wait(timeout_s):
            expired.set()
            # More than once: an interrupt before the engine has begun to execute is forgotten.
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


def first_line(error: Exception) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
    """A value as JSON knows it: NaN and infinities are null, decimals are numbers, times are text."""
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
    """A value in a table or a CSV file, where a list or a struct is written as JSON."""
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, list | dict) else value


def _csv(table: pa.Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(map(_cell, row) for row in _rows(table))
    return buffer.getvalue().removesuffix("\n")


def as_text(table: pa.Table, output_format: str) -> str:
    """A result in one of `FORMATS` but Parquet; see `render`."""
    if output_format == "csv":
        return _csv(table)
    if output_format == "json":
        rows = (dict(zip(table.column_names, map(_plain, row), strict=True)) for row in _rows(table))
        texts = [textwrap.indent(json.dumps(row, ensure_ascii=False, indent=1), " ") for row in rows]
        return "[\n" + ",\n".join(texts) + "\n]" if texts else "[]"
    cells = [list(map(_cell, row)) for row in _rows(table)]
    form = "html" if output_format == "html" else "simple"
    from tabulate import tabulate  # takes time to load, and a process that only computes has no use for it

    return visible(
        tabulate(cells, headers=table.column_names, tablefmt=form, disable_numparse=True, missingval="")
    )


_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_CONTROLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def visible(text: str) -> str:
    """Text for a terminal: the control characters of a data set, which could hide or forge what is shown, as signs.

    >>> visible("1\\x1b[8m2")
    '1␛[8m2'
    """
    return text.translate(_CONTROLS)


def render(table: pa.Table, output_format: str, out: Path | None = None) -> str | None:
    """A result as text; for Parquet, or where `out` is given, it is written and None is returned.

    Args:
        table: from `run_select`.
        output_format: one of `FORMATS`. CSV has lists and structs as JSON, and NULL as an empty cell.
        out: file to write.

    Raises:
        QueryError: Parquet without a file to write, a file that cannot be written, or values that the
            format cannot hold.
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
    """Write a result to a file.

    Raises:
        QueryError: it cannot be written.
    """
    with _writing(out):
        out.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise QueryError(f"{out} cannot be written: {first_line(error)}") from error
