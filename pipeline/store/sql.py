"""A user's own SQL: exactly one SELECT, on this store's files alone, within a time limit."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from pipeline.store.store import VariantStore
from pipeline.store.views import create_views
from schemas.exceptions import QueryError

FORMATS = ("table", "csv", "json", "parquet")


def _connection(store: VariantStore) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for statement in create_views(store.root):
        connection.execute(statement)
    # DuckDB's settings still let COPY, EXPORT and ATTACH through inside of an allowed folder, which is
    # why `run_select` admits nothing but one SELECT as well.
    connection.execute(f"SET allowed_directories = ['{str(store.root).replace(chr(39), chr(39) * 2)}']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def run_select(store: VariantStore, sql: str, *, timeout_s: float = 60.0) -> pa.Table:
    """Run one SELECT over the store's views.

    Args:
        store: the store.
        sql: one SELECT statement (WITH, FROM-first and VALUES count as such).
        timeout_s: seconds after which the query is ended.

    Returns:
        The result, a pyarrow.Table.

    Raises:
        QueryError: more or other than one SELECT, an error of the engine, or the time limit.
    """
    with _connection(store) as connection:
        try:
            statements = connection.extract_statements(sql)
        except duckdb.Error as error:
            raise QueryError(_first_line(error)) from error
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise QueryError("only one SELECT is admitted: the store is read-only by SQL")
        timer = threading.Timer(timeout_s, connection.interrupt)
        timer.start()
        try:
            table = connection.sql(statements[0].query).to_arrow_table()
        except duckdb.InterruptException as error:
            raise QueryError(
                f"the query took longer than {timeout_s:g} s: narrow it, or raise --timeout"
            ) from error
        except duckdb.Error as error:
            raise QueryError(_first_line(error)) from error
        finally:
            timer.cancel()
    return table


def _first_line(error: duckdb.Error) -> str:
    return str(error).strip().splitlines()[0]


def _csv(table: pa.Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(list(row.values()) for row in table.to_pylist())
    return buffer.getvalue().rstrip("\n")


def render(table: pa.Table, output_format: str, out: Path | None = None) -> str | None:
    """A result as text; for Parquet, or where `out` is given, it is written and None is returned.

    Raises:
        QueryError: Parquet without a file to write.
    """
    if output_format == "parquet":
        if out is None:
            raise QueryError("--format parquet needs --output FILE")
        pq.write_table(table, out)
        return None
    if output_format == "csv":
        text = _csv(table)
    elif output_format == "json":
        text = json.dumps(table.to_pylist(), ensure_ascii=False, default=str, indent=1)
    else:
        rows = [list(row.values()) for row in table.to_pylist()]
        text = tabulate(rows, headers=table.column_names, disable_numparse=True, missingval="")
    if out is None:
        return text
    out.write_text(text + "\n", encoding="utf-8")
    return None
