"""Show the progress of a run on standard error."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.teacher.meter import Meter


LOG_EVERY_S = 30.0
"""Seconds between two lines of progress if standard error is not a terminal."""


@contextmanager
def watched(store: VariantStore, run_id: str, verb: str, meter: Meter) -> Iterator[None]:
    """Show the progress of a run on standard error while the context is open.

    On a terminal, one line is updated every second. Otherwise a line is printed every `LOG_EVERY_S` seconds.

    Args:
        store: the store of the run.
        run_id: id of the run.
        verb: name of the command, printed before the progress.
        meter: the run's meter.
    """
    from diva_grpo.pipeline.teacher.meter import shown

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
