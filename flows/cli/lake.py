"""`diva lake`: register a store in a DuckLake catalogue."""

from __future__ import annotations

from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude


@click.command()
@store_option
@click.option(
    "--catalog",
    required=True,
    metavar="ducklake:DATABASE",
    help="As DuckDB attaches it: ducklake:FILE, ducklake:sqlite:FILE or ducklake:postgres:CONNECTION.",
)
@click.option(
    "--python",
    envvar="DIVA_LAKE_PYTHON",
    show_envvar=True,
    metavar="PATH",
    help="Interpreter of an environment whose DuckDB has the extension ducklake.  [default: this one]",
)
def lake(store_dir: Path, catalog: str, python: str | None) -> None:
    """Register a store's parts in a DuckLake catalogue, which many machines read by SQL, with history.

    Nothing is copied: the catalogue names hard links in the store's folder `lake`. Each run that finds something
    new makes one snapshot, with the store's views; run it again after writing or `diva compact`.

    \b
    examples: diva lake --store runs/store --catalog ducklake:sqlite:lake.sqlite
              diva lake --store runs/store --catalog "ducklake:postgres:dbname=diva host=db"
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.lake.catalogue import sync_lake

    done = sync_lake(VariantStore(store_dir), catalog, python=python)
    if done.added or done.removed:
        text = f"snapshot {done.snapshot}: {done.added} parts added, {done.removed} left out"
    else:
        text = f"snapshot {done.snapshot} is up to date"
    conclude(text, done)
