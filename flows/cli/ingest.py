"""`diva ingest`: bring problems into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.options import limit_option, store_option
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.schemas.mapping import PRESETS, ColumnMapping

_COLUMN_FLAGS = ("id", "problem", "answer", "images", "options", "solution", "level")


def _column_options(command: Any) -> Any:
    for name in reversed(_COLUMN_FLAGS):
        command = click.option(f"--{name}-column", metavar="COLUMN", help=f"Column with the {name}.")(command)
    return command


@click.command()
@click.argument("source")
@store_option
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Known columns of a data set.")
@_column_options
@click.option("--source-name", help="Name in the store.  [default: the preset's, or the file's]")
@click.option("--split", help="Split of the rows.  [default: the source's, or train]")
@click.option("--license", "licence", help="Licence of the source, such as mit; `diva export` states it.")
@click.option("--generator-model", help="Who wrote the variants that come with the problems (preset diva).")
@limit_option
def ingest(
    source: str,
    store_dir: Path,
    preset: str | None,
    source_name: str | None,
    split: str | None,
    licence: str | None,
    generator_model: str | None,
    limit: int | None,
    **columns: str | None,
) -> None:
    """Bring problems into a store: a JSONL, JSON, Parquet or CSV file, a saved dataset, or a hub name.

    Bad rows become rejects with their line and reason; what is there already is not added again.

    \b
    examples: diva ingest problems.jsonl --preset gsm8k --store runs/store
              diva ingest openai/gsm8k --preset gsm8k --store runs/store
              diva ingest mine.parquet --id-column id --problem-column q --answer-column a --store runs/store
              diva ingest augmented.parquet --preset diva --generator-model o3 --store runs/store
    """
    from diva_grpo.pipeline.ingest import ingest as run
    from diva_grpo.pipeline.store import VariantStore

    base = PRESETS[preset] if preset else ColumnMapping()
    given = {name: columns[f"{name}_column"] for name in _COLUMN_FLAGS if columns[f"{name}_column"]}
    about = {"license": licence, "generator_model": generator_model}
    mapping = base.model_copy(update=given | {name: value for name, value in about.items() if value})
    store = VariantStore(store_dir, create=True)
    with store.run("ingest", mapping.model_dump_json(), None), progress_bar(0, "rows") as progress:
        report = run(
            store,
            source,
            mapping,
            source_name=source_name,
            split=split,
            limit=limit,
            progress=progress,
        )
    line = f"{report.added} problems added, {report.already_there} there already, {report.rejected} rejected"
    for column in report.absent_columns:
        click.echo(f"no row has a column {column!r}: is its name right?", err=True)
    if report.variants:
        line += f"; {report.variants} variants, to be checked by `diva verify`"
    if report.rejected:
        line += f': diva sql "select row_number, reason from rejects" --store {store_dir}'
    click.echo(line)
