"""The flow `curate`: generate, verify and label, one task for all stages of a shard of problems.

Runs without a Prefect server started by hand (Prefect starts one for the run), and with one.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

# The server that Prefect starts for a run without one makes its database first: on a new or busy machine that
# takes longer than the 20 s that Prefect would wait. A user's own setting wins.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

from prefect import State, Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun

from flows.cli.working import Limits
from pipeline.generate import generate
from pipeline.label import label
from pipeline.solve import TeacherSolver
from pipeline.store import VariantStore
from pipeline.supply import supply, verifying
from pipeline.teacher.meter import shown
from pipeline.verify import References
from pipeline.work import TeacherRun, shards, tell
from schemas.config import CurateConfig
from schemas.exceptions import BudgetError, ConfigError

Counts = dict[str, dict[str, int]]


def _may_pass(shard: Task[..., Counts], run: TaskRun, state: State[Counts]) -> bool:
    """Whether to try again: an endpoint may come back, a wrong setting stays wrong and an empty purse empty."""
    return not isinstance(state.result(raise_on_failure=False), ConfigError | BudgetError)


@task(
    name="curate-shard",
    task_run_name="shard {number}",
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,  # the store remembers what is done, and `references` has no hash
)
def curate_shard(
    config: CurateConfig, problem_ids: list[str], number: int, references: References, teacher: TeacherRun
) -> Counts:
    """All stages of one shard; run again, it does only what is missing."""
    store = VariantStore(config.store)
    of_shard: Any = {"problem_ids": problem_ids, "shard_size": len(problem_ids)}
    decide = verifying(store, teacher, config.verify, references)
    counts: Counts = {}
    if config.generate.accepted is None:
        counts["generated"] = dict(generate(store, teacher, config.generate, **of_shard))
        counts["verified"] = dict(decide(problem_ids))
    else:
        done = supply(store, teacher, config.generate, decide, **of_shard)
        counts["generated"], counts["verified"] = dict(done.generated), dict(done.verified)
        if done.shortages:
            counts["short"] = dict(Counter(str(shortage.kind) for shortage in done.shortages))
    solver = TeacherSolver(store, teacher)
    labelled = label(store, solver, config.label, **of_shard) if config.label else Counter()
    return counts | {"labelled": dict(labelled)}


@flow(name="curate", flow_run_name="curate {config.store.name} with {config.teacher.model}")
def curate(config: CurateConfig) -> Counts:
    """Curate the problems of a store.

    Args:
        config: store, endpoint and what each stage does.

    Returns:
        By stage: new variants or labels by status or kind; `short`, where `accepted` is set: problems by the
        kind of which they have too few.
    """
    log = get_run_logger()
    store = VariantStore(config.store)
    totals: dict[str, Counter[str]] = {"generated": Counter(), "verified": Counter(), "labelled": Counter()}
    limits = Limits(False, config.max_cost, config.batch, config.batch_size)
    problems = store.problems(where=config.problem_filter, limit=config.limit)
    meter = limits.meter("problems", len(problems))
    teacher = limits.hire(config.teacher, meter)
    with (
        store.run("curate", config.model_dump_json(), config.teacher.model) as run_id,
        shown(meter, store, run_id, log.info),
    ):
        # A batch may take a day: as many problems as may be share one.
        size = max(config.shard_size, limits.shard_size) if config.batch else config.shard_size
        slices = list(shards([problem.problem_id for problem in problems], size))
        references = References.of(store, config.verify)
        # In turn: the endpoint's limits are then just those of the configuration.
        for number, shard in enumerate(slices, 1):
            for stage, counts in curate_shard(config, list(shard), number, references, teacher).items():
                totals.setdefault(stage, Counter()).update(counts)
            meter(len(shard))
            tell(meter, totals["verified"] - meter.results)
            log.info("shard %d of %d: %d problems done", number, len(slices), len(shard))
    return {stage: dict(counts) for stage, counts in totals.items()}
