"""Rows of training runs that a store gives up: those of removed runs, and rollouts that are kept no longer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from diva_grpo.pipeline.store.files.liveness import signs
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import OF_RUNS, REMOVED_SETTING, Rollout, utc_now

if TYPE_CHECKING:
    from diva_grpo.pipeline.store.store import VariantStore

_RUNS_WITH_ROLLOUTS = """
SELECT r.run_id, max(greatest(u.ended_at, u.started_at, a.started_at)) AS last_seen
FROM (SELECT DISTINCT run_id FROM rollouts) r LEFT JOIN runs u USING (run_id) LEFT JOIN attempts a USING (run_id)
GROUP BY r.run_id
"""


def row_counts(store: VariantStore, run_id: str) -> dict[str, int]:
    """Rows of a training run by table, without tables that have none."""
    counts = {
        record.table: store.query(f"SELECT count(*) FROM {record.table} WHERE run_id = ?", [run_id])[0][0]
        for record in OF_RUNS
    }
    return {table: count for table, count in counts.items() if count}


def remove_run(store: VariantStore, run_id: str) -> dict[str, int]:
    """Hide the rows of a training run; the next compaction drops them.

    Returns:
        How many rows, by table.

    Raises:
        ConfigError: the run is at work, or the store has no rows of it.
    """
    if run_id in _at_work(store):
        raise ConfigError(f"run {run_id!r} is at work: stop it first")
    counts = row_counts(store, run_id)
    if not counts:
        raise ConfigError(f"the store has no rows of a run {run_id!r}: `diva report` lists the runs")
    store.put_setting(REMOVED_SETTING + run_id, "yes")
    return counts


def restore_run(store: VariantStore, run_id: str) -> dict[str, int]:
    """Show the rows of a removed run again, those that no compaction has dropped; returns how many, by table.

    Raises:
        ConfigError: the run was not removed.
    """
    if store.setting(REMOVED_SETTING + run_id) != "yes":
        raise ConfigError(f"run {run_id!r} was not removed")
    store.put_setting(REMOVED_SETTING + run_id, "no")
    return row_counts(store, run_id)


def given_up(
    store: VariantStore, keep_rollouts: Sequence[str | timedelta] | None
) -> Mapping[str, Collection[str]]:
    """The runs whose rows a compaction drops, by table.

    Args:
        store: the store.
        keep_rollouts: runs whose rollouts stay, by id or by the time since they were last seen; None keeps all.
            Those of runs at work, and of runs without a row in `runs` where no id is given, stay too.

    Raises:
        ConfigError: an id of a run that has no rollouts.
    """
    removed = {
        name.removeprefix(REMOVED_SETTING)
        for (name,) in store.query(
            "SELECT name FROM settings WHERE starts_with(name, ?) AND value = 'yes'", [REMOVED_SETTING]
        )
    }
    dropped = {record.table: set(removed) for record in OF_RUNS}
    if keep_rollouts is None:
        return dropped
    last_seen = dict(store.query(_RUNS_WITH_ROLLOUTS))
    named = {keep for keep in keep_rollouts if isinstance(keep, str)}
    if unknown := sorted(named - last_seen.keys()):
        raise ConfigError(
            f"no run {unknown[0]!r} has rollouts; those that have: {', '.join(sorted(last_seen)) or 'none'}"
        )
    kept = named | _at_work(store)
    for age in (keep for keep in keep_rollouts if isinstance(keep, timedelta)):
        kept |= {run for run, seen in last_seen.items() if seen is None or seen >= utc_now() - age}
    for table in {Rollout.table, "prompts"} & dropped.keys():  # prompts are those of rollouts
        dropped[table] |= last_seen.keys() - kept
    return dropped


def _at_work(store: VariantStore) -> set[str]:
    return {sign.run_id for sign in signs(store.root) if sign.alive}
