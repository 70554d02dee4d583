"""`diva top-up`: request variants for problems of a training run that have a shortage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.dry_run import nothing_sent, rehearse
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import dry_run_option, no_labels_option, solver_option, store_option
from diva_grpo.flows.cli.results import stages_text
from diva_grpo.flows.cli.settings import made, take, teacher_of, verb_options
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.config import GenerateConfig, LabelConfig, TeacherConfig, TopUpConfig, VerifyConfig
from diva_grpo.schemas.records import Kind


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
    from diva_grpo.pipeline.stages.curate import Stages
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_url

    config = _config(store_dir, no_labels, values)
    # Checked here, so that an error is one line. Within the flow it would be a log with a traceback.
    endpoint_url(config.teacher)
    store = VariantStore(store_dir)
    Spending.of(config).session(store, None, config.teacher, config.solver)
    found = find(config, store)
    needs = found.planned.needs
    if dry_run and not needs:
        nothing_sent(found.summary())
        return
    if dry_run:
        lengths = {"rewordings": config.variants, "harder": config.variants}
        stages = Stages.of(config.model_copy(update={"generate": config.generate.model_copy(update=lengths)}))
        rehearse(
            store,
            stages,
            config.teacher,
            config.solver,
            batch=config.batch,
            needs=needs,
            head=found.summary(),
        )
        return
    from diva_grpo.flows.runs.server import prefect_api
    from diva_grpo.flows.runs.top_up import top_up as flow

    prefect_api()
    counts = flow(config)
    text = f"{found.summary()}\n{stages_text(counts)}"
    if counts["decided"].get("short"):
        query = "select problem_id, kinds, outcome from decisions where outcome like 'short%'"
        text += f'\ndiva sql "{query}" --store {word(store_dir)}   says why'
    conclude(text, {"run": found.shortages.run_id, **counts}, diva("report", "--store", store_dir))


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
