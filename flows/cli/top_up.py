"""`diva top-up`: variants where a training run is short of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diva_grpo.flows.cli.dry_run import ASSUMED, costly, rehearsed
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import (
    dry_run_option,
    made,
    no_labels_option,
    solver_option,
    store_option,
    take,
    teacher_of,
    verb_options,
)
from diva_grpo.flows.cli.results import show_stages
from diva_grpo.schemas.command import word
from diva_grpo.schemas.config import GenerateConfig, LabelConfig, TeacherConfig, TopUpConfig, VerifyConfig
from diva_grpo.schemas.records import Kind

if TYPE_CHECKING:
    from diva_grpo.flows.runs.needs import Found
    from diva_grpo.pipeline.store import VariantStore


@click.command("top-up", cls=VerbCommand)
@store_option
@verb_options("top-up")
@click.option(
    "--kinds", metavar="KINDS", help="Kinds that may be asked for, such as harder,image.  [default: all]"
)
@no_labels_option
@solver_option
@dry_run_option
def top_up(store_dir: Path, no_labels: bool, dry_run: bool, **values: Any) -> None:
    """Ask for variants just where a training run is short of them, by its live difficulty.

    A problem is short where no accepted variant is near the difficulty offset that selection wants: think steps
    are asked for below 0, rewordings about 0, harder texts and perturbed images above. The worst come first, within
    --max-cost, --max-problems and --max-variants; the view `decisions` says what was asked for and what came of
    it. A training run in progress sees what is accepted at its next --store_refresh_steps.

    \b
    examples: diva top-up --store runs/store --model gpt-4.1-mini --max-cost 2
              diva top-up --store runs/store --model gpt-4.1-mini --dry-run
              diva top-up --store runs/store --run train-20260301-120000-1a2b3c --model qwen --kinds think_step
    """
    from diva_grpo.flows.runs.needs import find
    from diva_grpo.pipeline.session.spending import Spending
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.teacher.wire.live import endpoint_url

    config = _config(store_dir, no_labels, values)
    # What is wrong here is one line; within the flow it would be a log with a traceback.
    endpoint_url(config.teacher)
    spending = Spending(config.max_cost, config.batch, config.batch_size)
    spending.teacher(config.teacher, spending.meter("problems"))
    store = VariantStore(store_dir)
    found = find(config, store)
    click.echo(found.summary())
    if dry_run:
        _rehearse(store, config, found)
        return
    from diva_grpo.flows.runs.server import prefect_api
    from diva_grpo.flows.runs.top_up import top_up as flow

    prefect_api()
    counts = flow(config)
    show_stages(counts)
    if counts["decided"].get("short"):
        query = "select problem_id, kinds, outcome from decisions where outcome like 'short%'"
        click.echo(f'diva sql "{query}" --store {word(store_dir)}   says why')


def _config(store_dir: Path, no_labels: bool, values: dict[str, Any]) -> TopUpConfig:
    retry_failed, solver = values["retry_failed"], values.pop("solver_config")
    kinds = values.pop("kinds") or ",".join(Kind)
    return made(
        TopUpConfig,
        {
            "store": store_dir,
            "teacher": teacher_of(values, retry_failed=bool(retry_failed)),
            "solver": made(TeacherConfig, {}, solver) if solver else None,
            "generate": made(GenerateConfig, take(values, GenerateConfig) | {"kinds": kinds}),
            "verify": made(VerifyConfig, take(values, VerifyConfig) | {"retry_failed": retry_failed}),
            "label": made(LabelConfig, take(values, LabelConfig) | {"retry_failed": retry_failed}),
            **take(values, TopUpConfig),
        },
    ).model_copy(update={"label": None} if no_labels else {})


def _rehearse(store: VariantStore, config: TopUpConfig, found: Found) -> None:
    """Print what would be sent if every variant were written and accepted at the first try."""
    from collections import Counter

    from diva_grpo.pipeline.stages.label import label
    from diva_grpo.pipeline.stages.solve import TeacherSolver
    from diva_grpo.pipeline.stages.supply import supply, verifying
    from diva_grpo.pipeline.stages.top_up import moves_deltas
    from diva_grpo.pipeline.stages.verify import References
    from diva_grpo.schemas.records import Status, Variant, utc_now

    wanted = {need.problem_id: dict(need.accepted) for need in found.planned.needs}
    if not wanted:
        click.echo("Nothing would be sent.")
        return
    began_at = utc_now()
    checks = costly(config.verify)
    chosen: Any = {"problem_ids": list(wanted), "shard_size": len(wanted)}
    lengths = config.generate.model_copy(update={"rewordings": config.variants, "harder": config.variants})
    with rehearsed(store, config.teacher, lengths, batch=config.batch) as dry:
        solver = dry.teacher.other(config.solver) if config.solver else dry.teacher
        verify = verifying(dry.store, solver, checks, References(), wanted)

        def accept(problem_ids: Sequence[str]) -> Counter[str]:
            counts = verify(problem_ids)
            made = dry.store.read(Variant, "created_at >= ? AND status <> 'accepted'", [began_at])
            dry.store.append([v.model_copy(update={"status": Status.ACCEPTED.value}) for v in made])
            return counts

        supply(dry.store, dry.teacher, config.generate, accept, wanted=wanted, **chosen)
        dry.note("write and verify")
        if config.label and moves_deltas(store, config.label, (config.solver or config.teacher).model):
            label(dry.store, TeacherSolver(dry.store, solver), config.label, kinds=wanted, **chosen)
            dry.note("label")
    click.echo(ASSUMED)
