"""Hostile queries: each is refused in one line or stopped by a limit, and changes and reveals no file."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diva_grpo.pipeline.store import VariantStore, run_apart, run_select
from diva_grpo.schemas.exceptions import QueryError
from diva_grpo.schemas.records import Problem

SECRET = "hush-7f3a"


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and, beside it, files that no query may see."""
    area = tmp_path_factory.mktemp("hostile")
    store = VariantStore(area / "it's a store", create=True)
    store.append([Problem(problem_id="s/0", source="s", split="train", text="1 + 1?", answer="2")])
    with sqlite3.connect(store.root / "journal.sqlite") as journal:
        journal.execute("CREATE TABLE entries (response TEXT)")
        journal.execute("INSERT INTO entries VALUES (?)", [SECRET])
    (store.root / "run.json").write_text(f'{{"key": "{SECRET}"}}')
    (area / "outside").mkdir()
    (area / "outside" / "secret.txt").write_text(SECRET)
    (area / "outside" / "secret.csv").write_text(f"a\n{SECRET}\n")
    (area / "outside" / "secret.json").write_text(f'{{"a": "{SECRET}"}}')
    pq.write_table(pa.table({"a": [SECRET]}), area / "outside" / "secret.parquet")
    return area


@pytest.fixture(scope="module")
def store(area: Path) -> VariantStore:
    return VariantStore(area / "it's a store")


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of change and content of every file, and every folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


WRITES = [
    "COPY problems TO '{store}/out.csv'",
    "COPY (SELECT 1) TO '{outside}/out.csv'",
    "COPY (SELECT 1) TO '{store}/problems/x.parquet' (FORMAT parquet)",
    "COPY problems FROM '{outside}/secret.csv'",
    "WITH x AS (COPY (SELECT 1) TO '{store}/out.csv') SELECT * FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{outside}/out.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '{store}/problems/x.parquet') SELECT * FROM x",
    "SELECT * FROM (WITH x AS (COPY (SELECT 1) TO '{store}/problems/x.csv') SELECT * FROM x)",
    "SELECT (WITH x AS (COPY (SELECT 1) TO '{store}/problems/x.csv') SELECT 1)",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{outside}/out.csv''')",
    "SELECT * FROM query('WITH x AS (COPY (SELECT 1) TO ''{outside}/o'') SELECT * FROM x')",
    "WITH x AS (INSERT INTO settings VALUES ('a', 'b') RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM settings) SELECT 1",
    "EXPORT DATABASE '{outside}/db'",
    "IMPORT DATABASE '{outside}/db'",
    "ATTACH '{store}/a.db'",
    "ATTACH '{store}/problems/a.db'",
    "ATTACH '{outside}/a.db'",
    "ATTACH ':memory:' AS other",
    "DETACH memory",
    "USE memory",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW problems AS SELECT * FROM read_text('{outside}/secret.txt')",
    "CREATE MACRO f() AS TABLE SELECT * FROM read_text('{outside}/secret.txt')",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "DROP VIEW problems",
    "ALTER VIEW problems RENAME TO p",
    "INSERT INTO problems VALUES (1)",
    "UPDATE problems SET answer = '1'",
    "DELETE FROM problems",
    "MERGE INTO settings USING settings s ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE problems",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{outside}/out.csv'",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN SELECT 1",
]
SETTINGS = [
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{outside}/x.duckdb_extension'",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "PRAGMA memory_limit = '100GB'",
    "CALL pragma_version()",
    "CALL enable_logging()",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET memory_limit = '100GB'",
    "SET VARIABLE x = 1",
    "RESET enable_external_access",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT getenv('HOME')",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "BEGIN",
]
SYNTAX = [
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW problems",
    "SELECT 1 /* ; */; COPY (SELECT 1) TO '{outside}/out.csv' --",
    "SELECT 1) UNION ALL (SELECT 2",
    "SELECT 1) TO '{outside}/out.csv' --",
    "SELECT 1\n) x; COPY (SELECT 1) TO '{outside}/out.csv'; SELECT * FROM (SELECT 1",
    "SELECT $$ ; $$; COPY (SELECT 1) TO '{outside}/out.csv'",
    "SELECT 'a' 'b' \\; DROP VIEW problems",
    "/* nothing else */",
    "-- nothing else",
    "",
    "  ;  ",
    ";;;",
    "not SQL at all",
    "SELECT nope FROM problems",
    "SELECT * FROM nope",
    "SELECT '\ud800'",
    "SELECT 1 \x00; DROP VIEW problems",
    "SELECT error('a' || chr(10) || 'b')",
    "SELECT x::INTEGER FROM (VALUES ('1'), ('one')) t(x)",
]
READS = [
    "SELECT * FROM read_text('{outside}/secret.txt')",
    "SELECT * FROM read_text('{store}/../outside/secret.txt')",
    "SELECT * FROM read_text('{store}/problems/../../outside/secret.txt')",
    "SELECT * FROM read_text(['{outside}/secret.txt'])",
    "SELECT * FROM read_text('{outside}/*')",
    "SELECT * FROM read_text('file://{outside}/secret.txt')",
    "SELECT * FROM read_blob('{outside}/secret.txt')",
    "SELECT * FROM read_csv('{outside}/secret.csv')",
    "SELECT * FROM read_json('{outside}/secret.json')",
    "SELECT * FROM read_ndjson_objects('{outside}/secret.json')",
    "SELECT * FROM read_parquet('{outside}/secret.parquet')",
    "SELECT * FROM read_parquet(['{store}/problems/*.parquet', '{outside}/secret.parquet'])",
    "SELECT * FROM parquet_schema('{outside}/secret.parquet')",
    "SELECT * FROM parquet_metadata('{outside}/secret.parquet')",
    "SELECT * FROM parquet_file_metadata('{outside}/secret.parquet')",
    "SELECT * FROM parquet_kv_metadata('{outside}/secret.parquet')",
    "SELECT * FROM '{outside}/secret.txt'",
    "SELECT * FROM '{outside}/secret.parquet'",
    "SELECT * FROM sniff_csv('{outside}/secret.csv')",
    "SELECT * FROM glob('{outside}/*')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM query_table('{outside}/secret.parquet')",
    "SELECT * FROM query('FROM read_text(''{outside}/secret.txt'')')",
    "SELECT (SELECT content FROM read_text('{outside}/secret.txt'))",
    "SELECT * FROM problems WHERE EXISTS (FROM read_text('{outside}/secret.txt'))",
    "WITH problems AS (FROM read_text('{outside}/secret.txt')) SELECT * FROM problems",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_parquet('https://example.com/x.parquet')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    # Of the store itself, what is no table.
    "SELECT * FROM read_blob('{store}/journal.sqlite')",
    "SELECT * FROM read_text('{store}/run.json')",
    "SELECT * FROM glob('{store}/*')",
    "SELECT * FROM sqlite_scan('{store}/journal.sqlite', 'entries')",
    # Names in the calling program.
    "SELECT * FROM connection",
    "SELECT * FROM store",
]
HOSTILE = [*WRITES, *SETTINGS, *SYNTAX, *READS]


def refusal(store: VariantStore, query: str) -> str:
    quoted = str(store.root).replace("'", "''"), str(store.root.parent / "outside")
    with pytest.raises(QueryError) as caught:
        run_select(store, query.replace("{store}", quoted[0]).replace("{outside}", quoted[1]), timeout_s=20)
    return str(caught.value)


def test_there_are_forty_of_them() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 40


@pytest.mark.parametrize("group", [WRITES, SETTINGS, SYNTAX, READS], ids=["write", "set", "syntax", "read"])
def test_refused_in_one_line_and_nothing_is_changed(
    store: VariantStore, area: Path, group: list[str]
) -> None:
    before = fingerprint(area)
    for query in group:
        message = refusal(store, query)
        assert message, query
        assert "\n" not in message, query
        assert SECRET not in message, query
        assert fingerprint(area) == before, query


def test_the_fingerprint_sees_a_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = fingerprint(tmp_path)
    (tmp_path / "a").write_text("2")
    assert fingerprint(tmp_path) != before


EXHAUSTING = {
    "WITH RECURSIVE r AS (SELECT 1 i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r": "longer than",
    "SELECT sum(hash(a.i, b.i)) FROM range(10000000) a(i), range(10000000) b(i)": "longer than",
    "SELECT count(DISTINCT a.i::VARCHAR || b.i) FROM range(100000) a(i), range(100000) b(i)": "memory|longer",
    "SELECT range(1000000000)": "memory",
    "SELECT string_agg(repeat('x', 1000000), '') FROM range(100000)": "memory",
}
BEYOND_THE_ENGINE = {
    "SELECT length(repeat(repeat('x', 60000), 60000))": "memory",
    "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))": "longer than",
    "SELECT bit_count(repeat('1', 1000000000)::BIT)": "longer than|memory",
}
"""What DuckDB's own limits do not stop: it ends with its process."""


def stopped(store: VariantStore, query: str, reason: str) -> None:
    before = fingerprint(store.root.parent)
    # Of memory a busy machine must not run out too late; of time it always does.
    timeout_s = 60.0 if reason == "memory" else 0.5
    started = time.monotonic()
    with pytest.raises(QueryError) as caught:
        run_apart(store, query, timeout_s=timeout_s, memory_mb=256)
    assert re.search(reason, str(caught.value))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < timeout_s + 60
    assert fingerprint(store.root.parent) == before


@pytest.mark.parametrize("query", EXHAUSTING)
def test_what_never_ends_or_eats_memory_is_stopped(store: VariantStore, query: str) -> None:
    stopped(store, query, EXHAUSTING[query])


@pytest.mark.slow
@pytest.mark.parametrize("query", BEYOND_THE_ENGINE)
def test_what_the_engine_does_not_stop_ends_with_its_process(store: VariantStore, query: str) -> None:
    stopped(store, query, BEYOND_THE_ENGINE[query])


def test_apart_gives_what_the_same_process_gives(store: VariantStore) -> None:
    query = "SELECT *, 1.5::DECIMAL(4, 2) AS d, TIMESTAMP '2026-01-02' AS t FROM problems"
    assert run_apart(store, query).equals(run_select(store, query))
    for bad in ("DROP VIEW problems", "SELECT nope"):
        with pytest.raises(QueryError) as here:
            run_select(store, bad)
        with pytest.raises(QueryError) as there:
            run_apart(store, bad)
        assert str(here.value) == str(there.value)


def test_a_module_in_the_working_folder_is_not_taken(
    store: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "duckdb.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    assert run_apart(store, "SELECT 1 AS one")["one"].to_pylist() == [1]
