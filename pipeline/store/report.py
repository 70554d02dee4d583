"""The state of a store on one page: the results of all named queries."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from diva_grpo.pipeline.store import VariantStore, render
from diva_grpo.pipeline.store.queries import Query, queries
from diva_grpo.pipeline.store.sql import locked, select
from diva_grpo.schemas.exceptions import QueryError

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd;white-space:pre-wrap}"
    "details{margin:.3rem 0 2rem;color:#666}"
)


def sections(store: VariantStore, asked: Iterable[Query] | None = None) -> Iterator[tuple[Query, pa.Table]]:
    """Queries with their rows, those left out that find nothing in this store.

    Args:
        store: the store.
        asked: the queries, default all named ones.

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
    """The page for a terminal."""
    blocks = [f"{query.title}\n{render(table, 'table')}" for query, table in sections(store)]
    return "\n\n".join(blocks) or "The store is empty: `diva ingest` brings problems into it."


def html_report(store: VariantStore, out: Path) -> int:
    """The page as one HTML file, which needs nothing else; each table has its query with it.

    Returns:
        How many tables it has.

    Raises:
        QueryError: the file cannot be written.
    """
    name = html.escape(store.root.name)
    blocks = [
        f"<h2>{html.escape(query.title)}</h2>{render(table, 'html')}"
        f"<details><summary>SQL</summary><pre>{html.escape(query.sql)}</pre></details>"
        for query, table in sections(store)
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f"<h1>Store {name}</h1>{''.join(blocks) or '<p>The store is empty.</p>'}</html>\n"
    )
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise QueryError(f"{out} cannot be written: {error.strerror or error}") from error
    return len(blocks)
