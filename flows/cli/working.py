"""What the verbs that ask a teacher have in common: limits, dry runs, batches, and a line of progress."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.meter import Meter
    from pipeline.store import VariantStore
    from pipeline.work import TeacherRun
    from schemas.config import GenerateConfig, TeacherConfig

Command = Callable[..., Any]

LOG_EVERY_S = 30.0
"""Seconds between two lines of progress where standard error is no terminal."""


def limit_options(command: Command) -> Command:
    """--dry-run and --max-cost."""
    dry_run = click.option(
        "--dry-run",
        is_flag=True,
        help="Send nothing: count requests, tokens and dollars of what would be sent.",
    )
    max_cost = click.option(
        "--max-cost",
        metavar="DOLLARS",
        type=click.FloatRange(min=0, min_open=True),
        help="Stop when this run has spent so much; what is in flight then is still paid for and kept.",
    )
    return dry_run(max_cost(command))


filter_option = click.option(
    "--problem-filter", metavar="SQL", help="Condition on `problems`, such as source = 'gsm8k'."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a run may go.

    Attributes:
        dry_run: send nothing.
        max_cost: dollars that may be spent.
    """

    dry_run: bool
    max_cost: float | None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Limits:
        """Those of a command's options, removed from `values`."""
        return cls(values.pop("dry_run"), values.pop("max_cost"))


@contextmanager
def watched(store: VariantStore, run_id: str, verb: str, meter: Meter) -> Iterator[None]:
    """Show how far a run is: on a terminal by one line that changes, else by lines of a log."""
    from pipeline.meter import shown

    terminal, drawn = sys.stderr.isatty(), False

    def show(line: str) -> None:
        nonlocal drawn
        if terminal:
            drawn = True
            text = f"{verb}: {line}"[: shutil.get_terminal_size().columns - 1]
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
        else:
            click.echo(f"{verb}: {line}", err=True)

    try:
        with shown(meter, store, run_id, show, 1.0 if terminal else LOG_EVERY_S):
            yield
    finally:
        if drawn:
            click.echo(err=True)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A dry run: what the verbs are given in the place of the store and of the teacher."""

    store: VariantStore
    teacher: TeacherRun
    note: Callable[[str], None]


@contextmanager
def rehearsed(
    store: VariantStore, teacher: TeacherConfig, generate: GenerateConfig | None = None
) -> Iterator[Rehearsal]:
    """Rehearse verbs on a copy of a store, and print what they would have sent."""
    from pipeline.cost import Estimate, rehearsal

    lengths = {"Rewordings": generate.rewordings, "HarderTexts": generate.harder} if generate else {}
    with rehearsal(store) as copy:
        estimate = Estimate(copy, teacher, lengths)
        yield Rehearsal(copy, estimate.teacher, estimate.note)
    click.echo(estimate.render())
