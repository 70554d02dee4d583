"""Suggest the next commands for a store, the most urgent first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.command import diva

MOST_STEPS = 3

_COUNTS = """
SELECT (SELECT count(*) FROM problems), (SELECT count(*) FROM labels), (SELECT count(*) FROM attempts),
       (SELECT coalesce(map_from_entries(list((status, n))), MAP {})
        FROM (SELECT status, count(*) AS n FROM variants GROUP BY status))
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A suggested step.

    Attributes:
        why: the reason.
        command: the command to run.
    """

    why: str
    command: str


def next_steps(store: VariantStore, store_dir: str | Path, runs: Sequence[str] = ()) -> list[Step]:
    """Up to `MOST_STEPS` suggested steps, the most urgent first.

    Args:
        store: the store.
        store_dir: the address of the store in the commands.
        runs: ids of the training runs that are examined.

    Raises:
        QueryError: a query takes too long.
        StoreError: a part file is damaged.
    """
    at = ("--store", store_dir)
    [(problems, labels, trained, statuses)] = store.query(_COUNTS)
    steps = []
    if not problems:
        steps.append(Step("The store has no problems.", diva("ingest", "SOURCE", *at)))
    elif not statuses:
        steps.append(Step("No variants have been written.", diva("generate", *at, "--model", "NAME")))
    if statuses.get("candidate"):
        why = f"{statuses['candidate']:,} variants wait for a verdict."
        steps.append(Step(why, diva("verify", *at, "--model", "NAME")))
    if statuses.get("failed"):
        why = f"{statuses['failed']:,} variants failed."
        steps.append(Step(why, diva("generate", *at, "--model", "NAME", "--retry-failed")))
    if statuses.get("accepted") and not labels:
        why = "No difficulty has been measured: offsets are as designed."
        steps.append(Step(why, diva("label", *at, "--policy", "MODEL")))
    if statuses.get("accepted") and not trained:
        steps.append(Step("No training run yet.", diva("train", "--config", "FILE", *at)))
    for run in runs:
        steps += _of_run(store, at, run)
    return steps[:MOST_STEPS]


def _of_run(store: VariantStore, at: tuple[str, str | Path], run: str) -> list[Step]:
    """The first finding of the run's diagnosis, with what to do about it, and an evaluation if there is none."""
    from diva_grpo.pipeline.diagnosis.diagnose import read_facts
    from diva_grpo.pipeline.diagnosis.rules import find

    facts = read_facts(store, run)
    steps = []
    for finding in find(facts)[:1]:
        why = f"{finding.rule.title} ({run}): {finding.evidence}. {finding.rule.to_do}"
        steps.append(Step(why, diva("diagnose", *at, "--run", run)))
    if facts.groups and not facts.scores:
        steps.append(
            Step(f"{run} was not evaluated on held-out problems.", diva("eval", *at, "--model", "MODEL"))
        )
    return steps
