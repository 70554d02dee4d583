"""The flows `generate`, `verify` and `label`: each stage alone, one task a shard of problems.

    from diva_grpo.flows.runs.stages import label
    label(LabelFlowConfig(store="runs/store", teacher=TeacherConfig(model="qwen"), workers=4))

`diva generate`, `diva verify` and `diva label` call the same functions of `pipeline` without Prefect.
"""

from __future__ import annotations

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
from diva_grpo.schemas.config import GenerateFlowConfig, LabelFlowConfig, VerifyFlowConfig


@task(name="generate-shard", **SHARD_TASK)
def generate_shard(config: GenerateFlowConfig, order: Order) -> ShardDone:
    """Variants of one shard; with `accepted`, verified, and asked for again until there are enough."""
    return worked(config, order)


@flow(name="generate", **SHOWN)
@ends_in_one_line
def generate(config: GenerateFlowConfig) -> Counts:
    """Write variants of the problems of a store.

    Args:
        config: store, endpoint, and what is written.

    Returns:
        By stage: `generated`, new variants by status; with `accepted` also `verified` and `short`.
    """
    problems = chosen_problems(config)
    with running("generate", config, len(problems), "generated") as run:
        run.work_off(generate_shard, run.orders(problems))
    return run.counts()


@task(name="verify-shard", **SHARD_TASK)
def verify_shard(config: VerifyFlowConfig, order: Order) -> ShardDone:
    """Verdicts on the candidates of one shard."""
    return worked(config, order)


@flow(name="verify", **SHOWN)
@ends_in_one_line
def verify(config: VerifyFlowConfig) -> Counts:
    """Decide on every candidate of a store's problems.

    Args:
        config: store, endpoint and checks.

    Returns:
        `verified`: variants by new status.
    """
    problems = chosen_problems(config)
    with running("verify", config, len(problems)) as run:
        run.work_off(verify_shard, run.orders(problems))
    return run.counts()


@task(name="label-shard", **SHARD_TASK)
def label_shard(config: LabelFlowConfig, order: Order) -> ShardDone:
    """Labels of one shard."""
    return worked(config, order)


@flow(name="label", **SHOWN)
@ends_in_one_line
def label(config: LabelFlowConfig) -> Counts:
    """Measure the difficulty of a store's problems and accepted variants.

    Args:
        config: store, endpoint and how often each question is asked.

    Returns:
        `labelled`: labels by kind.
    """
    problems = chosen_problems(config)
    with running("label", config, len(problems), "labelled") as run:
        run.work_off(label_shard, run.orders(problems))
    return run.counts()
