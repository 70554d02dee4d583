"""The end of a command: its summary in words or as JSON, and the next command. Here are `--json` and `--quiet`.

A command calls `conclude` once, with the summary in both forms. `with_summary` gives it the two options:

- the summary goes to standard output; progress, remarks and the next command go to standard error
- `--json`: the summary is one JSON value. What libraries print to standard output goes to standard error
- `--quiet`: only the summary is printed, and errors, which `main` prints after the command has ended
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from diva_grpo.pipeline.store import VariantStore

_JSON, _QUIET, _OUT = "diva_grpo.json", "diva_grpo.quiet", "diva_grpo.out"


def conclude(text: str, figures: object, then: str = "") -> None:
    """Print the summary of the command that is running, and the next command.

    Args:
        text: the summary in words.
        figures: the summary as values that pydantic can write as JSON, dataclasses too. NaN is written as null.
        then: the command that a user would run next; empty if none follows. With `--json` it is left out.
    """
    meta = click.get_current_context().meta
    if meta[_JSON]:
        from pydantic_core import to_json

        click.echo(to_json(figures, indent=1, inf_nan_mode="null", fallback=str), file=meta[_OUT])
        return
    click.echo(text, file=meta[_OUT])
    if then:
        click.echo(f"next: {then}", err=True)


def next_of(store: VariantStore, store_dir: Path) -> str:
    """Return the most urgent command for a store (see `flows.pages.next_step`); empty if there is none.

    Args:
        store: the store.
        store_dir: its address as the user wrote it, which the command repeats.
    """
    from diva_grpo.flows.pages.next_step import next_steps

    return next((step.command for step in next_steps(store, store_dir)), "")


def with_summary(command: click.Command) -> None:
    """Give a command the options `--quiet` and `--json`. Its function must call `conclude`."""
    command.params += [
        _flag("-q", "--quiet", key=_QUIET, text="Print errors and the summary alone."),
        _flag("--json", key=_JSON, text="Print the summary as JSON; progress goes to standard error."),
    ]
    run = command.callback
    assert run is not None
    command.callback = _silenced(run)


def _flag(*names: str, key: str, text: str) -> click.Option:
    def note(context: click.Context, option: click.Parameter, given: bool) -> None:
        context.meta[key] = given

    return click.Option(names, is_flag=True, expose_value=False, callback=note, help=text)


def _silenced(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def silenced(*args: Any, **values: Any) -> Any:
        meta = click.get_current_context().meta
        meta[_OUT] = sys.stdout
        with ExitStack() as redirected:
            if meta[_QUIET]:
                redirected.enter_context(redirect_stderr(_nowhere()))
            if meta[_QUIET] or meta[_JSON]:
                redirected.enter_context(redirect_stdout(sys.stderr))
            return run(*args, **values)

    return silenced


@functools.cache
def _nowhere() -> IO[str]:
    """A file that keeps nothing. It stays open, because log handlers may write to it until the process ends."""
    return open(os.devnull, "w", encoding="utf-8")
