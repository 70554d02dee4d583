"""`diva status`: show the contents of a store and the progress of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diva_grpo.flows.cli.options import store_option
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
    from diva_grpo.pipeline.store.report import sections
    from diva_grpo.pipeline.teacher.wire.batch.book import pending_batches

    store = VariantStore(store_dir)
    if not store.count_problems(limit=1):
        click.echo(
            f"The store is empty: `{diva('ingest', 'SOURCE', '--store', store_dir)}` brings problems into it."
        )
    left = unended_runs(store.root)
    dead = [run.run_id for run in left if not run.alive]
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in dead) or "NULL"
    last = Query("Last runs", _LAST_RUNS.format(dead=names))
    for query, table in sections(store, [*(queries()[name] for name in _QUERIES), last]):
        click.echo(f"\n{query.title}\n{render(table.slice(length=_MOST_ROWS), 'table')}")
    for batch in pending_batches(store.root):
        name = batch.batch_id or "not taken yet"
        click.echo(
            f"\nBatch {name} of {batch.model}: {batch.status}, {batch.done:,} of {batch.requests:,} done, "
            f"{batch.failed:,} failed, since {batch.created_at[:16]} UTC"
        )
    if working := [run for run in left if run.alive]:
        click.echo("\nAt work\n" + "\n".join(_progress(run) for run in working))
    if dead:
        click.echo(
            "\nKilled\n"
            + "\n".join(_progress(run) for run in left if not run.alive)
            + "\nWhat they had done is kept: the same commands continue from there."
        )


def _progress(run: UnendedRun) -> str:
    """The progress of a run, or its last progress if it was killed."""
    from diva_grpo.pipeline.teacher.meter import state_line

    return f"{run.run_id}: {state_line(run.state) if run.state else 'no figures'}"
