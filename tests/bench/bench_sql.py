"""Natural queries on a store's views, and on plain DuckDB tables of the same rows.

    python -m tests.bench.bench_sql [--sizes 10000,100000,1000000] [--memory 4096] [--as-written]

A size is a number of variants, see `tests.support.sized`. Each query is run on a connection of
`VariantStore.connect`, then on tables. The store is compacted before, unless `--as-written` is given: then each variant
is in two parts, as candidate and as decided. The figures are processor seconds, of all threads. A slope is the exponent
of growth between the first and the last size. Prints figures, and never fails on time.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from diva_grpo.pipeline.store.views import view_names
from tests.support.sized import sized_store

QUERIES = {
    # Correlated, lateral, anti-joins, windows over views.
    "exists": "SELECT count(*) FROM problems p WHERE EXISTS (FROM variants v "
    "WHERE v.problem_id = p.problem_id AND v.status = 'accepted')",
    "not exists": "SELECT count(*) FROM problems p WHERE NOT EXISTS (FROM variants v "
    "WHERE v.problem_id = p.problem_id AND v.status = 'accepted' AND v.kind = 'harder')",
    "scalar sub-query": "SELECT p.problem_id, (SELECT count(*) FROM variants v WHERE v.problem_id = p.problem_id "
    "AND v.status = 'accepted') AS n FROM problems p ORDER BY n DESC, 1 LIMIT 10",
    "two scalar sub-queries": "SELECT p.problem_id, (SELECT max(l.pass_rate) FROM labels l "
    "WHERE l.subject_id = p.problem_id) AS own, (SELECT avg(r.accuracy) FROM rollouts r "
    "WHERE r.problem_id = p.problem_id) AS trained FROM problems p ORDER BY 1 LIMIT 10",
    "lateral": "SELECT p.problem_id, x.variant_id FROM problems p, LATERAL (SELECT variant_id FROM variants v "
    "WHERE v.problem_id = p.problem_id ORDER BY v.delta DESC, 1 LIMIT 1) x ORDER BY 1 LIMIT 10",
    "lateral aggregate": "SELECT count(*), sum(x.n) FROM problems p, LATERAL (SELECT count(*) AS n FROM verdicts c "
    "JOIN variants v USING (variant_id) WHERE v.problem_id = p.problem_id AND NOT c.passed) x",
    "above its problem's mean": "SELECT count(*) FROM variants v WHERE v.delta > "
    "(SELECT avg(w.delta) FROM variants w WHERE w.problem_id = v.problem_id)",
    "anti join": "SELECT count(*) FROM problems p ANTI JOIN rollouts r ON r.problem_id = p.problem_id",
    "not in": "SELECT count(*) FROM variants WHERE variant_id NOT IN (SELECT subject_id FROM labels)",
    "left join is null": "SELECT count(*) FROM variants v LEFT JOIN labels l ON l.subject_id = v.variant_id "
    "WHERE l.subject_id IS NULL",
    "window over a view": "SELECT count(*) FROM (SELECT row_number() OVER "
    "(PARTITION BY problem_id ORDER BY delta, variant_id) AS place FROM variants) WHERE place = 2",
    "nested exists": "SELECT count(*) FROM problems p WHERE EXISTS (FROM variants v WHERE v.problem_id = p.problem_id "
    "AND EXISTS (FROM verdicts c WHERE c.variant_id = v.variant_id AND NOT c.passed))",
    "all of its variants": "SELECT count(*) FROM problems p WHERE 'accepted' = ALL (SELECT v.status FROM variants v "
    "WHERE v.problem_id = p.problem_id)",
    "correlated in FILTER": "SELECT p.source, count(*) FILTER (EXISTS (FROM variants v "
    "WHERE v.problem_id = p.problem_id AND v.status = 'accepted')) AS n FROM problems p GROUP BY 1 ORDER BY 1",
    # Plain ones.
    "count variants": "SELECT count(*) FROM variants",
    "count rollouts": "SELECT count(*) FROM rollouts",
    "first rows": "SELECT * FROM problems ORDER BY problem_id LIMIT 5",
    "kind and status": "SELECT kind, status, count(*) FROM variants GROUP BY ALL ORDER BY ALL",
    "one variant": "SELECT status, reason FROM variants WHERE variant_id = 'bench/00000007:reword:0'",
    "one problem's variants": "SELECT variant_id, delta FROM variants WHERE problem_id = 'bench/00000007' ORDER BY 1",
    "one problem's rollouts": "SELECT step, slot, sample, reward FROM rollouts "
    "WHERE problem_id = 'bench/00000007' ORDER BY ALL",
    "one step": "SELECT problem_id, slot, avg(accuracy) FROM rollouts WHERE step = 1 GROUP BY ALL ORDER BY ALL",
    "accuracy by step": "SELECT run_id, step, avg(accuracy) FROM rollouts GROUP BY ALL ORDER BY ALL LIMIT 20",
    "silent groups": "SELECT count(*) FROM (FROM rollouts SELECT min(reward) AS low, max(reward) AS high "
    "GROUP BY run_id, step, problem_id, slot) WHERE low = high",
    "delta by kind": "SELECT kind, round(avg(delta), 6), round(avg(delta_measured), 6) FROM variants "
    "GROUP BY kind ORDER BY kind",
    "hardest": "SELECT problem_id, difficulty FROM live_difficulty ORDER BY difficulty DESC, 1 LIMIT 10",
    "live and labelled": "SELECT round(corr(d.difficulty, l.difficulty), 6) FROM live_difficulty d "
    "JOIN labels l ON l.subject_id = d.problem_id",
    "cost by model": "SELECT model, purpose, round(sum(cost_usd), 6) FROM calls GROUP BY ALL ORDER BY ALL",
    "cost by problem": "SELECT problem_id, round(sum(cost_usd), 6) AS usd FROM calls GROUP BY 1 "
    "ORDER BY 2 DESC, 1 LIMIT 10",
    "failures": "SELECT outcome, count(*) FROM calls GROUP BY 1 ORDER BY 1",
    "pass rate of checks": "SELECT check_name, avg(passed::INTEGER) FROM verdicts GROUP BY 1 ORDER BY 1",
    "why rejected": "SELECT regexp_extract(reason, '^[a-z]+') AS why, count(*) FROM variants GROUP BY 1 ORDER BY 1",
    "longest texts": "SELECT variant_id, length(text) FROM variants ORDER BY 2 DESC, 1 LIMIT 5",
    "text search": "SELECT count(*) FROM problems WHERE text ILIKE '%1 passengers%'",
    "histogram": "SELECT round(difficulty) AS level, count(*) FROM labels GROUP BY 1 ORDER BY 1",
    "three joins": "SELECT p.source, v.kind, count(*), round(avg(l.pass_rate), 6) FROM problems p "
    "JOIN variants v USING (problem_id) JOIN labels l ON l.subject_id = v.variant_id GROUP BY ALL ORDER BY ALL",
    "with": "WITH a AS (SELECT problem_id, count(*) AS n FROM variants WHERE status = 'accepted' GROUP BY 1) "
    "SELECT n, count(*) FROM problems LEFT JOIN a USING (problem_id) GROUP BY 1 ORDER BY 1",
    "union": "SELECT count(*) FROM (SELECT problem_id FROM problems UNION SELECT variant_id FROM variants)",
    "scores": "SELECT run_id, step, avg(correct / samples) FROM evaluations GROUP BY ALL ORDER BY ALL",
    "pivot": "SELECT count(*) FROM (PIVOT (SELECT problem_id, status FROM variants) ON status USING count(*))",
}  # fmt: skip
"""Forty queries as people write them, by name; each has one result whatever the order of rows at rest."""


def as_tables(views: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A database with the rows of all views in tables."""
    tables = duckdb.connect()
    tables.execute("SET enable_progress_bar = false")
    for view in view_names():
        rows = views.sql(f"FROM {view}").to_arrow_table()
        tables.register("arriving", rows)
        tables.execute(f"CREATE TABLE {view} AS FROM arriving")
        tables.unregister("arriving")
    return tables


def _cpu_s(connection: duckdb.DuckDBPyConnection, sql: str) -> float:
    """The better of two."""
    times = []
    for _ in range(2):
        started = time.process_time()
        connection.execute(sql).fetchall()
        times.append(time.process_time() - started)
    return min(times)


def bench_size(root: Path, variants: int, memory_mb: int, as_written: bool) -> dict[str, tuple[float, float]]:
    """Seconds by query, on the views and on tables; 0 for what tables have none of."""
    store = sized_store(root, variants)
    if not as_written:
        store.compact()
    started = time.process_time()
    with store.connect(memory_mb=memory_mb) as views:
        figures = {"connect, all views": (time.process_time() - started, 0.0)}
        on_views = {name: _cpu_s(views, sql) for name, sql in QUERIES.items()}
        with as_tables(views) as tables:
            tables.execute(f"SET memory_limit = '{memory_mb}MiB'")
            figures |= {name: (on_views[name], _cpu_s(tables, sql)) for name, sql in QUERIES.items()}
    started = time.process_time()
    with store.connect(query=QUERIES["exists"]):
        figures["connect for `exists`"] = (time.process_time() - started, 0.0)
    return figures


def main() -> None:
    """Print a table of all sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--memory", type=int, default=4_096, help="MiB for the engine")
    parser.add_argument("--as-written", action="store_true", help="do not compact the store")
    options = parser.parse_args(sys.argv[1:])
    sizes: list[int] = options.sizes
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found[size] = bench_size(Path(folder) / "store", size, options.memory, options.as_written)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{size:,} variants: peak memory of the process so far {peak:,} MiB", flush=True)
    print("processor seconds, views / tables:")
    print("| query | " + " | ".join(f"{size:,}" for size in sizes) + " | slope |")
    print("| --- |" + " ---: |" * (len(sizes) + 1))
    for name in found[sizes[0]]:
        pairs = [found[size][name] for size in sizes]
        cells = [f"{views:.3f} / {tables:.3f}" if tables else f"{views:.3f}" for views, tables in pairs]
        growth = (
            math.log(pairs[-1][0] / pairs[0][0]) / math.log(sizes[-1] / sizes[0]) if len(sizes) > 1 else 0
        )
        print(f"| {name} | " + " | ".join(cells) + f" | {growth:.2f} |")


if __name__ == "__main__":
    main()
