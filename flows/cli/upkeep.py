"""Keeping a store in order: compact, doctor; and known elsewhere: lake."""

from __future__ import annotations

from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.schemas.exceptions import StoreError


@click.command()
@store_option
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    help="Seconds for which a merged file stays for those that read it now.  [default: 3600]",
)
def compact(store_dir: Path, grace_s: float | None) -> None:
    """Merge small files into few, and remove files merged earlier or left behind by a crash.

    Others may read, write and compact meanwhile. No row is lost; what a checkpoint names stays readable.

    \b
    examples: diva compact --store runs/store
              diva compact --store runs/store --grace 0    (only while nothing else uses the store)
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.files.compaction import GRACE_S

    done = VariantStore(store_dir).compact(grace_s=GRACE_S if grace_s is None else grace_s)
    line = f"{done.merged} parts merged into {done.made}, {done.removed} removed that were merged before"
    click.echo(line + (f", {done.leftovers} leftovers of crashes removed" if done.leftovers else ""))
    if done.waiting:
        click.echo(
            f"{done.waiting} merged parts stay for those that read them now: a later compaction removes them"
        )
    if done.damaged:
        raise StoreError(
            f"{len(done.damaged)} damaged parts were left alone: `diva doctor --store {store_dir} --repair`"
        )


@click.command()
@store_option
@click.option("--repair", is_flag=True, help="Move damaged files to the store's folder `quarantine`.")
def doctor(store_dir: Path, repair: bool) -> None:
    """Read every file of a store and say which are damaged, missing or left behind.

    A damaged file is moved to quarantine by --repair, with a report of what it held and of the command that made
    it; then the store opens again. Exits with 1 where something is damaged or missing.

    \b
    examples: diva doctor --store runs/store
              diva doctor --store runs/store --repair
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.doctor import Fault

    findings = VariantStore(store_dir).examine(repair=repair)
    for finding in findings:
        click.echo(str(finding))
    open_ones = [f for f in findings if f.fault != Fault.LEFTOVER and f.moved_to is None]
    if any(finding.fault == Fault.DAMAGED for finding in open_ones):
        raise StoreError(
            f"files are damaged: `diva doctor --store {store_dir} --repair` moves them to quarantine"
        )
    if open_ones:
        raise StoreError("something is missing: see above what brings it back")
    click.echo("all is well" if not findings else "the store is in order")


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
        click.echo(f"snapshot {done.snapshot}: {done.added} parts added, {done.removed} left out")
    else:
        click.echo(f"snapshot {done.snapshot} is up to date")
