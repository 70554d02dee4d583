"""`diva curate`: generate, verify and label as one flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diva_grpo.flows.cli.dry_run import ASSUMED, costly, rehearsed
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import (
    dry_run_option,
    made,
    no_labels_option,
    store_option,
    take,
    teacher_of,
    verb_options,
)
from diva_grpo.flows.cli.results import WHY_SHORT, show_stages
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.config import CurateConfig, GenerateConfig, LabelConfig, VerifyConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.records import Status

if TYPE_CHECKING:
    from diva_grpo.pipeline.store import VariantStore


@click.command(cls=VerbCommand)
@store_option
@verb_options("curate")
@no_labels_option
@dry_run_option
def curate(store_dir: Path, no_labels: bool, dry_run: bool, **values: Any) -> None:
    """Generate, verify and label as one Prefect flow; run again, it does only what is missing.

    \b
    examples: diva curate --store runs/store --base-url http://localhost:8000/v1 --model qwen --samples 4
              diva curate --store runs/store --model qwen --accepted reword=5,think_step=3
              diva curate --store runs/store --model gpt-4.1-mini --batch --dry-run
    """
    from diva_grpo.pipeline.session.spending import Spending
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.teacher.wire.live import endpoint_url

    retry_failed = values["retry_failed"]
    config = made(
        CurateConfig,
        {
            "store": store_dir,
            "teacher": teacher_of(values, retry_failed=bool(retry_failed)),
            "generate": made(GenerateConfig, take(values, GenerateConfig)),
            "verify": made(VerifyConfig, take(values, VerifyConfig) | {"retry_failed": retry_failed}),
            "label": None if no_labels else made(LabelConfig, take(values, LabelConfig)),
            **take(values, CurateConfig),
        },
    )
    # What is wrong here is one line; within the flow it would be a log with a traceback.
    endpoint_url(config.teacher)
    VariantStore(store_dir).problems(where=config.problem_filter, limit=1)
    if no_labels:
        config = config.model_copy(update={"label": None})
    spending = Spending(config.max_cost, config.batch, config.batch_size)
    spending.teacher(config.teacher, spending.meter("problems"))
    if dry_run:
        _rehearse(VariantStore(store_dir), config)
        return
    from diva_grpo.flows.runs.curate import curate as flow
    from diva_grpo.flows.runs.server import prefect_api

    prefect_api()
    counts = flow(config)
    show_stages(counts)
    if "short" in counts:
        click.echo(f'diva sql "{WHY_SHORT}" --store {word(store_dir)}   says why')
    if set(counts.get("generated", {})) == {Status.FAILED}:
        raise TeacherError(f"no variant was written: `{diva('status', '--store', store_dir)}` shows why")


def _rehearse(store: VariantStore, config: CurateConfig) -> None:
    """Print what `curate` would send if every variant were written and accepted at the first try."""
    from diva_grpo.pipeline.checks import Judge
    from diva_grpo.pipeline.stages.generate import generate
    from diva_grpo.pipeline.stages.label import label
    from diva_grpo.pipeline.stages.solve import VERIFICATION, TeacherSolver
    from diva_grpo.pipeline.stages.verify import verify
    from diva_grpo.schemas.records import Status, Variant

    problems = store.problems(where=config.problem_filter, limit=config.limit)
    ids = [problem.problem_id for problem in problems]
    checks = costly(config.verify)
    with rehearsed(store, config.teacher, config.generate, batch=config.batch) as dry:
        generate(dry.store, dry.teacher, config.generate, problem_ids=ids)
        dry.note("generate")
        waiting = dry.store.read(Variant, "status = 'candidate' AND problem_id IN (SELECT unnest(?))", [ids])
        judge = Judge.for_verify(dry.store, dry.teacher, checks)
        solver = TeacherSolver(dry.store, dry.teacher, VERIFICATION)
        verify(dry.store, solver, checks, judge=judge, problem_ids=ids)
        dry.note("verify")
        dry.store.append([v.model_copy(update={"status": Status.ACCEPTED}) for v in waiting])
        if config.label:
            label(dry.store, TeacherSolver(dry.store, dry.teacher), config.label, problem_ids=ids)
            dry.note("label")
    click.echo(ASSUMED)
