"""Remove a training run from a store, and restore it. After a compaction has dropped its rows, they are lost."""

from __future__ import annotations

from diva_grpo.pipeline.store.retention import at_work
from diva_grpo.pipeline.store.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import OF_RUNS, REMOVED_SETTING


def row_counts(store: VariantStore, run_id: str) -> dict[str, int]:
    """Return the number of visible rows of a training run by table, without tables that have none."""
    counts = {
        record.table: store.query(f"SELECT count(*) FROM {record.table} WHERE run_id = ?", [run_id])[0][0]
        for record in OF_RUNS
    }
    return {table: count for table, count in counts.items() if count}


def remove_run(store: VariantStore, run_id: str) -> dict[str, int]:
    """Hide the rows of a training run. The next compaction drops them.

    Returns:
        The number of hidden rows, by table.

    Raises:
        ConfigError: the run is still running, or the store has no rows of it.
    """
    if run_id in at_work(store.root):
        raise ConfigError(f"run {run_id!r} is at work: stop it first")
    counts = row_counts(store, run_id)
    if not counts:
        raise ConfigError(f"the store has no rows of a run {run_id!r}: `diva report` lists the runs")
    store.put_setting(REMOVED_SETTING + run_id, "yes")
    return counts


def restore_run(store: VariantStore, run_id: str) -> dict[str, int]:
    """Show the rows of a removed run again, unless a compaction has already dropped them.

    Returns:
        The number of rows that are shown again, by table.

    Raises:
        ConfigError: the run was not removed.
    """
    if store.setting(REMOVED_SETTING + run_id) != "yes":
        raise ConfigError(f"run {run_id!r} was not removed")
    store.put_setting(REMOVED_SETTING + run_id, "no")
    return row_counts(store, run_id)
