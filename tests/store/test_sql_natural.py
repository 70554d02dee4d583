"""SQL as people write it: the views answer as tables of the same rows would, and in like time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.engine import checksums
from diva_grpo.pipeline.store.views import create_views
from diva_grpo.schemas.records import Attempt
from tests.bench.bench_sql import QUERIES, as_tables
from tests.support.sized import sized_store
from tests.support.store_records import event, label, rollout, variant

# A correlated sub-query that is executed as a cross product takes a minute here; all take milliseconds.
BUDGET_CPU_S = 4.0


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    return sized_store(tmp_path_factory.mktemp("sized") / "store", 2_000)


@pytest.fixture(scope="module")
def prepared(sized: VariantStore) -> Iterator[duckdb.DuckDBPyConnection]:
    with sized.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def live(sized: VariantStore) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        for statement in create_views(sized.root):
            connection.execute(statement)
        yield connection


@pytest.fixture(scope="module")
def tables(prepared: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    with as_tables(prepared) as connection:
        yield connection


@pytest.mark.parametrize("form", ["prepared", "live"])
@pytest.mark.parametrize("name", QUERIES)
def test_natural_query(
    name: str, form: str, tables: duckdb.DuckDBPyConnection, request: pytest.FixtureRequest
) -> None:
    views = request.getfixturevalue(form)
    with views.cursor() as cursor:
        started = time.process_time()
        rows = cursor.execute(QUERIES[name]).fetchall()
        assert time.process_time() - started < BUDGET_CPU_S
    assert rows
    assert rows == tables.execute(QUERIES[name]).fetchall()


def test_both_forms_of_the_views_show_the_same(sized: VariantStore, live: duckdb.DuckDBPyConnection) -> None:
    assert checksums(live) == sized.checksums()


def test_view_that_a_query_does_not_name_is_there(sized: VariantStore) -> None:
    sql = "SELECT count(*) FROM query_table('vari' || 'ants')"
    with sized.connect(query=sql) as connection:
        assert connection.execute(sql).fetchall() == [(2_000,)]


def test_queries_follow_what_is_appended(store: VariantStore) -> None:
    """The store keeps a database between queries: of each view, whatever it reads may change."""
    store.append([variant(1, status="candidate"), variant(2, status="candidate")])
    statuses = "SELECT status FROM variants ORDER BY variant_id"
    assert store.query(statuses) == [("candidate",), ("candidate",)]
    store.append([variant(2)])
    assert store.query(statuses) == [("candidate",), ("accepted",)]

    measured = "SELECT delta_measured FROM variants WHERE variant_id = 'w/0:reword:02'"
    store.append([label("w/0", 2, 4), label("w/0:reword:02", 0, 4)])
    assert store.query(measured) == [(None,)]
    store.put_setting("label_model", "policy")
    assert store.query(measured) == [(pytest.approx(8 * 2 / 6),)]

    steps = "SELECT step FROM rollouts ORDER BY step"
    store.append([rollout(step, 0) for step in range(3)])
    store.append([event(step, 0, 4.0 + step) for step in range(3)])
    live_now = "SELECT step, difficulty FROM live_difficulty"
    assert store.query(steps) == [(0,), (1,), (2,)]
    assert store.query(live_now) == [(2, 6.0)]
    store.append([Attempt(run_id="r", attempt=1, resumed_step=1)])
    assert store.query(steps) == [(0,)]
    assert store.query(live_now) == [(0, 4.0)]
    store.compact(grace_s=0)
    assert store.query(statuses) == [("candidate",), ("accepted",)]
    assert store.query(steps) == [(0,)]


def test_spill_goes_to_a_bounded_folder_of_its_own(
    store: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with store.connect(memory_mb=64) as connection:
        rows = connection.execute("SELECT i, hash(i) AS h FROM range(20000000) r(i) ORDER BY h")
        assert len(rows.fetchmany(10)) == 10
        [folder] = temporary.iterdir()
        assert any(folder.iterdir())
        connection.execute("SET max_temp_directory_size = '1MiB'")
        with pytest.raises(duckdb.OutOfMemoryException, match="max_temp_directory_size"):
            connection.execute("CREATE TABLE t AS SELECT i, hash(i) AS h FROM range(20000000) r(i)")
    assert not any(work.iterdir())
    assert not any(temporary.iterdir())
