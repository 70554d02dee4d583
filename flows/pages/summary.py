"""The summary of a store and its training runs, for the top of a page: headline numbers, curves and tables.

The functions are pure, and return values that `json` can write. The curves are rows of the named queries
(`pipeline/store/queries.sql`). This module itself computes the difficulty of all problems over the steps, and the
measured offsets.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from diva_grpo.flows.pages.json_text import plain
from diva_grpo.flows.pages.next_step import next_steps
from diva_grpo.flows.pages.plots import LEVELS
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.queries import Query, queries
from diva_grpo.pipeline.store.report import sections
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import utc_now

Rows = list[dict[str, Any]]

CURVES = ("accuracy", "silent_steps", "lengths", "steps")
"""Named queries that return one row for each step of each run."""

OF_THE_STORE = ("variants", "reasons", "offsets", "checks", "calls", "rate", "scores", "supply")
"""Named queries whose rows have a separate section on the page."""

SILENT_CAUSES = ("all_wrong", "truncated", "no_answer", "all_right", "equal_rewards", "no_reward")
"""Columns of the query `silent_steps` that count the silent groups. Each silent group is in one of them."""

MOST_ROWS = 200
"""Maximum rows of a table on the page. The table's query returns all."""

MOST_OFFSETS = 1_500
"""Maximum number of variants in the plot of offsets. The choice is by a hash, so it is the same each time."""

HEAT_STEPS = 60
"""Approximate maximum number of columns of the heat map of difficulty."""

HEADLINE_SHARE = 0.1
"""Share of a run's steps over which a headline accuracy is averaged: once over the first steps, once over the last."""


def training_runs(store: VariantStore, run_ids: Sequence[str] = ()) -> list[str]:
    """The ids of the training runs that a page shows.

    Args:
        store: the store.
        run_ids: the wanted runs; empty: the one that was started or resumed last, if there is any.

    Raises:
        ConfigError: the store has no such training run.
    """
    known = [
        name
        for (name,) in store.query(
            "SELECT run_id FROM attempts GROUP BY run_id ORDER BY max(started_at) DESC, run_id"
        )
    ]
    missing = next((name for name in run_ids if name not in known), None)
    if missing is not None:
        last = f"the last ones: {', '.join(known[:3])}" if known else "`diva train` makes one"
        raise ConfigError(f"no training run {missing!r} in this store; {last}")
    return [*dict.fromkeys(run_ids)] or known[:1]


def summary(store: VariantStore, runs: Sequence[str], *, tables: bool = True) -> dict[str, Any]:
    """The data that the page shows above its list of problems.

    Args:
        store: the store.
        runs: ids of training runs, see `training_runs`.
        tables: whether to run all named queries, for the page's tables. False runs only those that the page's
            other sections need.

    Raises:
        QueryError: a query takes too long.
        StoreError: a part file is damaged.
    """
    named = queries()
    asked = list(named) if tables else [*CURVES, *OF_THE_STORE]
    names = {named[name]: name for name in asked}
    found: dict[str, Rows] = {name: [] for name in (*CURVES, *OF_THE_STORE)}
    shown: list[dict[str, Any]] = []
    for query, table in sections(store, names):
        found[names[query]] = [plain(row) for row in table.to_pylist()]
        shown.append(_table(query, found[names[query]], table.column_names))
    of_runs = {
        run: {name: [row for row in found[name] if row["run_id"] == run] for name in CURVES} for run in runs
    }
    return {
        "store": store.root.name,
        "made": f"{utc_now():%Y-%m-%d %H:%M:%S} UTC",
        "runs": [_run(store, run) for run in runs],
        "headline": _headline(found, of_runs),
        "next": [asdict(step) for step in next_steps(store, store.place.url, runs)],
        "curves": {run: rows | {"levels": _levels(store, run)} for run, rows in of_runs.items()},
        "scores": [row for row in found["scores"] if row["run_id"] in runs],
        "store_rows": {name: found[name] for name in OF_THE_STORE if name != "rate"},
        "rate": [
            [_seconds(row["minute"]), row["requests"], row["failed"], row["dollars"]] for row in found["rate"]
        ],
        "offsets": _offsets(store),
        "tables": shown if tables else [],
    }


def _seconds(minute: str) -> int:
    return int(datetime.fromisoformat(f"{minute}+00:00").timestamp())


def _table(query: Query, rows: Rows, columns: Sequence[str]) -> dict[str, Any]:
    cells = [list(row.values()) for row in rows[:MOST_ROWS]]
    return {"title": query.title, "sql": query.sql, "columns": columns, "rows": cells, "all": len(rows)}


def _run(store: VariantStore, run_id: str) -> dict[str, Any]:
    rows = store.query(
        "SELECT model, outcome, started_at, seconds, config FROM runs WHERE run_id = ?", [run_id]
    )
    model, outcome, started, seconds, config = rows[0] if rows else (None, None, None, None, "{}")
    return {
        "id": run_id,
        "model": Path(model).name if model and Path(model).is_absolute() else model,
        "outcome": outcome,
        "started": str(started or "")[:16],
        "seconds": seconds,
        "config": json.dumps(json.loads(config), indent=1, ensure_ascii=False),
    }


# --- headline


def _headline(found: Mapping[str, Rows], of_runs: Mapping[str, Mapping[str, Rows]]) -> list[dict[str, Any]]:
    """The headline numbers: `name`, `values` (one per run, or one of the store) and `note`, the text below them."""
    head: list[dict[str, Any]] = []
    if of_runs:
        curves = of_runs.values()
        silent = [_silent(rows["silent_steps"]) for rows in curves]
        head = [
            {
                "name": "Accuracy of originals, without hints",
                "values": [_first_and_last(rows["accuracy"], "originals") for rows in curves],
                "note": f"first and last {HEADLINE_SHARE:.0%} of the steps",
            },
            {
                "name": "Silent groups",
                "values": [share for share, _ in silent],
                "note": "; ".join(causes for _, causes in silent if causes),
            },
            {
                "name": "Time of a step",
                "values": [_step_time(rows["steps"]) for rows in curves],
                "note": "median, without evaluations",
            },
        ]
        if any(row["run_id"] in of_runs for row in found["scores"]):
            values = [_scores([row for row in found["scores"] if row["run_id"] == run]) for run in of_runs]
            head.insert(
                1, {"name": "Held-out accuracy", "values": values, "note": "first and last evaluation"}
            )
    every = next((row for row in found["variants"] if row["kind"] == "all"), None)
    if every:
        decided = every["accepted"] + every["rejected"]
        note = f"of {decided:,} decided" + (f", {every['candidate']:,} wait" if every["candidate"] else "")
        head.append({"name": "Accepted variants", "values": [f"{every['accepted']:,}"], "note": note})
    if found["calls"]:
        head.append(_cost(found["calls"]))
    return head


def _first_and_last(rows: Rows, column: str) -> str:
    values = [row[column] for row in rows if row[column] is not None]
    if not values:
        return "not judged"
    some = max(1, round(HEADLINE_SHARE * len(values)))
    return f"{sum(values[:some]) / some:.2f} → {sum(values[-some:]) / some:.2f}"


def _silent(rows: Rows) -> tuple[str, str]:
    """Two texts: the share of silent groups, and each cause with its share of all groups (if there are any)."""
    groups = sum(row["groups"] for row in rows)
    if not groups:
        return "no groups yet", ""
    by_cause = {cause: sum(row[cause] for row in rows) for cause in SILENT_CAUSES}
    causes = (
        f"{cause.replace('_', ' ')} {number / groups:.0%}" for cause, number in by_cause.items() if number
    )
    return f"{sum(by_cause.values()) / groups:.0%}", ", ".join(causes)


def _step_time(rows: Rows) -> str:
    seconds = sorted(row["seconds"] for row in rows)
    return f"{seconds[len(seconds) // 2]:.3g} s" if seconds else "no steps yet"


def _scores(rows: Rows) -> str:
    ordered = sorted(rows, key=lambda row: row["step"])
    ends = [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
    return " → ".join(f"{row['accuracy']:.2f}" for row in ends) or "not evaluated"


def _cost(calls: Rows) -> dict[str, Any]:
    known = [row["dollars"] for row in calls if row["dollars"] is not None]
    requests, failed = (sum(row[name] for row in calls) for name in ("requests", "failed"))
    unknown = ", of models without a known price too" if known and len(known) < len(calls) else ""
    value = f"${sum(known):,.2f}" if known else "no known price"
    return {
        "name": "Cost of the teacher",
        "values": [value],
        "note": f"{requests:,} requests, {failed:,} failed{unknown}",
    }


# --- what no named query has


def _levels(store: VariantStore, run_id: str) -> dict[str, Any]:
    """The number of problems at each level of difficulty, before the first step and after some of the steps.

    Every problem of the run is counted in every column. Before its first visit, it has its initial difficulty.

    Returns:
        `steps`, the name of each column (`before`, then step numbers), and `counts`, the counts for `LEVELS` of each
        column.
    """
    events = store.query(
        "SELECT step, problem_id, old_difficulty, new_difficulty FROM difficulty_events WHERE run_id = ? "
        "ORDER BY step",
        [run_id],
    )
    if not events:
        return {"steps": [], "counts": []}
    level: dict[str, int] = {}
    for _, problem_id, old, _ in events:
        level.setdefault(problem_id, round(old))
    counts = dict.fromkeys(LEVELS, 0)
    for value in level.values():
        counts[value] += 1
    by_step: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    for step, problem_id, _, new in events:
        by_step[step].append((problem_id, round(new)))
    every = math.ceil(len(by_step) / HEAT_STEPS)
    steps, columns = ["before"], [list(counts.values())]
    for number, step in enumerate(sorted(by_step), start=1):
        for problem_id, new in by_step[step]:
            counts[level[problem_id]] -= 1
            counts[new] += 1
            level[problem_id] = new
        if number % every == 0 or number == len(by_step):
            steps.append(str(step))
            columns.append(list(counts.values()))
    return {"steps": steps, "counts": columns}


def _offsets(store: VariantStore) -> list[list[Any]]:
    """Kind, designed offset and measured offset of up to `MOST_OFFSETS` variants, sorted by designed offset."""
    rows: Iterable[tuple[str, float, float]] = store.query(
        "SELECT kind, delta_designed, delta_measured FROM (FROM variants WHERE delta_measured IS NOT NULL "
        f"AND delta_designed IS NOT NULL ORDER BY hash(variant_id) LIMIT {MOST_OFFSETS}) ORDER BY delta_designed"
    )
    return [[kind, round(designed, 2), round(measured, 2)] for kind, designed, measured in rows]
