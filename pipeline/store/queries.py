"""The named queries of `queries.sql`. The report, `diva status`, the artifacts and the demo use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from diva_grpo.pipeline.store.files.database import quoted
from diva_grpo.pipeline.store.sql import locked, select
from diva_grpo.pipeline.store.store import VariantStore


class Query(NamedTuple):
    """A named query: a title for readers, and one SELECT that ends with a semicolon."""

    title: str
    sql: str


@cache
def queries() -> dict[str, Query]:
    """Return all queries of `queries.sql` by name, in the order of the file. A query without a name has its title."""
    text = resources.files("diva_grpo.pipeline.store").joinpath("queries.sql").read_text("utf-8")
    found = {}
    for block in text.split("\n-- ## ")[1:]:
        heading, _, sql = block.partition("\n")
        title, _, name = heading.rstrip("] ").partition(" [")
        found[name or title] = Query(title, sql.strip())
    return found


def answer(store: VariantStore, name: str) -> list[dict[str, Any]]:
    """Run a named query and return its rows, each as a dictionary by column.

    Raises:
        QueryError: the query takes too long.
        StoreError: a part file is damaged.
    """
    return answers(store, [name])[name]


def answers(
    store: VariantStore, names: Sequence[str], only: Mapping[str, str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Run several named queries on the same state of the store, and return their rows by query name.

    Args:
        store: the store.
        names: names of the queries.
        only: values by column, such as `run_id`; only rows with these values are returned. All the queries must have
            these columns. None returns all rows.

    Raises:
        QueryError: a query takes too long.
        StoreError: a part file is damaged.
    """
    asked = {name: queries()[name].sql for name in names}
    if only:
        where = " AND ".join(f'"{column}" = {quoted(value)}' for column, value in only.items())
        asked = {name: f"FROM ({sql.rstrip(';')}) WHERE {where}" for name, sql in asked.items()}
    with locked(store, "\n".join(asked.values())) as connection:
        return {name: select(store, connection, sql).to_pylist() for name, sql in asked.items()}
