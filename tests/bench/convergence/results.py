"""What training runs left in the stores of a testbed, in a few small tables.

Every number of the page is a function of these tables. They are read by SQL from the ordinary stores of a testbed
(`OUT/<task>/store`, one for each task), kept as Parquet beside the page, and read back from there: so that the page
can be made again, and checked, without the stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.database import open_database
from diva_grpo.schemas.exceptions import ConfigError

TABLES: dict[str, str] = {
    # The latest whole run of each cell of the plan, and those that are under way or came to nothing.
    "runs": """
        SELECT $task AS task, run_id, config->>'$.bench.contender' AS contender,
               config->>'$.bench.group' AS run_group, (config->>'$.bench.seed')::INTEGER AS seed,
               (config->>'$.bench.learning_rate')::DOUBLE AS learning_rate, model, outcome,
               coalesce((config->>'$.bench.label_rollouts')::DOUBLE, 0) AS label_rollouts,
               coalesce((config->>'$.bench.label_tokens')::DOUBLE, 0) AS label_tokens,
               coalesce((config->>'$.bench.label_seconds')::DOUBLE, 0) AS label_seconds
        FROM runs WHERE kind = 'train' AND config->>'$.bench.contender' IS NOT NULL
        QUALIFY row_number() OVER (
            PARTITION BY contender, run_group, seed, CASE WHEN run_group = 'grid' THEN learning_rate END
            ORDER BY (outcome = 'ok') DESC, started_at DESC) = 1
    """,
    "problems": "SELECT $task AS task, split, count(*)::INTEGER AS problems FROM problems GROUP BY ALL",
    "evaluations": """
        SELECT $task AS task, run_id, step::INTEGER AS step, split, count(*)::INTEGER AS problems,
               sum(samples)::INTEGER AS samples, sum(correct)::INTEGER AS correct
        FROM evaluations GROUP BY ALL
    """,
    # 32 bits are more than a clock or a gradient's norm deserve, and half the size.
    "train_steps": """
        SELECT $task AS task, run_id, step::INTEGER AS step, cpu_seconds::FLOAT AS cpu_seconds,
               seconds::FLOAT AS seconds, rollouts::INTEGER AS rollouts, groups::INTEGER AS groups,
               silent_groups::INTEGER AS silent_groups, problems::INTEGER AS problems,
               silent_problems::INTEGER AS silent_problems, completion_tokens::INTEGER AS completion_tokens,
               grad_noise::FLOAT AS grad_noise
        FROM train_steps
    """,
    "difficulty": """
        SELECT $task AS task, run_id, step::INTEGER AS step, count(*)::INTEGER AS problems,
               avg(new_difficulty)::FLOAT AS difficulty, avg(accuracy)::FLOAT AS accuracy
        FROM difficulty_events GROUP BY ALL
    """,
    # Groups are of one prompt: a problem's original, or a variant of it.
    "rollouts": """
        SELECT $task AS task, run_id, step::INTEGER AS step, kind, steps_left::INTEGER AS steps_left,
               count(*)::INTEGER AS groups, sum(judged)::INTEGER AS judged, sum(correct)::INTEGER AS correct,
               count_if(correct = 0)::INTEGER AS all_wrong, count_if(correct = judged)::INTEGER AS all_right
        FROM (
            SELECT r.run_id, r.step, coalesce(v.kind, 'original') AS kind, v.hint_total - v.hint_steps AS steps_left,
                   count(r.accuracy) AS judged, sum(r.accuracy) AS correct
            FROM rollouts r LEFT JOIN variants v USING (variant_id)
            GROUP BY r.run_id, r.step, r.problem_id, r.slot, v.kind, v.hint_total - v.hint_steps HAVING judged > 0
        ) GROUP BY ALL
    """,
    # Of the warm model, whose labels the store goes by.
    "labels": """
        SELECT $task AS task, subject_id AS problem_id, samples::INTEGER AS samples, correct::INTEGER AS correct
        FROM labels JOIN problems ON problem_id = subject_id
        WHERE solver_model = (SELECT value FROM settings WHERE name = 'label_model') AND split = 'train'
    """,
}
"""By table of the results, its query on the store of one task. A run is known by its task and run_id."""

OF_RUNS = ("evaluations", "train_steps", "difficulty", "rollouts")
"""Tables that are kept for the runs of the table `runs` alone."""


@contextmanager
def stores_results(out: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables of `TABLES` from all stores of a testbed.

    Args:
        out: folder that has a folder for each task, with its `store` within.

    Raises:
        ConfigError: there is no store, or no run in any.
        StoreError: a part of a store is damaged.
    """
    stores = sorted(out.glob("*/store"))
    with open_database() as results:
        for position, root in enumerate(stores):
            with VariantStore(root).connect() as connection:
                for name, query in TABLES.items():
                    rows = connection.sql(query, params={"task": root.parent.name}).to_arrow_table()
                    results.register("rows", rows)
                    verb = f"INSERT INTO {name}" if position else f"CREATE TABLE {name} AS"
                    results.execute(f"{verb} SELECT * FROM rows")
                    results.unregister("rows")
        if not stores or not results.execute("SELECT count(*) FROM runs").fetchall()[0][0]:
            raise ConfigError(
                f"no runs of the testbed in {out}: make them with `python -m tests.bench.convergence --out {out}`"
            )
        for name in OF_RUNS:
            results.execute(f"DELETE FROM {name} WHERE (task, run_id) NOT IN (SELECT task, run_id FROM runs)")
        yield results


@contextmanager
def kept_results(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same tables from what `keep` wrote.

    Raises:
        ConfigError: a file is missing.
    """
    with open_database() as results:
        for name in TABLES:
            path = folder / f"{name}.parquet"
            if not path.exists():
                raise ConfigError(
                    f"{path} is missing: `python -m tests.bench.convergence.page --out DIR` writes it"
                )
            results.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet(?)", [str(path)])
        yield results


def keep(results: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Write the tables as Parquet files into a folder, the rows in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        path = str(folder / f"{name}.parquet").replace("'", "''")
        results.execute(
            f"COPY (SELECT * FROM {name} ORDER BY ALL) TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
        )
