"""The flow `evaluate`: it scores a model on held-out problems, as `diva eval` does.

    from diva_grpo.flows.runs.evaluate import evaluate
    evaluate(EvaluateConfig(store="runs/store", model="runs/model/checkpoint-200", samples=4))

It needs the extra `train` as well as `flows`.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from diva_grpo.flows.runs.hooks import SHOWN, ends_in_one_line
from diva_grpo.schemas.policy import EvaluateConfig
from diva_grpo.trainer.evaluation.run import run_evaluation


@task(name="evaluate-model", cache_policy=NO_CACHE, persist_result=False)
def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Run one evaluation: sample the answers, grade them and record the rows. Returns `Evaluated.figures()`."""
    log = get_run_logger()
    done = run_evaluation(config, log.info)
    log.info("run %s, step %d\n%s", done.report.run_id, done.report.step, done.report.tables())
    return done.figures()


@flow(name="evaluate", **SHOWN)
@ends_in_one_line
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a model on the problems of a split, or on a benchmark.

    Args:
        config: the model, the problems and the sampling settings.

    Returns:
        The settings and all figures. The rows are in the table `evaluations`.
    """
    return evaluate_model(config)
