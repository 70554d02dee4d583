"""`diva init`: create an empty store, or update the views of an existing one."""

from __future__ import annotations

from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude, next_of


@click.command()
@store_option
def init(store_dir: Path) -> None:
    """Make an empty store, or renew the views of one that is there.

    Writes store.duckdb and views.sql into its folder, which open the store from DuckDB's own shell, a notebook
    or any tool that reads DuckDB. They name files by absolute paths: run this again after the store was moved.

    \b
    example: diva init --store runs/store
             duckdb -readonly runs/store/store.duckdb
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.catalog import write_views

    store = VariantStore(store_dir, create=True)
    database, script = write_views(store)
    text = f"{database} and {script.name} written: `duckdb -readonly {database}` opens the store"
    conclude(text, {"database": database, "views": script}, next_of(store, store_dir))
