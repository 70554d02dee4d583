"""`diva label`: measure difficulty by the pass rate of a solver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.dry_run import rehearsed
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import (
    filter_option,
    limit_option,
    made,
    spending_of,
    spending_options,
    store_option,
    take,
    teacher_of,
    verb_options,
)
from diva_grpo.flows.cli.progress import watched
from diva_grpo.flows.cli.results import counted
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.config import MAX_PIXELS, LabelConfig
from diva_grpo.schemas.exceptions import TeacherError


@click.command(cls=VerbCommand)
@store_option
@verb_options("label")
@click.option("--policy", metavar="PATH", help="Label with this local model instead of an endpoint.")
@click.option(
    "--hint-style",
    type=click.Choice(["prompt", "prefix"]),
    default="prompt",
    show_default=True,
    help="With --policy: where hints stand, as in training.",
)
@click.option(
    "--as-policy",
    is_flag=True,
    help="The endpoint serves the policy: ask it the question alone, as training does.",
)
@click.option("--system-prompt", help="With --policy or --as-policy: system message, as in training.")
@filter_option
@limit_option
@spending_options
def label(
    store_dir: Path,
    problem_filter: str | None,
    limit: int | None,
    policy: str | None,
    hint_style: Any,
    as_policy: bool,
    system_prompt: str | None,
    dry_run: bool,
    **values: Any,
) -> None:
    """Measure the difficulty of problems and accepted variants by a solver's pass rate.

    \b
    examples: diva label --store runs/store --base-url http://localhost:8000/v1 --model qwen --samples 4
              diva label --store runs/store --base-url http://localhost:8000/v1 --model POLICY --as-policy \\
                  --samples 8 --max-tokens 1024 --label-model
              diva label --store runs/store --policy data/demo_model --samples 8 --hint-style prefix
    """
    from diva_grpo.pipeline.stages.label import UNJUDGED, count_unlabelled
    from diva_grpo.pipeline.stages.label import label as run
    from diva_grpo.pipeline.stages.solve import Solver, TeacherSolver, policy_prompt
    from diva_grpo.pipeline.store import VariantStore

    if system_prompt is not None and not (policy or as_policy):
        raise click.UsageError("--system-prompt goes with --policy or --as-policy")
    store, config = VariantStore(store_dir), made(LabelConfig, take(values, LabelConfig))
    spending = spending_of(values)
    chosen: Any = {"where": problem_filter, "limit": limit}
    meter = spending.meter("answers")
    solver: Solver
    if policy and (dry_run or spending.max_cost or spending.batch):
        raise click.UsageError("--policy costs nothing: leave --dry-run, --max-cost and --batch out")
    if policy:
        from diva_grpo.pipeline.images.shown import MIN_PIXELS
        from diva_grpo.trainer.evaluation.policy import PolicySolver

        max_tokens, temperature = values["max_tokens"] or 512, values["temperature"]
        solver = PolicySolver(
            policy,
            images=store.image_path,
            min_pixels=MIN_PIXELS,
            max_pixels=values["max_pixels"] or MAX_PIXELS,
            hint_style=hint_style,
            system=system_prompt,
            max_new_tokens=max_tokens,
            temperature=1.0 if temperature is None else temperature,
        )
    else:
        teacher = teacher_of(values, retry_failed=config.retry_failed)
        prompt = policy_prompt(system_prompt) if as_policy else None
        if dry_run:
            with rehearsed(store, teacher, batch=spending.batch) as dry:
                run(dry.store, TeacherSolver(dry.store, dry.teacher, prompt=prompt), config, **chosen)
                dry.note("label")
            return
        solver = TeacherSolver(store, spending.teacher(teacher, meter), prompt=prompt)
    meter.total = count_unlabelled(store, solver.model, config, **chosen)
    with store.run("label", config.model_dump_json(), solver.model) as run_id:
        with watched(store, run_id, "label", meter):
            counts = run(store, solver, config, **chosen, shard_size=spending.shard_size, progress=meter)
        click.echo(f"labels: {counted(counts)}")
        if set(counts) == {UNJUDGED}:
            raise TeacherError(
                f"no answer could be judged: `{diva('status', '--store', store_dir)}` shows the calls"
            )
        meter.raise_for_outages()
