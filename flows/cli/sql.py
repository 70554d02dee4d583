"""`diva sql`: query a store with SELECT statements."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diva_grpo.flows.cli.options import Address
from diva_grpo.pipeline.store.limits import SQL_MEMORY_MB, SQL_TIMEOUT_S
from diva_grpo.pipeline.store.terminal import visible
from diva_grpo.schemas.exceptions import QueryError

if TYPE_CHECKING:
    from diva_grpo.pipeline.store.catalog import View


@click.command()
@click.argument("query", required=False)
@click.option("--store", "store_dir", type=Address(), help="Folder of the store.")
@click.option(
    "--file",
    "query_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Run the queries of this file, one after the other.",
)
@click.option("--schema", is_flag=True, help="Show all views and columns with types and descriptions.")
@click.option("--examples", is_flag=True, help="Show useful queries.")
@click.option(
    "--example", "name", metavar="NAME", help="Run one of the useful queries, by its name or number."
)
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
    default=SQL_TIMEOUT_S,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds a query may take.",
)
@click.option(
    "--memory",
    "memory_mb",
    default=SQL_MEMORY_MB,
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
    name: str | None,
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
    if sum(given is not None for given in (query, query_file, name)) + schema + examples > 1:
        raise click.UsageError("give one of QUERY, --file, --schema, --examples and --example")
    if examples:
        from diva_grpo.flows.cli.prompt import examples_text

        click.echo(examples_text())
        return
    if store_dir is None:
        raise click.UsageError("give --store DIR")
    if output_format == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    run = partial(_run, store_dir, output_format, output, timeout_s, memory_mb)
    if name is not None:
        from diva_grpo.flows.cli.prompt import example

        query = example(name)
    if query is not None:
        # Only the process of the query opens the store: without DuckDB, this one starts in a tenth of a second.
        click.echo(run(query), err=True, nl=False)
        return
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.catalog import describe_views
    from diva_grpo.pipeline.store.sql import split_statements

    store = VariantStore(store_dir)
    if schema:
        _show_schema(describe_views(store), output_format, output)
    elif query_file is None and sys.stdin.isatty():
        from diva_grpo.flows.cli.prompt import run_prompt

        run_prompt(describe_views(store), run)
    else:
        statements = split_statements(_text_of(query_file))
        if output is not None and len(statements) > 1:
            raise click.UsageError("--output takes the result of one query, and there are several")
        for statement in statements:
            run(statement)


def _run(
    store_dir: Path,
    output_format: str,
    output: Path | None,
    timeout_s: float,
    memory_mb: int,
    statement: str,
) -> str:
    """Run a query and print or write its result. Returns the warnings that came with it."""
    from diva_grpo.pipeline.store.sandbox import run_apart, text_apart

    if output is not None and output_format == "parquet":
        from diva_grpo.pipeline.store import VariantStore, render

        table = run_apart(VariantStore(store_dir), statement, timeout_s=timeout_s, memory_mb=memory_mb)
        render(table, output_format, output)
        rows, warnings = table.num_rows, ""
    else:
        rows, text, warnings = text_apart(
            store_dir, statement, output_format, timeout_s=timeout_s, memory_mb=memory_mb
        )
        if output is None:
            click.echo(visible(text) if sys.stdout.isatty() else text)
            return warnings
        from diva_grpo.pipeline.store.sql import write_text

        write_text(text, output)
    click.echo(f"{rows} rows written to {output}")
    return warnings


def _text_of(file: Path | None) -> str:
    """Read the text of a file; None reads standard input.

    Raises:
        QueryError: the text is not UTF-8 or cannot be read.
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
