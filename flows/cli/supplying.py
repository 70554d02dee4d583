"""`diva generate --accepted`: generate and verify in turn, until there is enough of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.cli.options import progress_bar
from schemas.config import GenerateConfig, TeacherConfig, VerifyConfig
from schemas.exceptions import TeacherError
from schemas.records import Status

if TYPE_CHECKING:
    from pipeline.store import VariantStore

WHY_SHORT = "select * from shortages where accepted < wanted"
"""The query for problems that have too few variants of a kind."""


def supply_store(
    store: VariantStore,
    teacher: TeacherConfig,
    config: GenerateConfig,
    solver: TeacherConfig,
    checks: VerifyConfig,
    limit: int | None,
) -> None:
    """Supply the problems of a store, and say what stayed short.

    Raises:
        TeacherError: not one variant was written.
    """
    from pipeline.supply import supply, verifying

    with (
        store.run("generate", config.model_dump_json(), teacher.model),
        progress_bar(None, "requests") as progress,
    ):
        decide = verifying(store, solver, checks)
        done = supply(store, teacher, config, decide, limit=limit, progress=progress)
        for stage, counts in (("written", done.generated), ("verified", done.verified)):
            numbers = ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "nothing to do"
            click.echo(f"{stage}: {numbers}")
        click.echo(done.summary())
        if done.shortages:
            click.echo(f'diva sql "{WHY_SHORT}" --store {store.root}   says why')
        if set(done.generated) == {Status.FAILED} and not done.verified:
            raise TeacherError(
                "no variant was written: the lines above say why; try again with --retry-failed"
            )
