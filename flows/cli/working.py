"""What the verbs that ask a teacher have in common: limits, dry runs, batches, and a line of progress."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from diva_grpo.pipeline.session.work import TeacherRun
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.teacher.meter import Meter
    from diva_grpo.schemas.config import CurateConfig, GenerateConfig, TeacherConfig

Command = Callable[..., Any]

LOG_EVERY_S = 30.0
"""Seconds between two lines of progress where standard error is no terminal."""


dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Send nothing: count requests, tokens and dollars of what would be sent.",
)


def limit_options(command: Command) -> Command:
    """--dry-run, --max-cost, --batch and --batch-size."""
    max_cost = click.option(
        "--max-cost",
        metavar="DOLLARS",
        type=click.FloatRange(min=0, min_open=True),
        help="Stop when this run has spent so much; what is in flight then is still paid for and kept.",
    )
    batch = click.option(
        "--batch",
        is_flag=True,
        help="Use OpenAI's Batch API: half the price, answers within a day. A run that was ended finds them again.",
    )
    batch_size = click.option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(1, 50_000),
        default=25_000,
        show_default=True,
        help="With --batch: requests that wait in memory at once; fewer where images are large.",
    )
    return dry_run_option(max_cost(batch(batch_size(command))))


filter_option = click.option(
    "--problem-filter", metavar="SQL", help="Condition on `problems`, such as source = 'gsm8k'."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a run may go.

    Attributes:
        dry_run: send nothing.
        max_cost: dollars that may be spent.
        batch: use the Batch API.
        batch_size: requests that wait for it at once.
    """

    dry_run: bool
    max_cost: float | None
    batch: bool
    batch_size: int

    @classmethod
    def of(cls, values: dict[str, Any]) -> Limits:
        """Those of a command's options, removed from `values`."""
        return cls(**{field.name: values.pop(field.name) for field in fields(cls)})

    @property
    def shard_size(self) -> int:
        """Problems whose records are written together."""
        from diva_grpo.pipeline.session import work
        from diva_grpo.pipeline.teacher.wire.batch import exchange as batch

        return batch.SHARD_SIZE if self.batch else work.SHARD_SIZE

    def meter(self, unit: str, total: int | None = None) -> Meter:
        """Counts of a run with these limits."""
        from diva_grpo.pipeline.teacher.meter import Meter
        from diva_grpo.pipeline.teacher.prices import Purse

        return Meter(unit, total, Purse(self.max_cost))

    def hire(self, teacher: TeacherConfig, meter: Meter) -> TeacherRun:
        """A teacher within these limits.

        Raises:
            ConfigError: a limit in dollars, and no price of the model.
        """
        from diva_grpo.pipeline.session.work import TeacherRun, live
        from diva_grpo.pipeline.teacher.wire.batch.exchange import by_batch

        return TeacherRun(teacher, meter, by_batch(meter, self.batch_size) if self.batch else live)


@contextmanager
def watched(store: VariantStore, run_id: str, verb: str, meter: Meter) -> Iterator[None]:
    """Show how far a run is: on a terminal by one line that changes, else by lines of a log."""
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


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A dry run: what the verbs are given in the place of the store and of the teacher."""

    store: VariantStore
    teacher: TeacherRun
    note: Callable[[str], None]


@contextmanager
def rehearsed(
    store: VariantStore, teacher: TeacherConfig, limits: Limits, generate: GenerateConfig | None = None
) -> Iterator[Rehearsal]:
    """Rehearse verbs on a copy of a store, and print what they would have sent."""
    from diva_grpo.pipeline.session.rehearsal import Estimate, rehearsal

    lengths = {"Rewordings": generate.rewordings, "HarderTexts": generate.harder} if generate else {}
    with rehearsal(store) as copy:
        estimate = Estimate(copy, teacher, lengths, batch=limits.batch)
        yield Rehearsal(copy, estimate.teacher, estimate.note)
    click.echo(estimate.render())


def rehearse_curation(store: VariantStore, config: CurateConfig, limits: Limits) -> None:
    """Print what `curate` would send if every variant were written and accepted at the first try."""
    from diva_grpo.pipeline.checks import Judge
    from diva_grpo.pipeline.stages.generate import generate
    from diva_grpo.pipeline.stages.label import label
    from diva_grpo.pipeline.stages.solve import VERIFICATION, TeacherSolver
    from diva_grpo.pipeline.stages.verify import verify
    from diva_grpo.schemas.records import Status, Variant

    problems = store.problems(where=config.problem_filter, limit=config.limit)
    ids = [problem.problem_id for problem in problems]
    # What was made up would not pass the checks of its text; what asks a model is what costs.
    asking = tuple(name for name in config.verify.checks if name in ("answer", "judge"))
    checks = config.verify.model_copy(update={"checks": asking})
    with rehearsed(store, config.teacher, limits, config.generate) as dry:
        generate(dry.store, dry.teacher, config.generate, problem_ids=ids)
        dry.note("generate")
        waiting = dry.store.read(Variant, "status = 'candidate' AND problem_id IN (SELECT unnest(?))", [ids])
        judge = Judge.for_verify(dry.store, dry.teacher, checks)
        solver = TeacherSolver(dry.store, dry.teacher, VERIFICATION)
        verify(dry.store, solver, checks, judge=judge, problem_ids=ids)
        dry.note("verify")
        dry.store.append([v.model_copy(update={"status": Status.ACCEPTED}) for v in waiting])
        if config.label:
            label(dry.store, TeacherSolver(dry.store, dry.teacher), config.label, problem_ids=ids)
            dry.note("label")
    click.echo("Assumed: each variant is written and accepted at the first try, as long as its original.")
