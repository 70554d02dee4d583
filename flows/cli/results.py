"""What verbs say at their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.records import Status

if TYPE_CHECKING:
    from diva_grpo.pipeline.store import VariantStore

WHY_SHORT = "select * from shortages where accepted < wanted"
"""The query for problems that have too few variants of a kind."""


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name, in one line.

    >>> counted({"rejected": 1, "accepted": 3})
    '3 accepted, 1 rejected'
    """
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if n) or "nothing to do"


def show_stages(stages: Mapping[str, Mapping[str, int]]) -> None:
    """Print what came of each stage, a line each."""
    for stage, counts in stages.items():
        click.echo(f"{stage}: {counted(counts)}")


def show_variants(store: VariantStore, counts: Mapping[str, int]) -> None:
    """Print what came of the variants of a verb.

    Raises:
        TeacherError: not one variant got through, so that a script stops here.
    """
    click.echo(f"variants: {counted(counts)}")
    if set(counts) == {Status.FAILED}:
        [(reason,)] = store.query("SELECT mode(reason) FROM variants WHERE status = 'failed'")
        unanswered = str(reason).startswith(("network", "timeout", "http_"))
        check = "check --base-url (most end in /v1), the key and --model, and " if unanswered else ""
        raise TeacherError(f"all failed, most often by {reason!r}: {check}try again with --retry-failed")
    if counts.get(Status.FAILED):
        click.echo("`diva status` says why some failed; --retry-failed tries them again", err=True)
