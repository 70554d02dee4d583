"""Options that several commands share. Those made from the fields of configurations are in `settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.schemas.address import address


class Address(click.Path):
    """The type of an option with the address of a store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the address as a path of the same meaning."""
        return address(value)


store_option = click.option(
    "--store", "store_dir", required=True, type=Address(), help="Folder of the store."
)
runs_option = click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="RUN",
    help="Training run of the page; give it twice to compare two.  [default: the last one]",
)
limit_option = click.option("--limit", type=click.IntRange(min=1), help="Only the first problems, by id.")
filter_option = click.option(
    "--problem-filter", metavar="SQL", help="Condition on `problems`, such as source = 'gsm8k'."
)
solver_option = click.option(
    "--solver-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --accepted: YAML file of the endpoint that verifies.  [default: the teacher's]",
)
no_labels_option = click.option("--no-labels", is_flag=True, help="Leave the labels to another run.")
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Send nothing: count requests, tokens and dollars of what would be sent.",
)
