"""`diva generate`: write variants, and with --accepted verify them in turn until there are enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diva_grpo.flows.cli.dry_run import rehearsed
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import (
    filter_option,
    limit_option,
    made,
    solver_option,
    spending_of,
    spending_options,
    store_option,
    take,
    teacher_of,
    verb_options,
)
from diva_grpo.flows.cli.progress import watched
from diva_grpo.flows.cli.results import WHY_SHORT, show_stages, show_variants
from diva_grpo.schemas.command import word
from diva_grpo.schemas.config import IMAGE_KINDS, GenerateConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError, TeacherError
from diva_grpo.schemas.records import Status

if TYPE_CHECKING:
    from diva_grpo.pipeline.session.spending import Spending
    from diva_grpo.pipeline.store import VariantStore


@click.command(cls=VerbCommand)
@store_option
@verb_options("generate")
@solver_option
@filter_option
@limit_option
@spending_options
def generate(
    store_dir: Path,
    problem_filter: str | None,
    limit: int | None,
    solver_config: Path | None,
    dry_run: bool,
    **values: Any,
) -> None:
    """Write variants of every problem that has none of these kinds yet.

    A teacher is asked for reword, harder and think_step; image, image_text and composite need none.
    With --accepted N it also verifies, and requests more until each problem has N accepted variants of each kind or
    its --tries are used up. The options of `diva verify` set the checks.

    \b
    examples: diva generate --store runs/store --base-url http://localhost:8000/v1 --model qwen \\
                  --kinds reword,think_step --limit 50
              diva generate --store runs/store --kinds image,image_text,composite
              diva generate --store runs/store --model gpt-4.1-mini --dry-run
              diva generate --store runs/store --model gpt-4.1-mini --max-cost 5
              diva generate --store runs/store --model gpt-4.1-mini --accepted 5
              diva generate --store runs/store --model gpt-4.1-mini --accepted reword=5,think_step=3
    """
    from diva_grpo.pipeline.stages.generate import generate as run
    from diva_grpo.pipeline.store import VariantStore

    store, config = VariantStore(store_dir), made(GenerateConfig, take(values, GenerateConfig))
    spending = spending_of(values)
    chosen: Any = {"where": problem_filter, "limit": limit}
    needless = set(config.kinds) <= set(IMAGE_KINDS) and config.accepted is None
    teacher = None if needless else teacher_of(values, retry_failed=config.retry_failed)
    checks = take(values, VerifyConfig)
    if teacher and config.accepted is not None:
        checking = made(VerifyConfig, checks | {"retry_failed": config.retry_failed})
        _supply(store, teacher, config, checking, spending, chosen, solver_config, dry_run=dry_run)
        return
    if solver_config or any(value is not None for value in checks.values()):
        raise click.UsageError(
            "the checks and --solver-config go with --accepted; `diva verify` is the other way"
        )
    if dry_run and teacher:
        with rehearsed(store, teacher, config, batch=spending.batch) as dry:
            run(dry.store, dry.teacher, config, **chosen)
            dry.note("generate")
        return
    if dry_run:
        raise ConfigError("variants of images cost nothing: leave --dry-run out")
    total = len(store.problems(**chosen)) * len(config.kinds)
    meter = spending.meter("requests", total)
    hired = spending.teacher(teacher, meter) if teacher else None
    with store.run("generate", config.model_dump_json(), teacher.model if teacher else None) as run_id:
        with watched(store, run_id, "generate", meter):
            counts = run(store, hired, config, **chosen, shard_size=spending.shard_size, progress=meter)
        show_variants(store, counts, meter, written=False)


def _supply(
    store: VariantStore,
    teacher: TeacherConfig,
    config: GenerateConfig,
    checks: VerifyConfig,
    spending: Spending,
    chosen: dict[str, Any],
    solver_config: Path | None,
    *,
    dry_run: bool,
) -> None:
    """Supply the problems of a store, and say what stayed short.

    Args:
        store: the store.
        teacher: writes.
        config: how many of which kinds.
        checks: what a variant must pass.
        spending: what it may cost.
        chosen: `where` and `limit` of the problems.
        solver_config: file of the endpoint that verifies; None for the teacher's.
        dry_run: count the requests of the first try and send nothing.

    Raises:
        ConfigError: the file does not fit, or what `supply` says.
        TeacherError: not one variant was written.
    """
    from diva_grpo.pipeline.stages.supply import supply, verifying

    solver = made(TeacherConfig, {}, solver_config) if solver_config else teacher
    if dry_run:
        first = config.model_copy(update={"tries": 1})
        with rehearsed(store, teacher, config, batch=spending.batch) as dry:
            supply(
                dry.store,
                dry.teacher,
                first,
                verifying(dry.store, dry.teacher.other(solver), checks),
                **chosen,
            )
            dry.note("the first try, with its verification")
        return
    meter = spending.meter("requests")
    hired = spending.teacher(teacher, meter)
    with store.run("generate", config.model_dump_json(), teacher.model) as run_id:
        with watched(store, run_id, "generate", meter):
            decide = verifying(store, hired.other(solver) if solver_config else hired, checks)
            done = supply(
                store, hired, config, decide, **chosen, shard_size=spending.shard_size, progress=meter
            )
        show_stages({"written": done.generated, "verified": done.verified})
        click.echo(done.summary())
        if done.shortages:
            click.echo(f'diva sql "{WHY_SHORT}" --store {word(store.root)}   says why')
        if set(done.generated) == {Status.FAILED} and not done.verified:
            raise TeacherError(
                "no variant was written: the lines above say why; try again with --retry-failed"
            )
        meter.raise_for_outages()
