"""`diva ingest`: bring problems into a store."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.options import Address, limit_option
from diva_grpo.flows.cli.summary import conclude, next_of
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.schemas.command import word
from diva_grpo.schemas.exceptions import SourceError
from diva_grpo.schemas.mapping import FLAGS, PRESETS


def _column_options(command: Any) -> Any:
    for name in reversed(FLAGS):
        command = click.option(f"--{name}-column", metavar="COLUMN", help=f"Column with the {name}.")(command)
    return command


@click.command()
@click.argument("source")
@click.option(
    "--store",
    "store_dir",
    type=Address(),
    help="Folder of the store; needed but for --preview.",
)
@click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    help="Known columns.  [default: recognised from the columns]",
)
@_column_options
@click.option(
    "--answer-index",
    type=int,
    help="The answer is the number of an option; the first has this number (0 or 1).",
)
@click.option("--config", "hub_config", help="Configuration of a data set of the hub that has several.")
@click.option("--source-name", help="Name in the store.  [default: the preset's, or the file's]")
@click.option("--split", help="Split of the rows.  [default: the source's, or train]")
@click.option("--license", "licence", help="Licence of the source, such as mit; `diva export` states it.")
@click.option("--generator-model", help="Who wrote the variants that come with the problems (preset diva).")
@click.option(
    "--preview",
    "preview_rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show the mapping and the first N rows as the store would hold them, and write nothing.",
)
@limit_option
def ingest(
    source: str,
    store_dir: Path | None,
    preset: str | None,
    answer_index: int | None,
    hub_config: str | None,
    source_name: str | None,
    split: str | None,
    licence: str | None,
    generator_model: str | None,
    preview_rows: int | None,
    limit: int | None,
    **columns: str | None,
) -> None:
    """Bring problems into a store: a JSONL, JSON, CSV, Parquet or Arrow file, a folder of them, or a hub name.

    The layout is recognised from the columns (veRL, TRL, ShareGPT, MATH, GSM8K, ...) and said in one line; --preset
    and the flags of columns win. A dotted name leads into a nested column. Bad rows become rejects with their line
    and reason; what is there already is not added again.

    \b
    examples: diva ingest problems.jsonl --preview 3
              diva ingest problems.jsonl --preset gsm8k --store runs/store
              diva ingest openai/gsm8k --config socratic --store runs/store
              diva ingest mine.parquet --id-column id --problem-column q --answer-column a --store runs/store
              diva ingest verl.parquet --answer-column reward_model.ground_truth --store runs/store
              diva ingest augmented.parquet --preset diva --generator-model o3 --store runs/store
    """
    from diva_grpo.pipeline.ingest import ingest as run
    from diva_grpo.pipeline.ingest import preview
    from diva_grpo.pipeline.ingest.intake import run_config, same_name
    from diva_grpo.pipeline.ingest.preview import unread_lines
    from diva_grpo.pipeline.store import VariantStore

    mapping = PRESETS[preset] if preset else None
    given = {name: columns[f"{name}_column"] for name in FLAGS}
    given |= {"license": licence, "generator_model": generator_model, "hub_config": hub_config}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value}
    changes |= {"answer_index": answer_index} if answer_index is not None else {}
    where: Any = {"changes": changes, "source_name": source_name, "split": split}
    if preview_rows:
        shown = [*preview(source, mapping, preview_rows, **where)]
        conclude("\n".join(shown), {"preview": shown})
        return
    if store_dir is None:
        raise click.UsageError("Missing option '--store'.")
    store = VariantStore(store_dir, create=True)
    config = run_config(source, mapping, changes, source_name)
    name = json.loads(config)["source_name"]
    other = same_name(store, source, name)
    if other:
        click.echo(
            f"the store has problems of {other} by the name {name!r}: --source-name tells them apart",
            err=True,
        )
    with store.run("ingest", config, None), progress_bar(0, "rows") as progress:
        report = run(
            store,
            source,
            mapping,
            limit=limit,
            progress=progress,
            announce=lambda line: click.echo(line, err=True),
            **where,
        )
    for column in report.absent_columns:
        click.echo(f"no row has a column {column!r}: is its name right?", err=True)
    for line in unread_lines(report.unread_images):
        click.echo(line, err=True)
    line = f"{report.added} problems added, {report.already_there} there already, {report.rejected} rejected"
    if report.variants:
        line += f"; {report.variants} variants, to be checked by `diva verify`"
    if report.rejected:
        line += f': diva sql "select row_number, reason from rejects" --store {word(store_dir)}'
    conclude(line, {"rows": report.rows, **asdict(report)}, next_of(store, store_dir))
    if report.rejected == report.rows > 0:
        raise SourceError(f"nothing came in of {source}; most often: {report.commonest}")
