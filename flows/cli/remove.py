"""`diva remove`: hide the rows of a training run. The next compaction deletes them."""

from __future__ import annotations

from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.command import diva


@click.command()
@click.argument("run_id", metavar="RUN")
@store_option
@click.option("--undo", is_flag=True, help="Show the rows of a removed run again.")
def remove(run_id: str, store_dir: Path, undo: bool) -> None:
    """Remove a training run: its rollouts, difficulty events, steps and evaluations.

    Queries no longer show them, and the next `diva compact` drops them. Until then --undo brings them back. Its
    rows in `runs` and `attempts` stay.

    \b
    examples: diva remove train-20260101-120000-ab12cd --store runs/store
              diva remove train-20260101-120000-ab12cd --store runs/store --undo
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.removal import remove_run, restore_run

    store = VariantStore(store_dir)
    counts = restore_run(store, run_id) if undo else remove_run(store, run_id)
    rows = ", ".join(f"{count} {table}" for table, count in counts.items())
    if not undo:
        text = f"{run_id} removed: {rows}; --undo brings them back until the next `diva compact`"
    elif rows:
        text = f"{run_id} is back: {rows}"
    else:
        text = f"{run_id} is no longer removed, but a compaction has dropped its rows"
    then = "" if undo else diva("compact", "--store", store_dir)
    conclude(text, {"run": run_id, "removed": not undo, "rows": counts}, then)
