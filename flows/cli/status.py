"""`diva status`: what a store holds, and how far its runs are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diva_grpo.flows.cli.options import store_option

if TYPE_CHECKING:
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
    from diva_grpo.pipeline.store import VariantStore, render
    from diva_grpo.pipeline.store.agreement import HUMAN_AGREEMENT
    from diva_grpo.pipeline.store.files.liveness import signs
    from diva_grpo.pipeline.store.sql import locked, select
    from diva_grpo.pipeline.teacher.wire.batch.book import pending_batches

    store = VariantStore(store_dir)
    left = signs(store.root)
    dead = [sign.run_id for sign in left if not sign.alive]
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in dead) or "NULL"
    agreement = ("Rank correlation of human level and measured difficulty", HUMAN_AGREEMENT)
    queries = (*_STATUS, agreement, ("Last runs", _LAST_RUNS.format(dead=names)))
    with locked(store, "\n".join(query for _, query in queries)) as connection:
        for title, query in queries:
            table = select(store, connection, query)
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
