"""A user's own SQL: exactly one SELECT, on this store's files alone, within a time limit."""

from __future__ import annotations

import csv
import io
import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from pipeline.store.store import VariantStore
from schemas.exceptions import QueryError

FORMATS = ("table", "csv", "json", "parquet")

MAX_RESULT_BYTES = 2**30
"""Largest result in memory; beyond it the query is ended."""

_BATCH_ROWS = 8_192
_INTERRUPT_EVERY_S = 0.1

# What is not locked here stays open inside of an allowed folder (COPY, EXPORT, ATTACH), which is why
# `run_select` admits nothing but one SELECT as well.
_LOCKS = """
SET allowed_directories = ['{root}'];
SET enable_external_access = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET python_enable_replacements = false;
SET lock_configuration = true
"""


def run_select(store: VariantStore, sql: str, *, timeout_s: float = 60.0) -> pa.Table:
    """Run one SELECT over the store's views.

    Args:
        store: the store.
        sql: one SELECT statement (WITH, FROM-first, VALUES, DESCRIBE and SHOW count as such).
        timeout_s: seconds after which the query is ended, between two steps of the engine.

    Returns:
        The result, a pyarrow.Table whose columns all have different names.

    Raises:
        QueryError: more or other than one SELECT, an error of the engine, the time limit, or a result
            beyond `MAX_RESULT_BYTES`.
        StoreError: a part file is damaged.
    """
    with store.connect() as connection:
        connection.execute(_LOCKS.format(root=str(store.root).replace("'", "''")))
        try:
            statements = connection.extract_statements(sql)
        except duckdb.Error as error:
            raise QueryError(_first_line(error)) from error
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise QueryError("only one SELECT is admitted: the store is read-only by SQL")
        # DuckDB 2 admits COPY, INSERT, UPDATE and DELETE in the WITH clause of a SELECT, and only at the top
        # level: as a sub-query nothing can write. It also gives columns of the same name a number each.
        query = "SELECT * FROM (\n" + statements[0].query.rstrip("; \n\t") + "\n)"
        with _time_limit(connection, timeout_s) as expired:
            try:
                return _collected(connection.sql(query).to_arrow_reader(_BATCH_ROWS))
            except (duckdb.Error, OSError) as error:  # Arrow wraps the engine's errors in an OSError
                if expired.is_set():
                    message = f"the query took longer than {timeout_s:g} s: narrow it, or raise --timeout"
                    raise QueryError(message) from error
                raise QueryError(_first_line(error)) from error


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            columns.append(column.to_pylist())
        except (OverflowError, ValueError) as error:
            message = f"column {name!r} has values beyond Python's ({error}): cast it to VARCHAR in the query"
            raise QueryError(message) from error
    return zip(*columns, strict=True)


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


def _text(table: pa.Table, output_format: str) -> str:
    if output_format == "csv":
        return _csv(table)
    if output_format == "json":
        rows = [dict(zip(table.column_names, map(_plain, row), strict=True)) for row in _rows(table)]
        return json.dumps(rows, ensure_ascii=False, indent=1)
    cells = [list(map(_cell, row)) for row in _rows(table)]
    return tabulate(cells, headers=table.column_names, disable_numparse=True, missingval="")


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
    if output_format == "parquet" and out is None:
        raise QueryError("--format parquet needs --output FILE")
    text = None if output_format == "parquet" else _text(table, output_format)
    if out is None:
        return text
    try:
        if text is None:
            pq.write_table(table, out)
        else:
            out.write_text(text + "\n", encoding="utf-8")
    except (OSError, pa.ArrowException) as error:
        raise QueryError(f"{out} cannot be written: {_first_line(error)}") from error
    return None
