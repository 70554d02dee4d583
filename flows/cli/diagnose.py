"""`diva diagnose`: why a training run does not learn."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude

EXIT_WITHOUT_GAIN = 3
"""Exit status of `--strict` for a run that did not learn."""

strict_option = click.option(
    "--strict", is_flag=True, help=f"Exit with {EXIT_WITHOUT_GAIN} if the originals were not learnt."
)


@click.command()
@store_option
@click.option("--run", "run_id", metavar="RUN", help="Training run, by id.  [default: the latest]")
@strict_option
def diagnose(store_dir: Path, run_id: str | None, strict: bool) -> None:
    """Say what keeps a training run from learning, with figures, three rollouts each, and what to do.

    It finds silent groups by their cause (all wrong, all right, truncated, no answer, not judged), hints that are
    copied, rewards that never differ, a collapse of entropy or length, problems that the store does not know, and runs
    that learnt nothing. docs/troubleshooting.md lists all causes.

    \b
    examples: diva diagnose --store runs/store
              diva diagnose --store runs/store --run train-20260101-120000-abc123 --strict
    """
    from diva_grpo.pipeline.diagnosis import text
    from diva_grpo.pipeline.diagnosis.diagnose import diagnose as find
    from diva_grpo.pipeline.diagnosis.diagnose import training_run
    from diva_grpo.pipeline.store import VariantStore

    store = VariantStore(store_dir)
    found = find(store, training_run(store, run_id))
    conclude(text.as_text(found), text.as_json(found))
    if strict and found.without_gain:
        sys.exit(EXIT_WITHOUT_GAIN)
