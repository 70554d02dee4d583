"""Looking at a store: sql, status."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.options import store_option

_STATUS = (
    ("Problems", "SELECT source, split, count(*) AS problems FROM problems GROUP BY ALL ORDER BY ALL"),
    (
        "Rejected rows",
        "SELECT source, reason, count(*) AS rows FROM rejects GROUP BY ALL ORDER BY ALL LIMIT 10",
    ),
    ("Variants", "SELECT kind, status, count(*) AS variants FROM variants GROUP BY ALL ORDER BY ALL"),
    (
        "Not accepted because of",
        "SELECT kind, status, regexp_extract(reason, '^[a-z_0-9]+') AS why, count(*) AS variants, "
        "any_value(reason) AS example FROM variants WHERE reason IS NOT NULL GROUP BY ALL "
        "ORDER BY variants DESC LIMIT 10",
    ),
    (
        "Labels",
        "SELECT solver_model, subject_kind, count(*) AS labels, round(avg(pass_rate), 3) AS pass_rate, "
        "round(avg(difficulty), 2) AS difficulty FROM labels GROUP BY ALL ORDER BY ALL",
    ),
    (
        "Calls",
        "SELECT model, purpose, outcome, count(*) AS calls, sum(prompt_tokens)::BIGINT AS prompt_tokens, "
        "sum(completion_tokens)::BIGINT AS completion_tokens, round(sum(cost_usd), 4) AS usd "
        "FROM calls GROUP BY ALL ORDER BY ALL",
    ),
    (
        "Last runs",
        "SELECT run_id, model, started_at::TIMESTAMP(0) AS started_at, outcome FROM runs "
        "ORDER BY started_at DESC LIMIT 5",
    ),
)


@click.command()
@store_option
def status(store_dir: Path) -> None:
    """What a store holds, in counts.

    \b
    example: diva status --store runs/store
    """
    from pipeline.store import VariantStore, render, run_select

    store = VariantStore(store_dir)
    for title, query in _STATUS:
        table = run_select(store, query)
        if table.num_rows:
            click.echo(f"\n{title}\n{render(table, 'table')}")


@click.command()
@click.argument("query")
@store_option
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="Parquet needs --output.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option(
    "--timeout",
    "timeout_s",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds a query may take.",
)
def sql(query: str, store_dir: Path, output_format: str, output: Path | None, timeout_s: float) -> None:
    """Run one SELECT over the store's views.

    \b
    example: diva sql "select kind, status, count(*) from variants group by all" --store runs/store
    """
    from pipeline.store import VariantStore, render, run_select

    if output_format == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    table = run_select(VariantStore(store_dir), query, timeout_s=timeout_s)
    text = render(table, output_format, output)
    click.echo(text if text is not None else f"{table.num_rows} rows written to {output}")
