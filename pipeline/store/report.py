"""Results of the named queries, for `diva status`, `diva report` and the report page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from diva_grpo.pipeline.store import VariantStore, render
from diva_grpo.pipeline.store.queries import Query, queries
from diva_grpo.pipeline.store.sql import select

EMPTY = "The store is empty: `diva ingest` brings problems into it."


def sections(store: VariantStore, asked: Iterable[Query] | None = None) -> Iterator[tuple[Query, pa.Table]]:
    """Run queries and yield each one with its rows. Queries without rows are skipped.

    Args:
        store: the store.
        asked: the queries; default all named queries.

    Raises:
        QueryError: a query takes too long.
        StoreError: a part file is damaged.
    """
    asked = [*(queries().values() if asked is None else asked)]
    with store.cursor("\n".join(query.sql for query in asked)) as connection:
        for query in asked:
            table = select(store, connection, query.sql)
            if table.num_rows:
                yield query, table


def as_text(found: Iterable[tuple[Query, pa.Table]]) -> str:
    """Format the results of queries (see `sections`) as text for a terminal."""
    return "\n\n".join(f"{query.title}\n{render(table, 'table')}" for query, table in found)


def as_rows(found: Iterable[tuple[Query, pa.Table]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the results of queries (see `sections`), by name or else by title in lower case."""
    names = {query: name for name, query in queries().items()}
    return {
        names.get(query, query.title.lower().replace(" ", "_")): table.to_pylist() for query, table in found
    }
