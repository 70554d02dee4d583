"""Commands that run flows and servers: curate, teacher, demo."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.options import config_options, made, store_option, take, teacher_of, teacher_options
from diva_grpo.flows.cli.supplying import WHY_SHORT
from diva_grpo.flows.cli.working import Limits, dry_run_option, rehearse_curation
from diva_grpo.schemas.config import CurateConfig, GenerateConfig, LabelConfig, VerifyConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.records import Status


@click.command()
@store_option
@teacher_options
@config_options(GenerateConfig)
@config_options(VerifyConfig, "retry_failed")  # GenerateConfig's option stands for both
@config_options(LabelConfig, "retry_failed")
@config_options(CurateConfig, "store", "teacher", "generate", "verify", "label")
@click.option("--no-labels", is_flag=True, help="Leave the labels to another run.")
@dry_run_option
def curate(store_dir: Path, no_labels: bool, dry_run: bool, **values: Any) -> None:
    """Generate, verify and label as one Prefect flow; run again, it does only what is missing.

    \b
    examples: diva curate --store runs/store --base-url http://localhost:8000/v1 --model qwen --samples 4
              diva curate --store runs/store --model qwen --accepted reword=5,think_step=3
              diva curate --store runs/store --model gpt-4.1-mini --batch --dry-run
    """
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
    limits = Limits(dry_run, config.max_cost, config.batch, config.batch_size)
    limits.hire(config.teacher, limits.meter("problems"))
    if dry_run:
        rehearse_curation(VariantStore(store_dir), config, limits)
        return
    from diva_grpo.flows.runs.curate import curate as flow
    from diva_grpo.flows.runs.server import prefect_api

    prefect_api()
    counts = flow(config)
    for stage, by_name in counts.items():
        numbers = ", ".join(f"{n} {name}" for name, n in sorted(by_name.items())) or "nothing to do"
        click.echo(f"{stage}: {numbers}")
    if "short" in counts:
        click.echo(f'diva sql "{WHY_SHORT}" --store {store_dir}   says why')
    if set(counts.get("generated", {})) == {Status.FAILED}:
        raise TeacherError(f"no variant was written: `diva status --store {store_dir}` shows why")


@click.command()
@store_option
@click.option("--port", default=8710, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option(
    "--wrong-share",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of wrong answers.",
)
@click.option(
    "--error-share",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of 429s and 503s.",
)
@click.option("--seed", default=0, show_default=True, help="Makes the slips.")
def teacher(store_dir: Path, port: int, wrong_share: float, error_share: float, seed: int) -> None:
    """Serve the scripted teacher: an OpenAI-compatible endpoint that needs no model.

    It answers from the solutions of the store's problems and from wording templates, and is wrong a set
    share of the time. Ends with Ctrl-C.

    \b
    example: diva teacher --store runs/store --port 8710
             diva generate --store runs/store --base-url http://127.0.0.1:8710/v1 --model scripted-teacher
    """
    from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
    from diva_grpo.pipeline.store import VariantStore

    problems = VariantStore(store_dir).problems()
    script = ScriptedTeacher(problems, wrong_share=wrong_share, seed=seed)
    try:
        with serve(create_app(script, error_share=error_share, seed=seed), port) as url:
            click.echo(f"scripted teacher for {len(problems)} problems at {url} (Ctrl-C ends it)")
            threading.Event().wait()
    except OSError as error:
        raise click.ClickException(f"port {port}: {error.strerror}; choose another with --port") from error


@click.command()
@click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with problems, models and settings as those of the demo. Default: the package's own.",
)
@click.option("--store", "store_dir", type=click.Path(path_type=Path), help="Default: a new folder in runs/.")
@click.option("--short", is_flag=True, help="Fewer problems and steps: about a minute.")
def demo(data_dir: Path | None, store_dir: Path | None, short: bool) -> None:
    """The whole loop without an endpoint: scripted teacher, curation, training, one screen of results.

    \b
    example: diva demo --short
    """
    from diva_grpo.flows.demo.run import run_demo

    click.echo(run_demo(data_dir, store_dir, short=short))
