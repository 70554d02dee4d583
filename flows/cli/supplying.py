"""`diva generate --accepted`: generate and verify in turn, until there is enough of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diva_grpo.flows.cli.options import made
from diva_grpo.flows.cli.working import Limits, rehearsed, watched
from diva_grpo.schemas.config import GenerateConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.records import Status

if TYPE_CHECKING:
    from diva_grpo.pipeline.store import VariantStore

WHY_SHORT = "select * from shortages where accepted < wanted"
"""The query for problems that have too few variants of a kind."""

solver_option = click.option(
    "--solver-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --accepted: YAML file of the endpoint that verifies.  [default: the teacher's]",
)


def supply_store(
    store: VariantStore,
    teacher: TeacherConfig,
    config: GenerateConfig,
    checks: VerifyConfig,
    limits: Limits,
    chosen: dict[str, Any],
    solver_config: Path | None,
) -> None:
    """Supply the problems of a store, and say what stayed short.

    Args:
        store: the store.
        teacher: writes.
        config: how many of which kinds.
        checks: what a variant must pass.
        limits: a dry run counts the first try.
        chosen: `where` and `limit` of the problems.
        solver_config: file of the endpoint that verifies; None for the teacher's.

    Raises:
        ConfigError: the file does not fit, or what `supply` says.
        TeacherError: not one variant was written.
    """
    from diva_grpo.pipeline.stages.supply import supply, verifying

    solver = made(TeacherConfig, {}, solver_config) if solver_config else teacher
    if limits.dry_run:
        first = config.model_copy(update={"tries": 1})
        with rehearsed(store, teacher, limits, config) as dry:
            supply(
                dry.store,
                dry.teacher,
                first,
                verifying(dry.store, dry.teacher.other(solver), checks),
                **chosen,
            )
            dry.note("the first try, with its verification")
        return
    meter = limits.meter("requests")
    hired = limits.hire(teacher, meter)
    with store.run("generate", config.model_dump_json(), teacher.model) as run_id:
        with watched(store, run_id, "generate", meter):
            decide = verifying(store, hired.other(solver) if solver_config else hired, checks)
            done = supply(
                store, hired, config, decide, **chosen, shard_size=limits.shard_size, progress=meter
            )
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
