"""`diva serve`: run flows on schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.serving import ServedFlow


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--only", multiple=True, metavar="NAME", help="Serve (pause, resume) just this one; may be repeated."
)
@click.option("--cron", help="When to run, in the place of the file's schedules, such as '0 3 * * *'.")
@click.option(
    "--interval", help="How often to run, in the place of the file's schedules: 90s, 10m, 6h or 1d."
)
@click.option("--pause", is_flag=True, help="Pause the schedules of a `diva serve` that runs, and return.")
@click.option("--resume", is_flag=True, help="Resume them, and return.")
@click.option(
    "--port",
    default=4200,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Of the server and its UI, where PREFECT_API_URL names none.",
)
def serve(file: Path, only: tuple[str, ...], pause: bool, resume: bool, port: int, **schedule: Any) -> None:
    """Run flows by schedules, as the deployments of a YAML file; ends with Ctrl-C.

    Uses the Prefect server of PREFECT_API_URL, or runs one, with its UI, as long as this; its password is in a file
    that is named at the start. A schedule that is paused (here or in the UI) stays so until it is resumed, and holds
    its runs that wait. `data/serve.yaml` is an example of the file.

    \b
    examples: diva serve data/serve.yaml
              diva serve data/serve.yaml --only nightly --interval 30m
              diva serve data/serve.yaml --pause
    """
    if pause and resume:
        raise ConfigError("give --pause or --resume, not both")
    from diva_grpo.flows.runs import deployments as serving

    whole = serving.read_serving(file)
    chosen = [_rescheduled(served, schedule) for served in whole.deployments]
    for name in set(only) - {served.name for served in chosen}:
        raise ConfigError(f"--only {name}: {file} names {', '.join(served.name for served in chosen)}")
    chosen = [served for served in chosen if served.name in only or not only]
    if pause or resume:
        serving.set_active(chosen, active=resume, port=port)
        done = "resumed" if resume else "paused"
        names = [serving.full_name(served) for served in chosen]
        conclude("\n".join(f"{done}: {name}" for name in names), {done: names})
        return
    serving.serve(chosen, port, lambda line: click.echo(line, err=True), keep_days=whole.keep_days)
    served = [serving.full_name(served) for served in chosen]
    conclude("the schedules rest until `diva serve` runs again", {"served": served})


def _rescheduled(served: ServedFlow, schedule: dict[str, str | None]) -> ServedFlow:
    """Replace a deployment's schedule by the one of the command line, if one is given.

    Args:
        served: the deployment.
        schedule: the options `cron` and `interval`; None: not given.

    Raises:
        ConfigError: the schedule is invalid.
    """
    given = {name: value for name, value in schedule.items() if value is not None}
    if not given:
        return served
    fields = served.model_dump() | {"cron": None, "interval": None} | given
    try:
        return ServedFlow.model_validate(fields)
    except ValueError as error:
        raise ConfigError(
            f"--cron, --interval: give one of them, such as '0 3 * * *' or 10m: {given}"
        ) from error
