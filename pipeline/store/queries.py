"""The named queries of a store (`queries.sql`), which the report, `diva status`, the artifacts and the demo share."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from diva_grpo.pipeline.store.sql import locked, select
from diva_grpo.pipeline.store.store import VariantStore


class Query(NamedTuple):
    """A title for readers, and one SELECT with its semicolon."""

    title: str
    sql: str


@cache
def queries() -> dict[str, Query]:
    """All queries by name, in the order of the loop; one without a name goes by its title."""
    text = resources.files("diva_grpo.pipeline.store").joinpath("queries.sql").read_text("utf-8")
    found = {}
    for block in text.split("\n-- ## ")[1:]:
        heading, _, sql = block.partition("\n")
        title, _, name = heading.rstrip("] ").partition(" [")
        found[name or title] = Query(title, sql.strip())
    return found


def answer(store: VariantStore, name: str) -> list[dict[str, Any]]:
    """The rows of a named query, as dictionaries by column.

    Raises:
        QueryError: the query takes too long.
        StoreError: a part file is damaged.
    """
    sql = queries()[name].sql
    with locked(store, sql) as connection:
        rows: list[dict[str, Any]] = select(store, connection, sql).to_pylist()
    return rows
