"""`diva label`: measure difficulty by the pass rate of a solver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diva_grpo.flows.cli.dry_run import rehearse
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import filter_option, limit_option, store_option
from diva_grpo.flows.cli.progress import watched
from diva_grpo.flows.cli.results import counted, mostly, spent
from diva_grpo.flows.cli.settings import made, spending_of, spending_options, take, teacher_of, verb_options
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.config import MAX_PIXELS, LabelConfig, TeacherConfig
from diva_grpo.schemas.exceptions import ConfigError, TeacherError
from diva_grpo.schemas.policy import PolicyConfig, PolicyOptions

if TYPE_CHECKING:
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.teacher.prompts import Prompt
    from diva_grpo.trainer.evaluation.policy import PolicySolver


@click.command(cls=VerbCommand)
@store_option
@verb_options("label")
@click.option("--policy", metavar="PATH", help="Label with this local model instead of an endpoint.")
@click.option(
    "--as-policy",
    is_flag=True,
    help="The endpoint serves the policy: ask it the question alone, as training does.",
)
@click.option(
    "--as-run",
    metavar="RUN_ID",
    help="With --as-policy: ask with the prompts and the sampling of this training run (`diva status` lists runs).",
)
@filter_option
@limit_option
@spending_options
def label(
    store_dir: Path,
    problem_filter: str | None,
    limit: int | None,
    policy: str | None,
    as_policy: bool,
    as_run: str | None,
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
    from diva_grpo.pipeline.stages.curate import Stages, curate
    from diva_grpo.pipeline.stages.label import UNJUDGED, count_unlabelled
    from diva_grpo.pipeline.store import VariantStore

    options = made(PolicyOptions, take(values, PolicyOptions, but=("temperature", "max_pixels")))
    asked = options.model_dump(exclude_none=True)
    if asked and not (policy or as_policy):
        raise click.UsageError(f"{_flag(next(iter(asked)))} goes with --policy or --as-policy")
    if as_run and not as_policy:
        raise click.UsageError("--as-run goes with --as-policy")
    store, config = VariantStore(store_dir), made(LabelConfig, take(values, LabelConfig))
    spending = spending_of(values)
    teacher: TeacherConfig | None = None
    if policy and (dry_run or spending.max_cost or spending.batch):
        raise click.UsageError("--policy costs nothing: leave --dry-run, --max-cost and --batch out")
    if policy:
        # The endpoint's options of sampling also apply to the policy.
        own = {"temperature": values["temperature"], "max_new_tokens": values["max_tokens"]}
        own["max_pixels"] = values["max_pixels"]
        asked |= {name: value for name, value in own.items() if value is not None}
        solver = local_policy(store, policy, asked)
        stages, model = Stages(label=config, solver=solver), solver.model
    else:
        teacher, prompt = _endpoint(store, options, values, config, as_policy=as_policy, as_run=as_run)
        stages, model = Stages(label=config, prompt=prompt), teacher.model
        if dry_run:
            rehearse(store, stages, teacher, batch=spending.batch, where=problem_filter, limit=limit)
            return
    total = count_unlabelled(store, model, config, where=problem_filter, limit=limit)
    meter = spending.meter("answers", "labelled", total)
    session = spending.session(store, meter, teacher)
    with store.run("label", config.model_dump_json(), model) as run_id:
        with watched(store, run_id, "label", meter), session:
            counts = curate(session, stages, where=problem_filter, limit=limit).labelled
        follows = diva("advise", "--store", store_dir)
        conclude(f"labels: {counted(counts)}", {"labels": counts, **spent(meter)}, follows)
        if set(counts) != {UNJUDGED}:
            meter.raise_for_outages()
        if mostly(UNJUDGED, counts):
            raise TeacherError(
                f"{counts[UNJUDGED]:,} of {sum(counts.values()):,} questions got no label, since no answer to them "
                f"could be judged: `{diva('status', '--store', store_dir)}` shows the calls"
            )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def local_policy(store: VariantStore, path: str, asked: dict[str, Any]) -> PolicySolver:
    """Load a local model as a solver that uses the prompt and sampling settings of its training.

    Args:
        store: the store that has the images.
        path: folder or hub name of the model.
        asked: fields of `PolicyOptions` that override the settings of the training.
    """
    from diva_grpo.pipeline.images.shown import MIN_PIXELS
    from diva_grpo.trainer.evaluation.policy import PolicySolver

    usual = PolicyConfig(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    solver = PolicySolver(path, images=store.image_path, usual=usual, **asked)
    for remark in solver.remarks():
        click.echo(remark, err=True)
    return solver


def _endpoint(
    store: VariantStore,
    options: PolicyOptions,
    values: dict[str, Any],
    config: LabelConfig,
    *,
    as_policy: bool,
    as_run: str | None,
) -> tuple[TeacherConfig, Prompt | None]:
    """The endpoint that labels, and the prompt for it.

    Args:
        store: the store.
        options: the user's prompt and sampling settings of the policy.
        values: the command's options; those of the endpoint are removed.
        config: settings of the labels.
        as_policy: whether the endpoint serves the policy.
        as_run: with `as_policy`: id of the training run whose settings are used.

    Returns:
        The endpoint, and the prompt that training uses; the prompt is None without `as_policy`.

    Raises:
        ConfigError: there is no such training run.
    """
    if not as_policy:
        return teacher_of(values, retry_failed=config.retry_failed), None
    from diva_grpo.pipeline.stages.solve import policy_fields, policy_prompt

    trained = _policy_of_run(store, as_run) if as_run else None
    policy = (trained or PolicyConfig()).asked_with(options)
    if trained:
        given = {"temperature": values["temperature"], "max_new_tokens": values["max_tokens"]}
        policy = policy.asked_with(made(PolicyOptions, given))
        values |= {"temperature": policy.temperature, "max_tokens": policy.max_new_tokens}
        if other := policy.differences(trained):
            click.echo(f"asked otherwise than in training: {other}", err=True)
    if policy.hint_style == "prefix":
        click.echo(
            "think steps stand in the question, since an endpoint's answer cannot be opened: label them with --policy",
            err=True,
        )
    teacher = teacher_of(values, retry_failed=config.retry_failed)
    fields = policy_fields(policy if trained else options) | teacher.request_fields
    return teacher.model_copy(update={"request_fields": fields}), policy_prompt(
        policy.system_prompt, policy.instruction
    )


def _policy_of_run(store: VariantStore, run_id: str) -> PolicyConfig:
    found = store.query("SELECT config FROM runs WHERE run_id = ? AND kind = 'train'", [run_id])
    kept = json.loads(found[0][0]).get("policy") if found else None
    if kept is None:
        raise ConfigError(
            f"--as-run {run_id}: the store has no training run of this id that says how it asked"
        )
    return PolicyConfig.from_kept(kept)
