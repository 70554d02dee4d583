"""What is measured of a training run: its held-out accuracy, and what it took to get there.

The definitions, all of them here:

- **Accuracy** is the share of right answers to the originals of the split `test`, without hints.
- **Smoothed** accuracy is its mean over a tenth of the run's steps (three evaluations at least), and stands for the
  middle one of these. **Final** accuracy is the last of these means.
- **The target** of a task is GRPO's final accuracy: the median over its seeds, of an even number the lower of the two
  in the middle, so that half of its runs at least reach it.
- A run **reaches** the target at the first step whose smoothed accuracy is no less: one lucky evaluation is not enough,
  a straight line is not delayed, and each GRPO run reaches its own final accuracy. The same for all. A run that never
  reaches it needs infinitely much.
- **Cost** at an evaluation is what the run had generated and computed before it, refills included, and its share of
  what was spent on labels before its first step. Seconds are those of the processor: runs share a machine, and a
  clock would measure that. Held-out evaluation costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import duckdb
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LAST = 0.1
"""The part of a run's steps over which accuracy is smoothed."""
TEST = "test"
COSTS = ("steps", "rollouts", "tokens", "seconds")


@dataclass(frozen=True)
class Run:
    """One training run with its E evaluations, in the order of steps.

    Attributes:
        task: of the testbed.
        run_id: of the task's store.
        contender: the method.
        group: main, grid or ablation.
        seed: of the run.
        learning_rate: of the run.
        label_rollouts: of what was spent, the rollouts on labels.
        label_seconds: of what was spent, the seconds on labels.
        silent_groups: share of its prompts whose rollouts were all right or all wrong; NaN where not recorded.
        silent_problems: the same of problems, a variant's rollouts being its problem's.
        noise: median over steps of the gradient's variance estimate; NaN where it was not measured.
        step_seconds: median seconds of a step.
        accuracy: held-out, (E,) within [0, 1].
        costs: by name (`COSTS`), what had been spent before each evaluation, (E,).
    """

    task: str
    run_id: str
    contender: str
    group: str
    seed: int
    learning_rate: float
    label_rollouts: float
    label_seconds: float
    silent_groups: float
    silent_problems: float
    noise: float
    step_seconds: float
    accuracy: Floats
    costs: dict[str, Floats]


# A step is recorded under TRL's global_step when its rollouts were generated (the first is 0), an evaluation under the
# number of steps that its model has had.
_EVALUATIONS = """
    SELECT (r.task, r.run_id) AS run, e.step, any_value(e.correct / e.samples) AS accuracy,
           any_value(r.label_rollouts) + coalesce(sum(t.rollouts), 0) AS rollouts,
           any_value(r.label_tokens) + coalesce(sum(t.completion_tokens), 0) AS tokens,
           any_value(r.label_seconds) + coalesce(sum(t.cpu_seconds), 0) AS seconds
    FROM runs r JOIN evaluations e USING (task, run_id)
    LEFT JOIN train_steps t ON (t.task, t.run_id) = (e.task, e.run_id) AND t.step < e.step
    WHERE r.outcome = 'ok' AND r.run_group = $group AND e.split = $split AND e.samples > 0
    GROUP BY run, e.step ORDER BY run, e.step
"""
_RUNS = """
    SELECT r.task, r.run_id, contender, run_group AS "group", seed, learning_rate, label_rollouts, label_seconds,
           coalesce(sum(silent_groups) / sum(groups), 'nan') AS silent_groups,
           coalesce(sum(silent_problems) / sum(problems), 'nan') AS silent_problems,
           coalesce(median(grad_noise), 'nan') AS noise, coalesce(median(cpu_seconds), 'nan') AS step_seconds
    FROM runs r LEFT JOIN train_steps t USING (task, run_id)
    WHERE outcome = 'ok' AND run_group = $group
    GROUP BY ALL ORDER BY r.task, contender, seed, learning_rate, r.run_id
"""


def runs(results: duckdb.DuckDBPyConnection, group: str, split: str = TEST) -> list[Run]:
    """All whole runs of a group that were evaluated on a split, by task, contender and seed.

    Args:
        results: with the tables of `tests.bench.convergence.results`.
        group: main, grid or ablation.
        split: on which accuracy is measured.
    """
    rows = results.execute(_EVALUATIONS, {"group": group, "split": split}).fetchall()
    evaluated = {run: [row[1:] for row in some] for run, some in groupby(rows, key=itemgetter(0))}
    found = []
    cursor = results.execute(_RUNS, {"group": group})
    names = [column for column, *_ in cursor.description]
    for row in cursor.fetchall():
        if row[:2] in evaluated:
            steps, accuracy, *spent = np.asarray(evaluated[row[:2]], dtype=float).T
            costs = dict(zip(COSTS, (steps, *spent), strict=True))
            found.append(Run(**dict(zip(names, row, strict=True)), accuracy=accuracy, costs=costs))
    return found


def window(run: Run) -> int:
    """Evaluations in the last tenth of a run's steps, but three at least (or all that there are)."""
    steps = run.costs["steps"]
    # A tenth of a hundred steps has the 90th, whatever floats say.
    last = int((steps >= (1 - LAST) * steps[-1] - 1e-9).sum())
    return min(max(last, 3), len(steps))


def smoothed(run: Run) -> Floats:
    """Means of W evaluations in a row, W being the `window`; (E - W + 1,)."""
    width = window(run)
    return np.convolve(run.accuracy, np.full(width, 1 / width), mode="valid")


def final_accuracy(run: Run) -> float:
    """Mean held-out accuracy over the last evaluations, those of the `window`."""
    return float(smoothed(run)[-1])


def best_accuracy(run: Run) -> float:
    """The largest smoothed accuracy of a run: more than the final one where it fell again."""
    return float(smoothed(run).max())


def target(reference: Sequence[Run], accuracy: Callable[[Run], float] = final_accuracy) -> float:
    """The accuracy to be reached on a task: the (lower) median over the reference's runs of their final accuracy.

    Args:
        reference: GRPO's runs on the task, one a seed.
        accuracy: of each run, in the place of the final one.
    """
    return float(np.quantile([accuracy(run) for run in reference], 0.5, method="lower"))


def needed(run: Run, accuracy: float) -> dict[str, float]:
    """By name (`COSTS`), what a run needed to reach an accuracy; infinity where it never did."""
    # A run that stands at the target has reached it, in whatever order its evaluations were added up.
    reached = np.flatnonzero(smoothed(run) >= accuracy - 1e-9)
    if not len(reached):
        return dict.fromkeys(COSTS, np.inf)
    middle = reached[0] + window(run) // 2
    return {name: float(spent[middle]) for name, spent in run.costs.items()}


def budget(run: Run) -> dict[str, float]:
    """By name (`COSTS`), what a run spent in all."""
    return {name: float(spent[-1]) for name, spent in run.costs.items()}
