"""Errors of queries in one line, with the names that a misspelt one is near to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.exceptions import QueryError, first_line

_UNKNOWN_VIEW = re.compile(r"Table with name \"?(\w+)\"? does not exist")
_UNKNOWN_COLUMN = re.compile(
    r"(?:Referenced column \"(\w+)\" (?:was )?not found|does not have a column named \"(\w+)\")"
)


@contextmanager
def in_one_line(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[None]:
    """Turn an error of DuckDB into an error of one line.

    Args:
        connection: the connection on which the query runs inside the context.
        sql: the query.

    Raises:
        QueryError: DuckDB has raised an error.
    """
    try:
        yield
    except duckdb.Error as error:
        raise query_error(connection, sql, error) from error


def query_error(connection: duckdb.DuckDBPyConnection, sql: str, error: Exception) -> QueryError:
    """Return the error to raise for a query that failed: the first line of the message, and similar names.

    Args:
        connection: the connection on which the query ran.
        sql: the query.
        error: the error, of DuckDB or of Arrow.
    """
    return QueryError(first_line(error).removesuffix("!") + _near_names(connection, sql, error))


def _near_names(connection: duckdb.DuckDBPyConnection, sql: str, error: Exception) -> str:
    """Return text to add to an error about an unknown view or column: similar names, and a command to see them all.

    The text is empty for other errors.
    """
    if found := _UNKNOWN_VIEW.search(str(error)):
        names, all_names = view_names(), "views"
    elif found := _UNKNOWN_COLUMN.search(str(error)):
        columns = connection.execute(
            "SELECT DISTINCT column_name FROM duckdb_columns() WHERE table_name IN (SELECT unnest(?)) ORDER BY 1",
            [[name for name in view_names() if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]],
        )
        names, all_names = [name for (name,) in columns.fetchall()], "columns"
    else:
        return ""
    near = difflib.get_close_matches(found[found.lastindex or 1].lower(), names)
    guess = f"; did you mean {' or '.join(near)}?" if near else ";"
    return f"{guess} `diva sql --schema` shows the {all_names}"
