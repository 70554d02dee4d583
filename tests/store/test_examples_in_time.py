"""The page of queries on a store of 100,000 variants: each within its budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.queries import queries
from diva_grpo.pipeline.store.sql import locked, select
from tests.support.sized import sized_store

pytestmark = pytest.mark.slow

BUDGET_CPU_S = 1.0
"""Of all threads, for each query; the slowest takes a quarter of it."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    root: Path = tmp_path_factory.mktemp("sized") / "store"
    return sized_store(root, 100_000)


@pytest.fixture(scope="module")
def connection(store: VariantStore) -> Iterator[duckdb.DuckDBPyConnection]:
    with locked(store, "\n".join(query.sql for query in queries().values())) as connection:
        yield connection


@pytest.mark.parametrize("name", queries())
def test_query_is_within_its_budget(
    store: VariantStore, connection: duckdb.DuckDBPyConnection, name: str
) -> None:
    started = time.process_time()
    select(store, connection, queries()[name].sql)
    assert time.process_time() - started < BUDGET_CPU_S
