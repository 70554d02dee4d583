"""The flows `generate`, `verify` and `label`: each stage alone, one task a shard of problems.

    from diva_grpo.flows.runs.stages import label
    label(LabelFlowConfig(store="runs/store", teacher=TeacherConfig(model="qwen"), workers=4))

`diva generate`, `diva verify` and `diva label` call the same functions of `pipeline` without Prefect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prefect import flow, task

from diva_grpo.flows.runs.hooks import SHOWN, ends_in_one_line
from diva_grpo.flows.runs.shards import (
    SHARD_TASK,
    Counts,
    Order,
    ShardDone,
    Workplace,
    chosen_problems,
    running,
    worked,
)
from diva_grpo.pipeline.stages import generate as generating
from diva_grpo.pipeline.stages import label as labelling
from diva_grpo.pipeline.stages.solve import TeacherSolver
from diva_grpo.pipeline.stages.supply import supply, verifying
from diva_grpo.schemas.config import (
    GenerateConfig,
    GenerateFlowConfig,
    LabelConfig,
    LabelFlowConfig,
    VerifyConfig,
    VerifyFlowConfig,
)

# --- what a task does


def written(
    here: Workplace, problem_ids: Sequence[str], config: GenerateConfig, checks: VerifyConfig
) -> Counts:
    """Write variants of a shard; with `accepted`, verify them and ask again until there are enough."""
    if config.accepted is None:
        counts = generating.generate(
            here.store, here.teacher, config, problem_ids=problem_ids, shard_size=len(problem_ids)
        )
        return {"generated": dict(counts)}
    decide = verifying(here.store, here.teacher, checks, here.references)
    done = supply(
        here.store, here.teacher, config, decide, problem_ids=problem_ids, shard_size=len(problem_ids)
    )
    found = {"generated": dict(done.generated), "verified": dict(done.verified)}
    if done.shortages:
        found["short"] = dict(Counter(str(shortage.kind) for shortage in done.shortages))
    return found


def verified(here: Workplace, problem_ids: Sequence[str], checks: VerifyConfig) -> Counts:
    """Decide on the candidates of a shard."""
    return {"verified": dict(verifying(here.store, here.teacher, checks, here.references)(problem_ids))}


def labelled(here: Workplace, problem_ids: Sequence[str], config: LabelConfig) -> Counts:
    """Measure the difficulty of a shard and of its accepted variants."""
    solver = TeacherSolver(here.store, here.teacher)
    counts = labelling.label(here.store, solver, config, problem_ids=problem_ids, shard_size=len(problem_ids))
    return {"labelled": dict(counts)}


# --- the flows


@task(name="generate-shard", **SHARD_TASK)
def generate_shard(config: GenerateFlowConfig, order: Order) -> ShardDone:
    """Variants of one shard."""
    ids, checks = order.problem_ids, _checks(config)
    return worked(config, order, checks, lambda here: written(here, ids, config.generate, config.verify))


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
    with running("generate", config, len(problems), _checks(config)) as run:
        run.work_off(generate_shard, run.orders(problems), "generated")
    return run.counts()


def _checks(config: GenerateFlowConfig) -> VerifyConfig | None:
    return config.verify if config.generate.accepted is not None else None


@task(name="verify-shard", **SHARD_TASK)
def verify_shard(config: VerifyFlowConfig, order: Order) -> ShardDone:
    """Verdicts on the candidates of one shard."""
    ids = order.problem_ids
    return worked(config, order, config.verify, lambda here: verified(here, ids, config.verify))


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
    with running("verify", config, len(problems), config.verify) as run:
        run.work_off(verify_shard, run.orders(problems))
    return run.counts()


@task(name="label-shard", **SHARD_TASK)
def label_shard(config: LabelFlowConfig, order: Order) -> ShardDone:
    """Labels of one shard."""
    ids = order.problem_ids
    return worked(config, order, None, lambda here: labelled(here, ids, config.label))


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
    with running("label", config, len(problems), None) as run:
        run.work_off(label_shard, run.orders(problems), "labelled")
    return run.counts()
