"""The flow `curate`: generate, verify and label, one task for all stages of a shard of problems.

Runs without a Prefect server started by hand (Prefect starts one for the run), and with one.
"""

from __future__ import annotations

from dataclasses import replace

from prefect import flow, task

from diva_grpo.flows.runs.hooks import SHOWN, ends_in_one_line
from diva_grpo.flows.runs.shards import (
    SHARD_TASK,
    Counts,
    Order,
    ShardDone,
    chosen_problems,
    running,
    worked,
)
from diva_grpo.schemas.config import CurateConfig


@task(name="curate-shard", **SHARD_TASK)
def curate_shard(config: CurateConfig, order: Order) -> ShardDone:
    """All stages of one shard; run again, it does only what is missing."""
    done = worked(config, order)
    return replace(done, counts={"generated": {}, "verified": {}, "labelled": {}} | done.counts)


@flow(name="curate", **SHOWN)
@ends_in_one_line
def curate(config: CurateConfig) -> Counts:
    """Curate the problems of a store.

    Args:
        config: store, endpoint and what each stage does.

    Returns:
        By stage: new variants or labels by status or kind; `short`, where `accepted` is set: problems by the
        kind of which they have too few.
    """
    problems = chosen_problems(config)
    with running("curate", config, len(problems)) as run:
        run.work_off(curate_shard, run.orders(problems))
    return run.counts()
