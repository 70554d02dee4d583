"""The `diva` command: a thin layer over documented functions.

The module of a command is imported when the command is looked up, and imports the rest when the command runs. So
`diva --help` and the verbs without a flow never load Prefect, and only the verbs that use a model load torch.
"""

from __future__ import annotations

import sys

import click

from diva_grpo.flows.cli.phases import Phases
from diva_grpo.flows.released import Released
from diva_grpo.schemas.exceptions import ConfigError, DivaError, MissingExtraError

PHASES = {
    "Try it": ("demo", "teacher", "check"),
    "Data": ("init", "ingest", "export"),
    "Variants": ("generate", "verify", "label", "grade", "curate", "serve"),
    "Training": ("advise", "train", "top-up", "eval"),
    "Looking": ("status", "diagnose", "report", "watch", "show", "sql"),
    "Keeping": ("compact", "remove", "doctor", "lake"),
}
"""The commands by phase, in the order in which they are used."""

WITHOUT_SUMMARY = ("sql",)
"""Commands without `--quiet` and `--json`: the result of a query is its rows, which `--format json` prints."""

_EXTRAS = {"curate": "flows", "serve": "flows", "top-up": "flows", "demo": "all"}
"""For commands whose packages come from several extras: the one extra that contains them all."""


@click.group(
    cls=Phases,
    phases=PHASES,
    without_summary=WITHOUT_SUMMARY,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
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


def main() -> None:
    """Entry point of `diva`. Errors that the user can fix are printed as one line.

    Exit status: 1 if the work failed, 2 for wrong usage or settings, 130 if interrupted.
    """
    verb = "".join(sys.argv[1:2])  # the first word is the command, since no option of the group takes a value
    try:
        with MissingExtraError.named_for(f"diva {verb}", _EXTRAS.get(verb)), Released():
            cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as pressed:
        # Click makes an Abort of a KeyboardInterrupt, and keeps that as its cause.
        advice = (
            str(pressed.__cause__ or "") or "what was done is kept; the same command continues from there"
        )
        click.echo(f"interrupted: {advice}", err=True)
        sys.exit(130)
    except DivaError as error:
        from diva_grpo.pipeline.store.terminal import visible

        click.echo(visible(f"diva: {error}"), err=True)  # it may quote a value of a data set
        sys.exit(2 if isinstance(error, ConfigError) else 1)
