"""The progress of `diva train` on standard error: a live table, or one line per logging step if it is no terminal.

It replaces the Python dictionaries that transformers prints. Loggers of `report_to` still get all metrics.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.utils import logging as transformers_logging

COLUMNS = (
    ("originals right", "diva/pass_rate/original", ".1%"),
    ("reward", "reward", ".3f"),
    ("silent groups", "diva/groups_without_signal/local", ".0%"),
    ("difficulty", "diva/difficulty", ".2f"),
)
"""Title, metric and format of each figure. The originals are prompts without hints."""

SHOWN_STEPS = 8
"""Logging steps in the table."""

SHOWN_WARNINGS = 3
"""Warnings beneath the table. Earlier ones are moved above it."""


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """The figures of a logging step.

    Attributes:
        step: number of optimizer steps done.
        figures: the figures as text, by title of their column; "-" where the log has none.
        seconds: mean seconds of a step since the last logging step; None if no step was done since.
    """

    step: int
    figures: dict[str, str]
    seconds: float | None

    @classmethod
    def of(cls, step: int, logs: Mapping[str, Any], seconds: float | None) -> LoggedStep:
        """Take the figures from the metrics that the trainer logs."""
        found = {title: (logs.get(metric), how) for title, metric, how in COLUMNS}
        figures = {
            title: "-" if value is None else format(value, how) for title, (value, how) in found.items()
        }
        return cls(step, figures, seconds)

    def pace(self) -> str:
        """The seconds of a step as text."""
        return "-" if self.seconds is None else f"{self.seconds:.3g} s"

    def line(self, total: int, left_s: float | None) -> str:
        """The figures as one line of text.

        Args:
            total: number of steps of the run.
            left_s: seconds until its end; None if unknown.
        """
        figures = [f"{title} {figure}" for title, figure in self.figures.items()]
        left = "" if left_s is None else f", {duration(left_s)} left"
        return f"step {self.step}/{total}: {', '.join(figures)}, {self.pace()} a step{left}"


def duration(seconds: float) -> str:
    """Format seconds as H:MM:SS.

    >>> duration(3723.4)
    '1:02:03'
    """
    return str(timedelta(seconds=round(seconds)))


class StepLines(TrainerCallback):
    """Prints one line for each logging step and for each evaluation.

    Use it as a context during the training. Only the main process may have it.
    """

    def __init__(self) -> None:
        self._total = self._done = self._step = 0
        self._began_at = self._step_began_at = time.monotonic()
        self._since_log: list[float] = []

    def __enter__(self) -> StepLines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def _left_s(self) -> float | None:
        """Seconds until the end of the run, evaluations and checkpoints included; None before the first step."""
        if not self._done:
            return None
        return (time.monotonic() - self._began_at) / self._done * (self._total - self._step)

    def _show(self, logged: LoggedStep) -> None:
        _print(logged.line(self._total, self._left_s()))

    def _say(self, line: str) -> None:
        _print(line)

    # --- events of the trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note where the run starts."""
        self._total, self._step, self._done = state.max_steps, state.global_step, 0
        self._began_at = time.monotonic()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note when the step starts."""
        self._step_began_at = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note how long the step took."""
        self._step, self._done = state.global_step, self._done + 1
        self._since_log.append(time.monotonic() - self._step_began_at)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the figures of the logging step or of the evaluation. The metrics of the whole run are not shown."""
        logs = logs or {}
        if "eval_reward" in logs:
            self._say(f"step {state.global_step}/{self._total}: evaluation: reward {logs['eval_reward']:.3f}")
        elif "loss" in logs:
            times, self._since_log = self._since_log, []
            seconds = sum(times) / len(times) if times else None
            self._show(LoggedStep.of(state.global_step, logs, seconds))


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Console(Console):
    """A console on standard error that never hides the cursor, because a killed process cannot show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        """Do nothing."""
        return False


class LiveTable(StepLines):
    """Draws one table of the last logging steps, and renews it. Warnings of this package stand beneath it.

    Other texts that are printed meanwhile stand above the table. When the context ends, the table stays as it was last.

    Args:
        console: where the table is drawn.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or _Console(stderr=True)
        self._logged: deque[LoggedStep] = deque(maxlen=SHOWN_STEPS)
        self._warnings: list[str] = []
        self._drawing = False
        # Output to a file must not be drawn on the terminal.
        self._live = Live(
            get_renderable=self.render,
            console=self._console,
            refresh_per_second=1,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._open = ExitStack()

    def __enter__(self) -> LiveTable:
        with ExitStack() as opened:
            before = sys.stderr
            opened.enter_context(self._live)
            opened.enter_context(_warnings_to(self._warn))
            opened.enter_context(_logs_follow(before))
            self._open = opened.pop_all()
        self._drawing = True
        return self

    def __exit__(self, *error: object) -> None:
        self._drawing = False
        self._open.close()

    def render(self) -> RenderableType:
        """Return the table, the progress of the run, the warnings and, until the end, an empty line for the cursor."""
        table = Table("step", *(title for title, _, _ in COLUMNS), "time a step")
        for column in table.columns:
            column.justify = "right"
        for logged in list(self._logged):
            table.add_row(str(logged.step), *logged.figures.values(), logged.pace())
        left_s = self._left_s()
        times = f"{duration(time.monotonic() - self._began_at)} elapsed"
        times += "" if left_s is None else f", {duration(left_s)} left"
        progress = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(self._total, 1), completed=self._step, width=20)
        progress.add_row(f"step {self._step} of {self._total}", bar, times)
        parts: list[RenderableType] = [table] if table.rows else []
        parts += [progress, *(Text(warning, "yellow") for warning in list(self._warnings))]
        return Group(*parts, *([""] if self._drawing else []))

    def _show(self, logged: LoggedStep) -> None:
        self._logged.append(logged)
        self._live.refresh()

    def _say(self, line: str) -> None:
        self._console.print(Text(line))

    def _warn(self, warning: str) -> None:
        self._warnings.append(warning)
        if len(self._warnings) > SHOWN_WARNINGS:
            self._say(self._warnings.pop(0))
        self._live.refresh()


@contextmanager
def _warnings_to(show: Any) -> Iterator[None]:
    """Give the warnings of this package to a function, instead of printing them, while the context is open."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    logger, handler = logging.getLogger("diva_grpo"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _logs_follow(before: Any) -> Iterator[None]:
    """Let log handlers that write to `before` write to the present standard error while the context is open."""
    handlers = [*logging.getLogger().handlers, *logging.getLogger("transformers").handlers]
    moved = [h for h in handlers if isinstance(h, logging.StreamHandler) and h.stream is before]
    for handler in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(before)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers, such as that of saving, while the context is open."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped


@contextmanager
def progress_of(trainer: Trainer) -> Iterator[None]:
    """Show the progress of a trainer while the context is open, instead of what transformers prints.

    A terminal gets a `LiveTable`, unless `disable_tqdm` is set or TRL prints completions (`log_completions`), which
    would break the table. Otherwise lines are printed (`StepLines`). Only the main process shows anything.
    """
    for theirs in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(theirs)
    if not trainer.is_world_process_zero():
        yield
        return
    args: Any = trainer.args
    plain = (
        args.disable_tqdm
        or args.log_completions
        or not sys.stderr.isatty()
        or Console(stderr=True).is_dumb_terminal
    )
    progress: AbstractContextManager[StepLines] = StepLines() if plain else LiveTable()
    with _without_bars(), progress as callback:
        trainer.add_callback(callback)
        yield
