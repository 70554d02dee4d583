"""`diva compact`: merge the small files of a store."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.exceptions import StoreError


@click.command()
@store_option
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    help="Seconds for which a merged file stays for those that read it now.  [default: 3600]",
)
@click.option(
    "--keep-rollouts",
    "keep_rollouts",
    multiple=True,
    metavar="DAYS|RUN",
    help="Drop the rollouts of training runs, except those that ended within the last N days (such as 30d), or this "
    "run. Give it several times to keep more. Runs at work are always kept.",
)
def compact(store_dir: Path, grace_s: float | None, keep_rollouts: tuple[str, ...]) -> None:
    """Merge small files into few, and remove files that were merged earlier or that a crash left.

    Others may read, write and compact meanwhile. No row is lost but those of removed runs (`diva remove`) and what
    --keep-rollouts drops; what a checkpoint names stays readable.

    \b
    examples: diva compact --store runs/store
              diva compact --store runs/store --keep-rollouts 30d
              diva compact --store runs/store --grace 0    (only while nothing else uses the store)
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.files.compaction import GRACE_S

    with progress_bar(None, "parts") as progress:
        done = VariantStore(store_dir).compact(
            grace_s=GRACE_S if grace_s is None else grace_s,
            keep_rollouts=[_age_or_run(keep) for keep in keep_rollouts] or None,
            progress=progress,
        )
    line = f"{done.merged} parts merged into {done.made}, {done.removed} removed that were merged before"
    lines = [line + (f", {done.leftovers} leftovers of crashes removed" if done.leftovers else "")]
    if done.dropped:
        lines.append(f"{done.dropped} rows of training runs dropped")
    if done.waiting:
        lines.append(
            f"{done.waiting} merged parts stay for those that read them now: a later compaction removes them"
        )
    conclude("\n".join(lines), done)
    if done.damaged:
        raise StoreError(
            f"{len(done.damaged)} damaged parts were left alone: `{diva('doctor', '--store', store_dir, '--repair')}`"
        )


def _age_or_run(keep: str) -> str | timedelta:
    days = re.fullmatch(r"(\d+)d", keep)
    return timedelta(days=int(days[1])) if days else keep
