"""Results of the named queries, for `diva status`, `diva report` and the report page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from diva_grpo.pipeline.store import VariantStore, render
from diva_grpo.pipeline.store.queries import Query, queries
from diva_grpo.pipeline.store.sql import locked, select


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
    with locked(store, "\n".join(query.sql for query in asked)) as connection:
        for query in asked:
            table = select(store, connection, query.sql)
            if table.num_rows:
                yield query, table


def text_report(store: VariantStore) -> str:
    """Return the results of all named queries as text for a terminal."""
    blocks = [f"{query.title}\n{render(table, 'table')}" for query, table in sections(store)]
    return "\n\n".join(blocks) or "The store is empty: `diva ingest` brings problems into it."
