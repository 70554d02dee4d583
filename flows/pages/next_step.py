"""Suggest the next commands for a store, the most urgent first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.command import diva

MANY_SILENT = 0.5
"""Share of silent groups above which a top-up is suggested: most groups of the run then teach nothing."""

MOST_STEPS = 3


@dataclass(frozen=True, slots=True)
class Step:
    """A suggested step.

    Attributes:
        why: the reason, in one sentence.
        command: the command to run.
    """

    why: str
    command: str


def next_steps(store: VariantStore, runs: Sequence[str] = ()) -> list[Step]:
    """Up to `MOST_STEPS` suggested steps, the most urgent first.

    Args:
        store: the store.
        runs: ids of the training runs that are examined.

    Raises:
        StoreError: a part file is damaged.
    """
    at = ("--store", store.place.url)
    [(problems, labels)] = store.query(
        "SELECT (SELECT count(*) FROM problems), (SELECT count(*) FROM labels)"
    )
    statuses = dict(store.query("SELECT status, count(*) FROM variants GROUP BY status"))
    trained = store.query("SELECT count(*) FROM attempts")[0][0]
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
        steps += _of_run(store, run)
    return steps[:MOST_STEPS]


def _of_run(store: VariantStore, run: str) -> list[Step]:
    at = ("--store", store.place.url)
    [(groups, wrong, right)] = store.query(
        "SELECT count(*), count(*) FILTER (silent_why = 'all wrong'), count(*) FILTER (silent_why = 'all right') "
        "FROM groups WHERE run_id = ?",
        [run],
    )
    steps = []
    if groups and wrong + right > MANY_SILENT * groups:
        worse = "wrong" if wrong > right else "right"
        why = f"{(wrong + right) / groups:.0%} of the groups of {run} were silent, most of them all {worse}."
        steps.append(Step(why, diva("top-up", *at, "--run", run, "--model", "NAME")))
    if groups and not store.query("SELECT 1 FROM evaluations WHERE run_id = ? LIMIT 1", [run]):
        steps.append(
            Step(f"{run} was not evaluated on held-out problems.", diva("eval", *at, "--model", "MODEL"))
        )
    return steps
