"""Which runs are to be done, in which order: what matters most comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diva_grpo.pipeline.store import VariantStore
from tests.bench.convergence.contenders import ABLATIONS, MAIN, PRESETS, TRIALS
from tests.bench.convergence.run import RunSpec
from tests.bench.convergence.tasks import TASKS

GROUPS = ("grid", "main", "ablation", "trial", "preset")
GRID_SEED = 101
ABLATED = "sums"
"""The task of the ablations."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done.

    Attributes:
        steps: of a run.
        eval_every: steps between evaluations.
        rates: learning rates of the grid.
        seeds: of the main comparison.
        ablation_seeds: of the ablations.
    """

    steps: int
    eval_every: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    ablation_seeds: tuple[int, ...]


FULL = Size(60, 5, (3e-4, 6e-4, 1.2e-3), (1, 2, 3, 4, 5), (1, 2, 3))
SHORT = Size(20, 5, (3e-4,), (1, 2), ())


def grid(size: Size, best: Mapping[tuple[str, str], float]) -> list[RunSpec]:
    """One run for each contender, task and learning rate; none where there is nothing to choose.

    Where the best so far is the least or the largest that was tried, half or twice as much is tried too: nobody is
    judged by the edge of a grid that was made for others.

    Args:
        size: how many.
        best: learning rate by task and contender, as far as any is known; with it the grid is asked for again.
    """
    if len(size.rates) == 1:
        return []
    tried = {(rate, contender, task): None for rate in size.rates for contender in MAIN for task in TASKS}
    for (task, contender), rate in best.items():
        rates = {known for known, *cell in tried if cell == [contender, task]} | {rate}
        further = {max(rates): 2 * rate, min(rates): rate / 2}.get(rate)
        tried |= {(rate, contender, task): None} | ({(further, contender, task): None} if further else {})
    return [
        RunSpec(task, contender, GRID_SEED, rate, "grid", size.steps, size.eval_every)
        for rate, contender, task in tried
    ]


def main(size: Size, rates: Mapping[tuple[str, str], float]) -> list[RunSpec]:
    """All contenders on all tasks, one seed after another.

    Args:
        size: how many.
        rates: learning rate by task and contender.
    """
    return [
        RunSpec(task, contender, seed, rates[task, contender], "main", size.steps, size.eval_every)
        for seed in size.seeds
        for contender in MAIN
        for task in TASKS
    ]


def ablation(size: Size, rates: Mapping[tuple[str, str], float]) -> list[RunSpec]:
    """The paper's method with a part taken away, at its own learning rate; the whole is in `main`."""
    return [
        RunSpec(ABLATED, contender, seed, rates[ABLATED, "diva"], "ablation", size.steps, size.eval_every)
        for seed in size.ablation_seeds
        for contender in ABLATIONS
    ]


def trials(size: Size) -> list[RunSpec]:
    """One run for each trial and task, at the middle learning rate of the grid."""
    rate = size.rates[len(size.rates) // 2]
    return [
        RunSpec(task, contender, GRID_SEED, rate, "trial", size.steps, size.eval_every)
        for contender in TRIALS
        for task in TASKS
    ]


def presets(size: Size) -> list[RunSpec]:
    """The presets and GRPO on all tasks, one seed after another, at the middle learning rate of the grid."""
    rate = size.rates[len(size.rates) // 2]
    return [
        RunSpec(task, contender, seed, rate, "preset", size.steps, size.eval_every)
        for seed in size.seeds
        for contender in PRESETS
        for task in TASKS
    ]


_VALIDATED = """
SELECT contender, arg_max(rate, accuracy) FROM (
    SELECT config->>'$.bench.contender' AS contender, (config->>'$.bench.learning_rate')::DOUBLE AS rate,
           sum(correct) / sum(samples) AS accuracy
    FROM runs JOIN evaluations USING (run_id)
    WHERE config->>'$.bench.group' = 'grid' AND (config->>'$.bench.steps')::INTEGER = ? AND outcome = 'ok'
      AND split = 'validation' AND step > ? GROUP BY ALL
) GROUP BY contender
"""


def chosen_rates(out: Path, size: Size) -> dict[tuple[str, str], float]:
    """By task and contender, the learning rate with the best accuracy on the validation problems.

    The mean over the evaluations of a run's last quarter counts: one alone has an error of 3 to 4 points.
    """
    if len(size.rates) == 1:
        return {(task, contender): size.rates[0] for task in TASKS for contender in MAIN}
    chosen: dict[tuple[str, str], float] = {}
    for task in TASKS:
        rows = VariantStore(out / task / "store").query(_VALIDATED, [size.steps, 0.75 * size.steps])
        chosen |= {(task, contender): rate for contender, rate in rows}
    return chosen


def undone(out: Path, runs: Iterable[RunSpec]) -> list[RunSpec]:
    """The runs of a plan that are still to be done."""
    done = {
        (task, run_id)
        for task in TASKS
        if (out / task / "store").exists()
        for (run_id,) in VariantStore(out / task / "store").query(
            "SELECT run_id FROM runs WHERE outcome = 'ok'"
        )
    }
    return [run for run in runs if (run.task, run.run_id) not in done]


def stage(group: str, size: Size, out: Path) -> Sequence[RunSpec]:
    """The runs of one group, with the learning rates that the grid has chosen."""
    if group == "grid":
        return grid(size, chosen_rates(out, size))
    if group == "trial":
        return trials(size)
    if group == "preset":
        return presets(size)
    rates = chosen_rates(out, size)
    return main(size, rates) if group == "main" else ablation(size, rates)
