"""`diva export`: write a store for another trainer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.settings import made, verb_options
from diva_grpo.flows.cli.summary import conclude
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
    """Write originals and accepted variants for another trainer: TRL, veRL, EasyR1, prime-rl, or anything else.

    OUT.parquet and OUT.jsonl are files. Any other OUT is a Hugging Face folder with a dataset card, which
    datasets.load_dataset(OUT) loads. With --preset verifiers, OUT is the folder of a package that pip installs.

    \b
    examples: diva export out/math --store runs/store --preset trl
              diva export train.parquet --store runs/store --preset verl --where "split = 'train'"
              diva export word_problems --store runs/store --preset verifiers
              diva export out/sft --store runs/store --preset sft
              diva export out/mid.parquet --store runs/store --preset trl --pass-rate 0.1:0.8 --control
              diva export labels.jsonl --store runs/store --what labels
    """
    from diva_grpo.pipeline.export import export as run
    from diva_grpo.pipeline.export.export import format_of
    from diva_grpo.pipeline.export.hub import check_token, push
    from diva_grpo.pipeline.store import VariantStore

    config = made(ExportConfig, values)
    if push_to_hub:
        if format_of(out, config) != "hf" or config.preset == "verifiers":
            raise ConfigError("--push-to-hub goes with --format hf, and not with --preset verifiers")
        check_token()
    store = VariantStore(store_dir)
    with progress_bar(None, "rows") as progress:
        report = run(store, out, config, progress)
    lines, figures = [], asdict(report)
    for written in filter(None, (report, report.control)):
        splits = ", ".join(f"{rows} {split}" for split, rows in written.rows.items())
        lines.append(f"{written.path}: {splits}" + (f", {written.images} images" if written.images else ""))
        for note in written.notes:
            click.echo(note, err=True)
    if push_to_hub:
        figures["pushed"] = push(out, push_to_hub, private=not public)
        lines.append(figures["pushed"])
    conclude("\n".join(lines), figures)
