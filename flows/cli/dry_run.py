"""`--dry-run`: the verbs on a copy of the store, with a teacher that is never asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from diva_grpo.pipeline.session.work import TeacherRun
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.schemas.config import GenerateConfig, TeacherConfig, VerifyConfig

ASSUMED = "Assumed: each variant is written and accepted at the first try, as long as its original."
"""What a dry run of several stages says at its end."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A dry run: what the verbs are given in the place of the store and of the teacher."""

    store: VariantStore
    teacher: TeacherRun
    note: Callable[[str], None]


@contextmanager
def rehearsed(
    store: VariantStore, teacher: TeacherConfig, generate: GenerateConfig | None = None, *, batch: bool
) -> Iterator[Rehearsal]:
    """Rehearse verbs on a copy of a store, and print what they would have sent."""
    from diva_grpo.pipeline.session.rehearsal import Estimate, rehearsal

    lengths = {"Rewordings": generate.rewordings, "HarderTexts": generate.harder} if generate else {}
    with rehearsal(store) as copy:
        estimate = Estimate(copy, teacher, lengths, batch=batch)
        yield Rehearsal(copy, estimate.teacher, estimate.note)
    click.echo(estimate.render())


def costly(checks: VerifyConfig) -> VerifyConfig:
    """Only the checks that ask a model: what a dry run makes up would not pass those of its text."""
    return checks.model_copy(update={"checks": tuple(c for c in checks.checks if c in ("answer", "judge"))})
