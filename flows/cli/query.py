"""Looking at a store: status, report, sql, init."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.schemas.exceptions import QueryError

if TYPE_CHECKING:
    from diva_grpo.pipeline.store.catalog import View
    from diva_grpo.pipeline.store.files.liveness import Sign

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
)

_LAST_RUNS = """
SELECT run_id, model, started_at::TIMESTAMP(0) AS started_at,
       CASE WHEN outcome = 'running' AND run_id IN ({dead}) THEN 'killed' ELSE outcome END AS outcome
FROM runs ORDER BY started_at DESC LIMIT 5
"""


@click.command()
@store_option
def status(store_dir: Path) -> None:
    """What a store holds, in counts, and how far the runs are that work on it now.

    \b
    example: diva status --store runs/store
    """
    from diva_grpo.pipeline.store import VariantStore, render, run_select
    from diva_grpo.pipeline.store.agreement import HUMAN_AGREEMENT
    from diva_grpo.pipeline.store.files.liveness import signs
    from diva_grpo.pipeline.teacher.wire.batch.book import pending_batches

    store = VariantStore(store_dir)
    left = signs(store.root)
    dead = [sign.run_id for sign in left if not sign.alive]
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in dead) or "NULL"
    agreement = ("Rank correlation of human level and measured difficulty", HUMAN_AGREEMENT)
    for title, query in (*_STATUS, agreement, ("Last runs", _LAST_RUNS.format(dead=names))):
        table = run_select(store, query)
        if table.num_rows:
            click.echo(f"\n{title}\n{render(table, 'table')}")
    for batch in pending_batches(store.root):
        name = batch.batch_id or "not taken yet"
        click.echo(
            f"\nBatch {name} of {batch.model}: {batch.status}, {batch.done:,} of {batch.requests:,} done, "
            f"{batch.failed:,} failed, since {batch.created_at[:16]} UTC"
        )
    if working := [sign for sign in left if sign.alive]:
        click.echo("\nAt work\n" + "\n".join(_progress(sign) for sign in working))
    if dead:
        click.echo(
            "\nKilled\n"
            + "\n".join(_progress(sign) for sign in left if not sign.alive)
            + "\nWhat they had done is kept: the same commands go on from there."
        )


def _progress(sign: Sign) -> str:
    """How far a run is, or was when it died."""
    from diva_grpo.pipeline.teacher.meter import state_line

    return f"{sign.run_id}: {state_line(sign.state) if sign.state else 'no figures'}"


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


@click.command()
@click.argument("query", required=False)
@click.option("--store", "store_dir", type=click.Path(path_type=Path), help="Folder of the store.")
@click.option(
    "--file",
    "query_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Run the queries of this file, one after the other.",
)
@click.option("--schema", is_flag=True, help="Show all views and columns with types and descriptions.")
@click.option("--examples", is_flag=True, help="Show useful queries.")
@click.option("--example", "number", metavar="N", help="Run one of the useful queries.")
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
@click.option(
    "--memory",
    "memory_mb",
    default=2_048,
    show_default=True,
    type=click.IntRange(min=64),
    help="MiB of memory a query may use.",
)
def sql(
    query: str | None,
    store_dir: Path | None,
    query_file: Path | None,
    schema: bool,
    examples: bool,
    number: str | None,
    output_format: str,
    output: Path | None,
    timeout_s: float,
    memory_mb: int,
) -> None:
    """Run one SELECT over the store's views; without a query, read them from a prompt or a pipe.

    A query can read the store's tables and nothing else, and can write nothing.

    \b
    examples: diva sql "select kind, status, count(*) from variants group by all" --store runs/store
              diva sql --store runs/store
              diva sql --schema --store runs/store
              diva sql --file queries.sql --format csv --store runs/store
    """
    from diva_grpo.flows.cli.prompt import example, examples_text, run_prompt
    from diva_grpo.pipeline.store import VariantStore, render, run_apart
    from diva_grpo.pipeline.store.catalog import describe_views
    from diva_grpo.pipeline.store.sql import split_statements

    if sum(given is not None for given in (query, query_file, number)) + schema + examples > 1:
        raise click.UsageError("give one of QUERY, --file, --schema, --examples and --example")
    if examples:
        click.echo(examples_text())
        return
    if store_dir is None:
        raise click.UsageError("give --store DIR")
    if output_format == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    store = VariantStore(store_dir)

    def run(statement: str) -> None:
        table = run_apart(store, statement, timeout_s=timeout_s, memory_mb=memory_mb)
        text = render(table, output_format, output)
        click.echo(text if text is not None else f"{table.num_rows} rows written to {output}")

    if schema:
        _show_schema(describe_views(store), output_format, output)
    elif query is not None or number is not None:
        run(query if query is not None else example(str(number)))
    elif query_file is None and sys.stdin.isatty():
        run_prompt(describe_views(store), run)
    else:
        statements = split_statements(_text_of(query_file))
        if output is not None and len(statements) > 1:
            raise click.UsageError("--output takes the result of one query, and there are several")
        for statement in statements:
            run(statement)


def _text_of(file: Path | None) -> str:
    """The text of a file, or of standard input.

    Raises:
        QueryError: it is not UTF-8 or cannot be read.
    """
    try:
        content = sys.stdin.buffer.read() if file is None else file.read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{file or 'standard input'} is not a text of queries: {error}") from error


def _show_schema(views: list[View], output_format: str, output: Path | None) -> None:
    import pyarrow as pa

    from diva_grpo.flows.cli.prompt import schema_text
    from diva_grpo.pipeline.store import render

    if output_format == "table" and output is None:
        click.echo(schema_text(views))
        return
    rows = [
        {"view": view.name, "column": column.name, "type": column.type, "description": column.description}
        for view in views
        for column in view.columns
    ]
    text = render(pa.Table.from_pylist(rows), output_format, output)
    click.echo(text if text is not None else f"{len(rows)} columns written to {output}")


@click.command()
@store_option
def init(store_dir: Path) -> None:
    """Make an empty store, or renew the views of one that is there.

    Writes store.duckdb and views.sql into its folder, which open the store from DuckDB's own shell, a notebook
    or any tool that reads DuckDB. They name files by their whole paths: run this again when the store has moved.

    \b
    example: diva init --store runs/store
             duckdb -readonly runs/store/store.duckdb
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.catalog import write_views

    database, script = write_views(VariantStore(store_dir, create=True))
    click.echo(f"{database} and {script.name} written: `duckdb -readonly {database}` opens the store")
