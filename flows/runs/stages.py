"""The flows `generate`, `verify` and `label`. Each runs one stage, with one task per shard of problems.

    from diva_grpo.flows.runs.stages import label
    label(LabelFlowConfig(store="runs/store", teacher=TeacherConfig(model="qwen"), workers=4))

`diva generate`, `diva verify` and `diva label` call the same functions of `pipeline` without Prefect.
"""

from __future__ import annotations

from prefect import flow, task

from diva_grpo.flows.runs.hooks import SHOWN, ends_in_one_line
from diva_grpo.flows.runs.shards import SHARD_TASK, Counts, Order, ShardDone, over_problems, worked
from diva_grpo.schemas.config import GenerateFlowConfig, LabelFlowConfig, VerifyFlowConfig


@task(name="generate-shard", **SHARD_TASK)
def generate_shard(config: GenerateFlowConfig, order: Order) -> ShardDone:
    """Generate variants for one shard.

    With `accepted`, it also verifies them, and requests more until there are enough.
    """
    return worked(config, order)


@flow(name="generate", **SHOWN)
@ends_in_one_line
def generate(config: GenerateFlowConfig) -> Counts:
    """Write variants of the problems of a store.

    Args:
        config: the store, the endpoint, and the variants to write.

    Returns:
        Counts by stage: `generated`, new variants by status; with `accepted` also `verified`, variants by status,
        and `short`, problems with too few accepted variants by kind.
    """
    return over_problems("generate", config, generate_shard, "generated")


@task(name="verify-shard", **SHARD_TASK)
def verify_shard(config: VerifyFlowConfig, order: Order) -> ShardDone:
    """Verify the candidates of one shard."""
    return worked(config, order)


@flow(name="verify", **SHOWN)
@ends_in_one_line
def verify(config: VerifyFlowConfig) -> Counts:
    """Verify every candidate of a store's problems.

    Args:
        config: the store, the endpoint and the checks.

    Returns:
        `verified`: variants by their new status.
    """
    return over_problems("verify", config, verify_shard, "verified")


@task(name="label-shard", **SHARD_TASK)
def label_shard(config: LabelFlowConfig, order: Order) -> ShardDone:
    """Label the problems and accepted variants of one shard."""
    return worked(config, order)


@flow(name="label", **SHOWN)
@ends_in_one_line
def label(config: LabelFlowConfig) -> Counts:
    """Measure the difficulty of a store's problems and accepted variants.

    Args:
        config: the store, the endpoint and the number of answers to each question.

    Returns:
        `labelled`: new labels by kind.
    """
    return over_problems("label", config, label_shard, "labelled")
