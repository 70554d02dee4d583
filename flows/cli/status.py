"""`diva status`: show the contents of a store and the progress of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude, next_of
from diva_grpo.schemas.command import diva

if TYPE_CHECKING:
    from diva_grpo.pipeline.store.files.liveness import UnendedRun

_QUERIES = ("problems", "rejects", "variants", "reasons", "labels", "agreement", "calls")
_MOST_ROWS = 10

_LAST_RUNS = """
SELECT run_id, model, started_at::TIMESTAMP(0) AS started_at,
       CASE WHEN outcome = 'running' AND run_id IN ({dead}) THEN 'killed' ELSE outcome END AS outcome
FROM runs ORDER BY started_at DESC LIMIT 5
"""


@click.command()
@store_option
def status(store_dir: Path) -> None:
    """What a store holds, in counts, and how far the runs are that work on it now.

    \b
    example: diva status --store runs/store
    """
    from diva_grpo.pipeline.store import VariantStore, render
    from diva_grpo.pipeline.store.files.liveness import unended_runs
    from diva_grpo.pipeline.store.queries import Query, queries
    from diva_grpo.pipeline.store.report import as_rows, sections
    from diva_grpo.pipeline.teacher.wire.batch.pending import pending_batches

    store = VariantStore(store_dir)
    left = unended_runs(store.root)
    dead = [run for run in left if not run.alive]
    working = [run for run in left if run.alive]
    names = ", ".join("'" + run.run_id.replace("'", "''") + "'" for run in dead) or "NULL"
    last = Query("Last runs", _LAST_RUNS.format(dead=names))
    found = [*sections(store, [*(queries()[name] for name in _QUERIES), last])]
    batches = [*pending_batches(store.root)]
    blocks = [f"{query.title}\n{render(table.slice(length=_MOST_ROWS), 'table')}" for query, table in found]
    if queries()["problems"] not in dict(found):
        ingest = diva("ingest", "SOURCE", "--store", store_dir)
        blocks.insert(0, f"The store is empty: `{ingest}` brings problems into it.")
    else:
        blocks[0] = f"\n{blocks[0]}"
    blocks += [
        f"Batch {batch.batch_id or 'not taken yet'} of {batch.model}: {batch.status}, {batch.done:,} of "
        f"{batch.requests:,} done, {batch.failed:,} failed, since {batch.created_at[:16]} UTC"
        for batch in batches
    ]
    if working:
        blocks.append("\n".join(["At work", *map(_progress, working)]))
    if dead:
        kept = "What they had done is kept: the same commands continue from there."
        blocks.append("\n".join(["Killed", *map(_progress, dead), kept]))
    figures = {**as_rows(found), "batches": batches, "at_work": working, "killed": dead}
    conclude("\n\n".join(blocks), figures, next_of(store, store_dir))


def _progress(run: UnendedRun) -> str:
    """The progress of a run, or its last progress if it was killed."""
    from diva_grpo.pipeline.teacher.meter import state_line

    return f"{run.run_id}: {state_line(run.state) if run.state else 'no figures'}"
