"""`diva report`: a store on one page."""

from __future__ import annotations

from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option


@click.command()
@store_option
@click.option(
    "--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page of HTML instead."
)
def report(store_dir: Path, page: Path | None) -> None:
    """The state of a store on one page: problems, variants, checks, difficulty, costs, runs, training.

    \b
    examples: diva report --store runs/store
              diva report --store runs/store --html report.html
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.report import html_report, text_report

    store = VariantStore(store_dir)
    if page is None:
        click.echo(text_report(store))
    else:
        click.echo(f"{page}: {html_report(store, page)} tables")
