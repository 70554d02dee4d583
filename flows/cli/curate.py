"""`diva curate`: generate, verify and label as one flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.dry_run import rehearse
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import dry_run_option, no_labels_option, store_option
from diva_grpo.flows.cli.results import WHY_SHORT, mostly, stages_text
from diva_grpo.flows.cli.settings import made, take, teacher_of, verb_options
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.config import CurateConfig, GenerateConfig, LabelConfig, VerifyConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.records import Status


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
    from diva_grpo.pipeline.stages.curate import Chosen, Stages
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_url

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
    # Checked here, so that an error is one line. Within the flow it would be a log with a traceback.
    endpoint_url(config.teacher)
    store = VariantStore(store_dir)
    store.count_problems(where=config.problem_filter, limit=1)
    if no_labels:
        config = config.model_copy(update={"label": None})
    Spending.of(config).session(store, None, config.teacher)
    if dry_run:
        chosen = Chosen(where=config.problem_filter, limit=config.limit)
        rehearse(store, Stages.of(config), config.teacher, batch=config.batch, **chosen)
        return
    from diva_grpo.flows.runs.curate import curate as flow
    from diva_grpo.flows.runs.server import prefect_api

    prefect_api()
    counts = flow(config)
    text = stages_text(counts)
    if "short" in counts:
        text += f'\ndiva sql "{WHY_SHORT}" --store {word(store_dir)}   says why'
    conclude(text, counts, diva("advise" if config.label else "label", "--store", store_dir))
    for stage in ("generated", "verified"):
        if mostly(Status.FAILED, counts.get(stage, {})):
            raise TeacherError(
                f"most variants failed ({stage}): `{diva('status', '--store', store_dir)}` shows why"
            )
