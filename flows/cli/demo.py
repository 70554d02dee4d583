"""`diva demo`: run the whole loop, from curation to training, without an endpoint."""

from __future__ import annotations

from pathlib import Path

import click

from diva_grpo.flows.cli.options import Address
from diva_grpo.flows.cli.summary import conclude


@click.command()
@click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with problems, models and settings as those of the demo. Default: the package's own.",
)
@click.option("--store", "store_dir", type=Address(), help="Default: a new folder in runs/.")
@click.option("--short", is_flag=True, help="Fewer problems and steps: about a minute.")
def demo(data_dir: Path | None, store_dir: Path | None, short: bool) -> None:
    """The whole loop without an endpoint: scripted teacher, curation, training, one screen of results.

    \b
    example: diva demo --short
    """
    from diva_grpo.flows.demo.run import run_demo

    conclude(*run_demo(data_dir, store_dir, short=short))
