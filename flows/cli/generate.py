"""`diva generate`: write variants; with --accepted, also verify them, and write more until there are enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click

from diva_grpo.flows.cli.dry_run import rehearse
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import filter_option, limit_option, solver_option, store_option
from diva_grpo.flows.cli.preview import preview as show_preview
from diva_grpo.flows.cli.preview import preview_option
from diva_grpo.flows.cli.progress import watched
from diva_grpo.flows.cli.results import (
    WHY_SHORT,
    conclude_variants,
    raise_if_most_failed,
    spent,
    stages_text,
    then,
)
from diva_grpo.flows.cli.settings import made, spending_of, spending_options, take, teacher_of, verb_options
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.command import word
from diva_grpo.schemas.config import (
    IMAGE_KINDS,
    GenerateConfig,
    TeacherConfig,
    VerifyConfig,
)
from diva_grpo.schemas.exceptions import ConfigError

if TYPE_CHECKING:
    from diva_grpo.pipeline.session.spending import Spending
    from diva_grpo.pipeline.stages.curate import Chosen, Stages
    from diva_grpo.pipeline.store import VariantStore


@click.command(cls=VerbCommand)
@store_option
@verb_options("generate")
@solver_option
@filter_option
@limit_option
@spending_options
@preview_option
def generate(
    store_dir: Path,
    problem_filter: str | None,
    limit: int | None,
    solver_config: Path | None,
    dry_run: bool,
    preview: int | None,
    **values: Any,
) -> None:
    """Write variants of every problem that has none of these kinds yet.

    A teacher is asked for reword, harder and think_step; image, image_text and composite need none.
    With --accepted N it also verifies, and requests more until each problem has N accepted variants of each kind or
    its --tries are used up. The options of `diva verify` set the checks.
    With --preview N it generates and verifies for N problems, shows all that was sent and answered, and keeps only the
    answers, which the run then does not pay for again.

    \b
    examples: diva generate --store runs/store --base-url http://localhost:8000/v1 --model qwen \\
                  --kinds reword,think_step --limit 50
              diva generate --store runs/store --kinds image,image_text,composite
              diva generate --store runs/store --model gpt-4.1-mini --dry-run
              diva generate --store runs/store --model gpt-4.1-mini --preview 3
              diva generate --store runs/store --model gpt-4.1-mini --max-cost 5
              diva generate --store runs/store --model gpt-4.1-mini --accepted 5
              diva generate --store runs/store --model gpt-4.1-mini --accepted reword=5,think_step=3
    """
    from diva_grpo.pipeline.stages.curate import Stages
    from diva_grpo.pipeline.store import VariantStore

    store, config = VariantStore(store_dir), made(GenerateConfig, take(values, GenerateConfig))
    spending = spending_of(values)
    needless = set(config.kinds) <= set(IMAGE_KINDS) and config.accepted is None
    teacher = None if needless else teacher_of(values, retry_failed=config.retry_failed)
    checks = take(values, VerifyConfig)
    stages, solver = Stages(config), None
    if preview or (teacher and config.accepted is not None):
        stages = Stages(config, made(VerifyConfig, checks | {"retry_failed": config.retry_failed}))
        solver = made(TeacherConfig, {}, solver_config) if solver_config else None
    elif solver_config or any(value is not None for value in checks.values()):
        raise click.UsageError(
            "the checks and --solver-config go with --accepted or --preview; `diva verify` is the other way"
        )
    if preview:
        if dry_run:
            raise click.UsageError("give --preview, which sends requests, or --dry-run, which does not")
        show_preview(
            store,
            stages,
            teacher,
            solver,
            count=preview,
            spending=spending,
            where=problem_filter,
            limit=limit,
        )
        return
    if dry_run:
        if teacher is None:
            raise ConfigError("variants of images cost nothing: leave --dry-run out")
        rehearse(store, stages, teacher, solver, batch=spending.batch, where=problem_filter, limit=limit)
        return
    _run(store, store_dir, stages, spending, teacher, solver, where=problem_filter, limit=limit)


def _run(
    store: VariantStore,
    store_dir: Path,
    stages: Stages,
    spending: Spending,
    teacher: TeacherConfig | None,
    solver: TeacherConfig | None,
    **chosen: Unpack[Chosen],
) -> None:
    from diva_grpo.pipeline.stages.curate import curate

    config = stages.generate
    assert config
    total = None
    if not stages.supplies:
        total = store.count_problems(where=chosen.get("where"), limit=chosen.get("limit")) * len(config.kinds)
    meter = spending.meter("requests", "verified" if stages.supplies else "generated", total)
    session = spending.session(store, meter, teacher, solver)
    with store.run("generate", config.model_dump_json(), teacher.model if teacher else None) as run_id:
        with watched(store, run_id, "generate", meter), session:
            done = curate(session, stages, **chosen)
        if not stages.supplies:
            follows = then("verify", store_dir, teacher)
            conclude_variants(store, done.generated, meter, follows, written=False)
            return
        counts = {"written": done.generated, "verified": done.verified}
        lines = [stages_text(counts), done.summary()]
        if done.shortages:
            lines.append(f'diva sql "{WHY_SHORT}" --store {word(store_dir)}   says why')
        figures = {**counts, "shortages": done.shortages, **spent(meter)}
        conclude("\n".join(lines), figures, then("label", store_dir, teacher))
        raise_if_most_failed(done.generated, meter)
        raise_if_most_failed(done.verified, meter)
        meter.raise_for_outages()
