"""Rows of training runs that a store gives up: the rows of removed runs, and rollouts that are no longer kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from diva_grpo.pipeline.store.engine import Engine
from diva_grpo.pipeline.store.files.liveness import unended_runs
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import OF_RUNS, REMOVED_SETTING, Rollout, utc_now

_RUNS_WITH_ROLLOUTS = """
SELECT r.run_id, max(greatest(u.ended_at, u.started_at, a.started_at)) AS last_seen
FROM (SELECT DISTINCT run_id FROM rollouts) r LEFT JOIN runs u USING (run_id) LEFT JOIN attempts a USING (run_id)
GROUP BY r.run_id
"""


def given_up(
    engine: Engine, keep_rollouts: Sequence[str | timedelta] | None
) -> Mapping[str, Collection[str]]:
    """Return the ids of the runs whose rows a compaction drops, by table.

    Args:
        engine: the store's engine.
        keep_rollouts: selects the runs whose rollouts are kept: by run id, or by the maximum time since the run was
            last seen (its latest recorded start or end). None keeps all rollouts. Rollouts of runs that are still
            running are always kept. If a time is given, runs whose last time is unknown are kept too.

    Raises:
        ConfigError: `keep_rollouts` contains the id of a run that has no rollouts.
    """
    removed = {
        name.removeprefix(REMOVED_SETTING)
        for (name,) in engine.query(
            "SELECT name FROM settings WHERE starts_with(name, ?) AND value = 'yes'", [REMOVED_SETTING]
        )
    }
    dropped = {record.table: set(removed) for record in OF_RUNS}
    if keep_rollouts is None:
        return dropped
    last_seen = dict(engine.query(_RUNS_WITH_ROLLOUTS))
    named = {keep for keep in keep_rollouts if isinstance(keep, str)}
    if unknown := sorted(named - last_seen.keys()):
        raise ConfigError(
            f"no run {unknown[0]!r} has rollouts; those that have: {', '.join(sorted(last_seen)) or 'none'}"
        )
    kept = named | at_work(engine.place.local)
    for age in (keep for keep in keep_rollouts if isinstance(keep, timedelta)):
        kept |= {run for run, seen in last_seen.items() if seen is None or seen >= utc_now() - age}
    for table in {Rollout.table, "prompts"} & dropped.keys():  # prompts belong to rollouts
        dropped[table] |= last_seen.keys() - kept
    return dropped


def at_work(root: Path) -> set[str]:
    """Return the ids of the store's runs that are running on this machine."""
    return {run.run_id for run in unended_runs(root) if run.alive}
