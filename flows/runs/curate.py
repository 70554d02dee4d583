"""The flow `curate`: it generates, verifies and labels variants. One task runs all stages of a shard of problems.

It needs no running Prefect server: Prefect starts one for the run where none is configured.
"""

from __future__ import annotations

from dataclasses import replace

from prefect import flow, task

from diva_grpo.flows.runs.hooks import SHOWN, ends_in_one_line
from diva_grpo.flows.runs.shards import SHARD_TASK, Counts, Order, ShardDone, over_problems, worked
from diva_grpo.schemas.config import CurateConfig


@task(name="curate-shard", **SHARD_TASK)
def curate_shard(config: CurateConfig, order: Order) -> ShardDone:
    """Run all stages of one shard. A second run does only what is missing."""
    done = worked(config, order)
    return replace(done, counts={"generated": {}, "verified": {}, "labelled": {}} | done.counts)


@flow(name="curate", **SHOWN)
@ends_in_one_line
def curate(config: CurateConfig) -> Counts:
    """Curate the problems of a store.

    Args:
        config: the store, the endpoint and the settings of each stage.

    Returns:
        Counts by stage: `generated` and `verified` count variants by status, `labelled` counts labels by kind. If
        `accepted` is set, `short` counts the problems that have too few accepted variants, by kind.
    """
    return over_problems("curate", config, curate_shard, "verified")
