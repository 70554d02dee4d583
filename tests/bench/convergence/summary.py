"""All numbers of the page, as a function of the results: what the page prints is taken from a `Summary` alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import numpy as np

from diva_grpo.schemas.exceptions import ConfigError
from tests.bench.convergence.measures import (
    COSTS,
    TEST,
    Run,
    best_accuracy,
    budget,
    final_accuracy,
    needed,
    runs,
    target,
)
from tests.bench.convergence.start import Start, start_of
from tests.bench.convergence.statistics import Indices, Interval, bootstrap, median, ratio

BASELINE = "grpo"
SAMPLING = "dapo"
PAPER = "diva"
OURS = "diva_taught"
CONTROLS = ("uniform_taught", "untaught", "sft")
"""Ours with prompts by chance, without teaching, and the solutions that it is taught with alone: what one of them does
as well is not owed to what it lacks."""
GROUPS = {"main": TEST, "ablation": TEST, "grid": "validation", "trial": "validation"}
"""Groups of runs, and the split that their accuracy is measured on: choices are made by other problems than reports."""
WORSE_END = 1.3
SEEDS = 3
"""Fewest seeds that a verdict is given by."""
AIMS = (
    ("steps", BASELINE, 2.55, WORSE_END),
    ("seconds", BASELINE, 1.76, WORSE_END),
    ("tokens", SAMPLING, 1.0, 0.0),
)
"""Cost, over whom, how many times less of it is aimed at, and the least lower end of the interval. The factors of steps
and seconds are the paper's."""


@dataclass(frozen=True)
class Row:
    """A contender on a task, over its seeds.

    Attributes:
        contender: its name.
        learning_rate: of its runs.
        seeds: how many runs there are.
        reached: how many of them reached the target.
        final: accuracy at the end, median.
        lead: final accuracy less that of the row that it is compared with, paired by seed, median.
        needed: by cost, what it took to reach the target, median; infinite where not reached.
        gains: by cost, how many times as much the compared row needs; none of the row itself.
        bounded: the compared row's median never reached the target, so that gains are lower bounds.
        silent_groups: share of prompts without a signal, median.
        silent_problems: share of problems without a signal, median.
        noise: variance of the gradient over its squared norm, median; NaN where not measured.
        step_seconds: of a step, median.
        label_rollouts: charged for labels.
        label_seconds: charged for labels.
    """

    contender: str
    learning_rate: float
    seeds: int
    reached: int
    final: Interval
    lead: Interval | None
    needed: dict[str, Interval]
    gains: dict[str, Interval]
    bounded: bool
    silent_groups: float
    silent_problems: float
    noise: float
    step_seconds: float
    label_rollouts: float
    label_seconds: float


@dataclass(frozen=True)
class Trial:
    """What a choice was made by, on validation problems: a learning rate, or settings.

    Attributes:
        contender: its name.
        learning_rate: that was tried.
        steps: of its runs.
        seeds: how many runs there are.
        final: accuracy at the end, mean over the seeds.
        whole: accuracy over the whole run, mean over the seeds: the sooner it learns, the larger.
        chosen: whether main runs of the contender have this learning rate.
    """

    contender: str
    learning_rate: float
    steps: int
    seeds: int
    final: float
    whole: float
    chosen: bool


@dataclass(frozen=True)
class Otherwise:
    """What the gain of our best configuration over GRPO would be by another target.

    Attributes:
        target: in words.
        gains: by cost, how many times as much GRPO needs.
    """

    target: str
    gains: dict[str, Interval]


@dataclass(frozen=True)
class Criterion:
    """One of the aims on a task.

    Attributes:
        what: steps, seconds or tokens.
        over: the contender that is to be beaten.
        found: how many times as much that one needs.
        wanted: what its estimate is to exceed.
        wanted_low: what its lower end is to exceed.
        met: whether it is.
    """

    what: str
    over: str
    found: Interval
    wanted: float
    wanted_low: float
    met: bool


@dataclass(frozen=True)
class Control:
    """Our best configuration against one that lacks a part of it.

    Attributes:
        contender: its name.
        gains: by cost, how many times as much it needs as ours; less than 1 where it is the faster.
        bounded: its median never reached the target, so that gains are lower bounds.
        lead: final accuracy of ours less its own, paired by seed, median.
    """

    contender: str
    gains: dict[str, Interval]
    bounded: bool
    lead: Interval | None


@dataclass(frozen=True)
class Task:
    """All of one task.

    Attributes:
        name: of the task.
        steps: of a run.
        warm: accuracy before the first step, median of all runs.
        target: accuracy to be reached.
        start: before training.
        rows: of the main runs.
        grid: of learning rates.
        trials: of settings.
        ablations: of the paper's method, each compared with the whole of it, which comes first.
        verdict: on our best configuration.
        verdict_paper: on the paper's.
        controls: of our best configuration.
        otherwise: how much hangs on the choice of the target.
    """

    name: str
    steps: int
    warm: float
    target: float
    start: Start
    rows: list[Row]
    grid: list[Trial]
    trials: list[Trial]
    ablations: list[Row]
    verdict: list[Criterion]
    verdict_paper: list[Criterion]
    controls: list[Control]
    otherwise: list[Otherwise]


@dataclass(frozen=True)
class Summary:
    """All of the evidence.

    Attributes:
        tasks: in the order of their names.
        runs: whole ones, of all groups.
        unfinished: runs under way, failed or killed, which count for nothing.
        cpu_hours: of all whole runs, without evaluations.
        met: whether every aim is met on every task; None where runs are missing, or seeds are fewer than `SEEDS`.
    """

    tasks: list[Task]
    runs: int
    unfinished: int
    cpu_hours: float
    met: bool | None


BySeed = Mapping[int, Run]


def gain(
    reference: BySeed,
    contender: BySeed,
    baseline: BySeed,
    cost: str,
    accuracy: Callable[[Run], float] = final_accuracy,
) -> Interval | None:
    """How many times as much of a cost a reference needs as a contender, over the seeds that all have.

    The target is GRPO's on the seeds that were drawn, so that its own uncertainty is in the interval.

    Args:
        reference: whom to compare with.
        contender: who is measured.
        baseline: GRPO, who sets the target.
        cost: one of `COSTS`.
        accuracy: of GRPO's runs, to be reached.
    """

    def statistic(seeds: Sequence[int]) -> float:
        aim = target([baseline[seed] for seed in seeds], accuracy)
        spent = [
            np.median([needed(some[seed], aim)[cost] for seed in seeds]) for some in (reference, contender)
        ]
        whole = np.median([budget(reference[seed])[cost] for seed in seeds])
        return ratio(float(spent[0]), float(spent[1]), float(whole))

    return _paired(statistic, reference, contender, baseline)


def _paired(statistic: Callable[[Sequence[int]], float], *some: BySeed) -> Interval | None:
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in some)))

    def of_indices(indices: Indices) -> float:
        return statistic([seeds[i] for i in indices])

    return bootstrap(of_indices, len(seeds)) if seeds else None


def _lead(mine: BySeed, reference: BySeed) -> Interval | None:
    """Final accuracy less the reference's, paired by seed, median."""
    return _paired(
        lambda seeds: float(np.median([final_accuracy(mine[s]) - final_accuracy(reference[s]) for s in seeds])),
        mine, reference,
    )  # fmt: skip


def _row(name: str, mine: BySeed, reference: BySeed, baseline: BySeed, aim: float) -> Row:
    found = list(mine.values())
    spent = [needed(run, aim) for run in found]
    gains, lead, bounded = {}, None, False
    if mine is not reference:
        gains = {cost: g for cost in COSTS if (g := gain(reference, mine, baseline, cost)) is not None}
        lead = _lead(mine, reference)
        bounded = _unreached(reference, aim)
    return Row(
        contender=name,
        learning_rate=found[0].learning_rate,
        seeds=len(found),
        reached=sum(cost["steps"] < np.inf for cost in spent),
        final=median([final_accuracy(run) for run in found]),
        lead=lead,
        needed={cost: median([each[cost] for each in spent]) for cost in COSTS},
        gains=gains,
        bounded=bounded,
        silent_groups=float(np.median([run.silent_groups for run in found])),
        silent_problems=float(np.median([run.silent_problems for run in found])),
        noise=float(np.median([run.noise for run in found])),
        step_seconds=float(np.median([run.step_seconds for run in found])),
        label_rollouts=found[0].label_rollouts,
        label_seconds=found[0].label_seconds,
    )


def _rows(found: Mapping[str, BySeed], reference: BySeed, baseline: BySeed, aim: float) -> list[Row]:
    return [_row(name, by_seed, reference, baseline, aim) for name, by_seed in found.items()]


def _verdict(found: Mapping[str, BySeed], name: str) -> list[Criterion]:
    """Whether a contender meets the aims; nothing where it, or whom it is to beat, has no runs."""
    criteria = []
    for what, over, wanted, wanted_low in AIMS:
        if {name, over, BASELINE} <= found.keys():
            times = gain(found[over], found[name], found[BASELINE], what)
            if times is not None:
                met = times.estimate > wanted and times.low > wanted_low
                criteria.append(Criterion(what, over, times, wanted, wanted_low, met))
    return criteria


def _unreached(mine: BySeed, aim: float) -> bool:
    return bool(np.isinf(np.median([needed(run, aim)["steps"] for run in mine.values()])))


def _controls(found: Mapping[str, BySeed], aim: float) -> list[Control]:
    if not {OURS, BASELINE} <= found.keys():
        return []
    controls = []
    for name in CONTROLS:
        if name in found:
            gains = {cost: gain(found[name], found[OURS], found[BASELINE], cost) for cost in COSTS}
            lead = _lead(found[OURS], found[name])
            known = {cost: times for cost, times in gains.items() if times is not None}
            controls.append(Control(name, known, _unreached(found[name], aim), lead))
    return controls


def by_contender(found: Sequence[Run], order: Sequence[str]) -> dict[str, dict[int, Run]]:
    """Runs by contender and seed; contenders in the order given, and others behind them by name."""
    known = {name: position for position, name in enumerate(order)}
    grouped: defaultdict[str, dict[int, Run]] = defaultdict(dict)
    for run in sorted(found, key=lambda r: (known.get(r.contender, len(known)), r.contender, r.seed)):
        grouped[run.contender][run.seed] = run
    return dict(grouped)


def _common(found: Mapping[str, BySeed]) -> dict[str, dict[int, Run]]:
    """Only the seeds that all contenders have, so that none is compared on seeds that were kinder."""
    seeds = set.intersection(*(set(by_seed) for by_seed in found.values()))
    if not seeds:
        raise ConfigError(f"no seed that all of {', '.join(found)} have a whole run of: go on with the runs")
    return {name: {seed: by_seed[seed] for seed in sorted(seeds)} for name, by_seed in found.items()}


def _on_the_way(run: Run, part: float) -> float:
    """An accuracy between a run's first and its final one."""
    return float((1 - part) * run.accuracy[0] + part * final_accuracy(run))


OTHER_TARGETS: dict[str, Callable[[Run], float]] = {
    "GRPO's best smoothed accuracy": best_accuracy,
    "a target 0.02 lower": lambda run: final_accuracy(run) - 0.02,
    "three quarters of the way from the warm model": lambda run: _on_the_way(run, 0.75),
    "half of the way": lambda run: _on_the_way(run, 0.5),
}


def _otherwise(found: Mapping[str, BySeed]) -> list[Otherwise]:
    if not {OURS, BASELINE} <= found.keys():
        return []
    baseline, ours = found[BASELINE], found[OURS]
    others = []
    for words, accuracy in OTHER_TARGETS.items():
        gains = {cost: gain(baseline, ours, baseline, cost, accuracy) for cost in COSTS}
        others.append(Otherwise(words, {cost: found for cost, found in gains.items() if found is not None}))
    return others


def _trials(found: Sequence[Run], chosen: Mapping[str, float]) -> list[Trial]:
    """What was tried on a task, by contender and learning rate."""
    tried: defaultdict[tuple[str, float, int], list[Run]] = defaultdict(list)
    for run in found:
        tried[run.contender, run.learning_rate, int(run.costs["steps"][-1])].append(run)
    return [
        Trial(
            contender=contender,
            learning_rate=rate,
            steps=steps,
            seeds=len(some),
            final=float(np.mean([final_accuracy(run) for run in some])),
            whole=float(np.mean([run.accuracy.mean() for run in some])),
            chosen=chosen.get(contender) == rate,
        )
        for (contender, rate, steps), some in sorted(tried.items())
    ]


def _task(
    results: duckdb.DuckDBPyConnection, groups: Mapping[str, Sequence[Run]], order: Sequence[str]
) -> Task:
    """All of one task, from its runs by group."""
    found = _common(by_contender(groups["main"], order))
    name = groups["main"][0].task
    if BASELINE not in found:
        raise ConfigError(
            f"no whole run of {BASELINE} on {name}, whose accuracy is the target: finish one first"
        )
    baseline = found[BASELINE]
    aim = target(list(baseline.values()))
    rows = _rows(found, baseline, baseline, aim)
    reduced = by_contender(groups["ablation"], order)
    whole = {PAPER: found[PAPER]} if reduced and PAPER in found else {}
    return Task(
        name=name,
        steps=int(max(run.costs["steps"][-1] for run in baseline.values())),
        warm=float(np.median([run.accuracy[0] for by_seed in found.values() for run in by_seed.values()])),
        target=aim,
        start=start_of(results, name, list(found)),
        rows=rows,
        grid=_trials(groups["grid"], {row.contender: row.learning_rate for row in rows}),
        trials=_trials(groups["trial"], {}),
        ablations=_rows(whole | reduced, whole[PAPER], baseline, aim) if whole else [],
        verdict=_verdict(found, OURS),
        verdict_paper=_verdict(found, PAPER),
        controls=_controls(found, aim),
        otherwise=_otherwise(found),
    )


def summarise(results: duckdb.DuckDBPyConnection, order: Sequence[str] = ()) -> Summary:
    """All numbers of the page.

    Args:
        results: with the tables of `tests.bench.convergence.results`.
        order: names of contenders, in the order in which they are shown.

    Raises:
        ConfigError: GRPO, which sets the target, has no whole run on a task, or no seed is there of all contenders.
    """
    found = {group: runs(results, group, split) for group, split in GROUPS.items()}
    tasks = [
        _task(
            results,
            {group: [run for run in some if run.task == name] for group, some in found.items()},
            order,
        )
        for name in sorted({run.task for run in found["main"]})
    ]
    [(whole, unfinished)] = results.execute(
        "SELECT count_if(outcome = 'ok'), count_if(outcome <> 'ok') FROM runs"
    ).fetchall()
    [(seconds,)] = results.execute(
        "SELECT coalesce(sum(cpu_seconds), 0) FROM train_steps JOIN runs USING (task, run_id) WHERE outcome = 'ok'"
    ).fetchall()
    decided = bool(tasks) and all(
        [criterion.found.seeds >= SEEDS for criterion in task.verdict] == [True] * len(AIMS) for task in tasks
    )
    return Summary(
        tasks=tasks,
        runs=whole,
        unfinished=unfinished,
        cpu_hours=seconds / 3600,
        met=all(criterion.met for task in tasks for criterion in task.verdict) if decided else None,
    )


def as_json(summary: Summary) -> str:
    """The summary as JSON: nine digits, what is not reached as "inf", what was not measured as null."""
    return json.dumps(_plain(asdict(summary)), indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        # The last digits of a sum hang on the order of its terms.
        return float(f"{value:.9g}") if np.isfinite(value) else "inf" if value > 0 else None
    return value
