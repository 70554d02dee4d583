"""The flow `top_up`: it requests variants for problems of a training run that have a shortage by live difficulty.

    diva top-up --store runs/store --model gpt-4.1-mini --max-cost 2

A training run in progress uses the new variants after its next refresh (`store_refresh_steps`).
"""

from __future__ import annotations

from dataclasses import replace

from prefect import flow, get_run_logger, task

from diva_grpo.flows.runs.hooks import SHOWN, ends_in_one_line
from diva_grpo.flows.runs.shards import (
    SHARD_TASK,
    Counts,
    Order,
    ShardDone,
    counts_of,
    running,
    worked,
)
from diva_grpo.pipeline.session.session import Session, shards
from diva_grpo.pipeline.stages.curate import Stages
from diva_grpo.pipeline.stages.top_up import Journey, complete_killed, fill, plan, record_idle
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import TopUpConfig


@task(name="top-up-shard", **SHARD_TASK)
def top_up_shard(config: TopUpConfig, order: Order) -> ShardDone:
    """Generate, verify and label the needed variants of one shard, and record the decisions."""
    stages = Stages.of(config)

    def filled(session: Session) -> Counts:
        journey = Journey(order.run_id, order.training_run, order.began_ns)
        made, decided = fill(session, stages, order.needs, journey)
        counts = counts_of(stages, made) | {"labelled": dict(made.labelled), "decided": dict(decided)}
        return {stage: found for stage, found in counts.items() if stage != "short"}

    return worked(config, order, filled)


@flow(name="top_up", **SHOWN)
@ends_in_one_line
def top_up(config: TopUpConfig) -> Counts:
    """Request variants for problems with a shortage, the largest shortage first, within a budget.

    Args:
        config: the store, the training run, the endpoint, the kinds that may be requested, and the budget.

    Returns:
        Counts by stage: variants by status, labels by kind, and `decided`, problems by outcome.
    """
    store = VariantStore(config.store)
    planned = plan(store, config)
    get_run_logger().info(planned.summary())
    needs = {need.problem_id: need for need in planned.needs}
    training_run = planned.shortages.run_id
    with running("top_up", config, len(needs)) as run:
        complete_killed(store)
        record_idle(store, Journey(run.run_id, training_run, run.began_ns), planned)
        run.totals["decided"].update({"nothing": sum(map(len, planned.idle.values()))})
        size = run.shard_size or run.session.shard_size(len(needs))
        orders = [
            replace(order, needs=tuple(needs[name] for name in order.problem_ids), training_run=training_run)
            for order in run.orders(shards(list(needs), size))
        ]
        run.work_off(top_up_shard, orders)
    return run.counts()
