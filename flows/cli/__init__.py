"""The `diva` command: a thin layer over documented functions.

Commands import what they need when they run, so that `diva --help` and the plain verbs never load Prefect,
and only the training verbs load torch.
"""

from __future__ import annotations

import sys

import click

from diva_grpo.flows.cli.data import generate, ingest, label, verify
from diva_grpo.flows.cli.export import export
from diva_grpo.flows.cli.grade import grade
from diva_grpo.flows.cli.query import init, report, sql, status
from diva_grpo.flows.cli.running import curate, demo, teacher
from diva_grpo.flows.cli.serving import serve
from diva_grpo.flows.cli.show import show
from diva_grpo.flows.cli.topping import top_up
from diva_grpo.flows.cli.training import evaluate, train
from diva_grpo.flows.cli.upkeep import compact, doctor, lake
from diva_grpo.schemas.exceptions import ConfigError, DivaError

COMMANDS = (
    init,
    ingest,
    generate,
    verify,
    label,
    grade,
    status,
    report,
    show,
    sql,
    export,
    curate,
    serve,
    train,
    top_up,
    evaluate,
    teacher,
    demo,
    compact,
    doctor,
    lake,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="diva-grpo")
def cli() -> None:
    """Difficulty-adaptive variants for GRPO: write them, verify them, train on them.

    \b
    The loop, one command a step:
      diva ingest problems.jsonl --preset gsm8k --store runs/store
      diva generate --store runs/store --base-url URL --model NAME
      diva verify   --store runs/store --base-url URL --model NAME
      diva label    --store runs/store --base-url URL --model NAME
      diva train    --config data/train_demo.yaml --store runs/store
    Try it without an endpoint: diva demo
    """


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Entry point: one line for an error that the user can act on; 1 work failed, 2 wrong usage."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: what was done is kept; the same command goes on from there", err=True)
        sys.exit(130)
    except DivaError as error:
        click.echo(f"diva: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
