"""`diva export`: write a store for another trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import made, store_option, verb_options
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.schemas.config import ExportConfig
from diva_grpo.schemas.exceptions import ConfigError


@click.command(cls=VerbCommand)
@click.argument("out", type=click.Path(path_type=Path))
@store_option
@verb_options("export")
@click.option(
    "--push-to-hub", metavar="OWNER/NAME", help="Upload the folder to the Hugging Face hub as well."
)
@click.option("--public", is_flag=True, help="With --push-to-hub: a new data set there is public.")
def export(out: Path, store_dir: Path, push_to_hub: str | None, public: bool, **values: Any) -> None:
    """Write originals and accepted variants for another trainer: TRL, veRL, EasyR1, or anything else.

    A Hugging Face folder has a dataset card, and loads with datasets.load_dataset(OUT).

    \b
    examples: diva export out/math --store runs/store --preset trl
              diva export train.parquet --store runs/store --format parquet --preset verl --where "split = 'train'"
              diva export labels.jsonl --store runs/store --format jsonl --what labels
    """
    from diva_grpo.pipeline.export import export as run
    from diva_grpo.pipeline.export.hub import check_token, push
    from diva_grpo.pipeline.store import VariantStore

    config = made(ExportConfig, values)
    if push_to_hub:
        if config.format != "hf":
            raise ConfigError("--push-to-hub goes with --format hf")
        check_token()
    store = VariantStore(store_dir)
    with progress_bar(None, "rows") as progress:
        report = run(store, out, config, progress)
    splits = ", ".join(f"{rows} {split}" for split, rows in report.rows.items())
    click.echo(f"{report.path}: {splits}" + (f", {report.images} images" if report.images else ""))
    if push_to_hub:
        click.echo(push(out, push_to_hub, private=not public))
