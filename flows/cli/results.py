"""The messages with results that verbs print at their end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diva_grpo.flows.cli.summary import conclude
from diva_grpo.flows.verbs import command_line
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.config import CurateConfig, TeacherConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.records import Status

if TYPE_CHECKING:
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.teacher.meter import Meter

WHY_SHORT = "select * from shortages where accepted < wanted"
"""SQL for the problems that have too few accepted variants of a kind."""


def counted(counts: Mapping[str, int]) -> str:
    """Format counts by name as one line, without zeros.

    >>> counted({"rejected": 1, "accepted": 3})
    '3 accepted, 1 rejected'
    """
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if n) or "nothing to do"


def stages_text(stages: Mapping[str, Mapping[str, int]]) -> str:
    """Format the counts of each stage, one line per stage."""
    return "\n".join(f"{stage}: {counted(counts)}" for stage, counts in stages.items())


def spent(meter: Meter) -> dict[str, float]:
    """Print on standard error what a run has paid, if anything, and return it with its requests for the summary."""
    figures = {"requests": meter.sent, "from_journal": meter.reused, "usd": meter.budget.spent}
    if meter.budget.spent:
        line = f"{meter.sent:,} requests sent, {meter.reused:,} from the journal, ${meter.budget.spent:.4f}"
        click.echo(line, err=True)
    return figures


def then(verb: str, store_dir: Path, teacher: TeacherConfig | None) -> str:
    """The command line of a verb that asks the same endpoint; a placeholder stands for the model if there is none."""
    if teacher is None:
        return diva(verb, "--store", store_dir, "--model", "NAME")
    return command_line(verb, CurateConfig(store=store_dir, teacher=teacher))


def _passed_over(store: VariantStore, *, written: bool) -> str:
    """The end of a message about a run that had nothing to do: earlier failures that it did not retry, with reasons.

    The text is empty if there are no such failures.

    Args:
        store: the store of the run.
        written: True counts written variants without a verdict (for `verify`); False counts failed requests for
            variants (for `generate`).
    """
    types = "network|timeout|http_\\d+|refusal|length|no_answer|parse|schema"
    rows = store.query(
        "SELECT coalesce(nullif(regexp_extract(reason, ?, 1), ''), 'no verdict') AS why, count(*) FROM variants "
        "WHERE status = 'failed' AND (text IS NOT NULL) = ? GROUP BY why ORDER BY count(*) DESC, why",
        [f"\\b({types})\\b", written],
    )
    if not rows:
        return ""
    kinds = ", ".join(f"{count} {why}" for why, count in rows)
    failed = sum(count for _, count in rows)
    return f", passed over: {failed} that failed before ({kinds}); --retry-failed asks again"


def conclude_variants(
    store: VariantStore, counts: Mapping[str, int], meter: Meter, follows: str, *, written: bool
) -> None:
    """Conclude with the counts of the variants that a verb worked on.

    Args:
        store: the store of the run.
        counts: variants by status.
        meter: the run's meter.
        follows: the next command.
        written: whether the verb works on variants that are already written (`verify`).

    Raises:
        TeacherError: most variants failed, or requests failed because of credit, key, model or network. A script
            that calls the verb then stops.
    """
    text = f"variants: {counted(counts)}{'' if counts else _passed_over(store, written=written)}"
    conclude(text, {"variants": counts, **spent(meter)}, "" if mostly(Status.FAILED, counts) else follows)
    raise_if_most_failed(counts, meter)
    if counts.get(Status.FAILED):
        click.echo("`diva status` says why some failed; --retry-failed tries them again", err=True)
    meter.raise_for_outages()


def mostly(name: str, counts: Mapping[str, int]) -> bool:
    """Whether more than half of what a run worked on came to this result. If it is a failure, so is the run.

    >>> mostly("failed", {"failed": 49, "accepted": 1}), mostly("failed", {"failed": 3, "accepted": 47})
    (True, False)
    """
    return 2 * counts.get(name, 0) > sum(counts.values())


def raise_if_most_failed(counts: Mapping[str, int], meter: Meter) -> None:
    """Fail a run of which most variants failed.

    Args:
        counts: variants by status.
        meter: the run's meter, which has the reasons.

    Raises:
        TeacherError: more than half of the variants failed. It names the most frequent reason in this run, or the
            outage in which some of them failed.
    """
    if not mostly(Status.FAILED, counts):
        return
    failed, total = counts[Status.FAILED], sum(counts.values())
    if failed < total:
        meter.raise_for_outages()  # it says how many requests are asked again by the next run
    [(reason, _)] = meter.reasons.most_common(1)
    to_do = "try again with --retry-failed"
    if reason.startswith(("network", "timeout", "http_")):
        to_do = "check --base-url (most end in /v1), the key and --model, and run the same command again"
    how_many = "all" if failed == total else f"{failed:,} of {total:,}"
    raise TeacherError(f"{how_many} failed, most often by {reason!r}: {to_do}")
