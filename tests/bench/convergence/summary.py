"""All numbers of the page, as a function of the results: what the page prints is taken from a `Summary` alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import numpy as np

from schemas.exceptions import ConfigError
from tests.bench.convergence.measures import COSTS, Run, budget, final_accuracy, needed, runs, target
from tests.bench.convergence.start import Start, start_of
from tests.bench.convergence.statistics import Indices, Interval, bootstrap, median, ratio

BASELINE = "grpo"
SAMPLING = "dapo"
PAPER = "diva"
OURS = "diva_posterior"
VALIDATION = "validation"
WORSE_END = 1.3
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
    """A learning rate that a contender was tried with.

    Attributes:
        contender: its name.
        learning_rate: that was tried.
        accuracy: final, on the split that the choice was made by.
        chosen: whether its main runs have it.
    """

    contender: str
    learning_rate: float
    accuracy: float
    chosen: bool


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
class Task:
    """All of one task.

    Attributes:
        name: of the task.
        steps: of a run.
        target: accuracy to be reached.
        start: before training.
        rows: of the main runs.
        grid: of learning rates.
        ablations: of the paper's method, each compared with the whole of it, which comes first.
        verdict: on our best configuration.
        verdict_paper: on the paper's.
    """

    name: str
    steps: int
    target: float
    start: Start
    rows: list[Row]
    grid: list[Trial]
    ablations: list[Row]
    verdict: list[Criterion]
    verdict_paper: list[Criterion]


@dataclass(frozen=True)
class Summary:
    """All of the evidence.

    Attributes:
        tasks: in the order of their names.
        runs: whole ones, of all groups.
        unfinished: runs under way, failed or killed, which count for nothing.
        cpu_hours: of all whole runs, without evaluations.
        met: whether every aim is met on every task; None where there is no run of ours or of GRPO's.
    """

    tasks: list[Task]
    runs: int
    unfinished: int
    cpu_hours: float
    met: bool | None


BySeed = Mapping[int, Run]


def gain(reference: BySeed, contender: BySeed, baseline: BySeed, cost: str) -> Interval | None:
    """How many times as much of a cost a reference needs as a contender, over the seeds that all have.

    The target is GRPO's on the seeds that were drawn, so that its own uncertainty is in the interval.

    Args:
        reference: whom to compare with.
        contender: who is measured.
        baseline: GRPO, who sets the target.
        cost: one of `COSTS`.
    """

    def statistic(seeds: Sequence[int]) -> float:
        aim = target([baseline[seed] for seed in seeds])
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


def _row(name: str, mine: BySeed, reference: BySeed, baseline: BySeed, aim: float) -> Row:
    found = list(mine.values())
    spent = [needed(run, aim) for run in found]
    gains, lead, bounded = {}, None, False
    if mine is not reference:
        gains = {cost: g for cost in COSTS if (g := gain(reference, mine, baseline, cost)) is not None}
        lead = _paired(
            lambda seeds: float(np.median([final_accuracy(mine[s]) - final_accuracy(reference[s]) for s in seeds])),
            mine, reference,
        )  # fmt: skip
        bounded = bool(np.isinf(np.median([needed(run, aim)["steps"] for run in reference.values()])))
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


def by_contender(found: Sequence[Run], order: Sequence[str]) -> dict[str, dict[int, Run]]:
    """Runs by contender and seed; contenders in the order given, and others behind them by name."""
    known = {name: position for position, name in enumerate(order)}
    grouped: defaultdict[str, dict[int, Run]] = defaultdict(dict)
    for run in sorted(found, key=lambda r: (known.get(r.contender, len(known)), r.contender, r.seed)):
        grouped[run.contender][run.seed] = run
    return dict(grouped)


def _grid(
    results: duckdb.DuckDBPyConnection, chosen: Mapping[tuple[str, str], float]
) -> dict[str, list[Trial]]:
    """By task, what learning rates were tried, on the split that is there for it."""
    tried: defaultdict[tuple[str, str, float], list[float]] = defaultdict(list)
    for run in runs(results, "grid", VALIDATION):
        tried[run.task, run.contender, run.learning_rate].append(final_accuracy(run))
    grid: defaultdict[str, list[Trial]] = defaultdict(list)
    for (task, contender, rate), finals in sorted(tried.items()):
        grid[task].append(
            Trial(contender, rate, float(np.mean(finals)), chosen.get((task, contender)) == rate)
        )
    return grid


def summarise(results: duckdb.DuckDBPyConnection, order: Sequence[str] = ()) -> Summary:
    """All numbers of the page.

    Args:
        results: with the tables of `tests.bench.convergence.results`.
        order: names of contenders, in the order in which they are shown.

    Raises:
        ConfigError: GRPO, which sets the target, has no whole run.
    """
    main, ablations = runs(results, "main"), runs(results, "ablation")
    chosen = {(run.task, run.contender): run.learning_rate for run in main}
    grid = _grid(results, chosen)
    tasks = []
    for name in sorted({run.task for run in main}):
        found = by_contender([run for run in main if run.task == name], order)
        if BASELINE not in found:
            raise ConfigError(
                f"no whole run of {BASELINE} on {name}, whose accuracy is the target: finish one first"
            )
        baseline = found[BASELINE]
        aim = target(list(baseline.values()))
        reduced = by_contender([run for run in ablations if run.task == name], order)
        whole = {PAPER: found[PAPER]} if reduced and PAPER in found else {}
        tasks.append(
            Task(
                name=name,
                steps=int(max(run.costs["steps"][-1] for run in baseline.values())),
                target=aim,
                start=start_of(results, name, list(found)),
                rows=_rows(found, baseline, baseline, aim),
                grid=grid[name],
                ablations=_rows(whole | reduced, whole[PAPER], baseline, aim) if whole else [],
                verdict=_verdict(found, OURS),
                verdict_paper=_verdict(found, PAPER),
            )
        )
    [(finished, unfinished)] = results.execute(
        "SELECT count(*) FILTER (outcome = 'ok'), count(*) FILTER (outcome <> 'ok') FROM runs"
    ).fetchall()
    [(seconds,)] = results.execute("SELECT coalesce(sum(cpu_seconds), 0) FROM train_steps").fetchall()
    criteria = [criterion for task in tasks for criterion in task.verdict]
    whole_verdict = bool(tasks) and all(len(task.verdict) == len(AIMS) for task in tasks)
    return Summary(
        tasks=tasks,
        runs=finished,
        unfinished=unfinished,
        cpu_hours=seconds / 3600,
        met=all(criterion.met for criterion in criteria) if whole_verdict else None,
    )


def as_json(summary: Summary) -> str:
    """The summary as JSON: what is not reached as "inf", what was not measured as null."""
    return json.dumps(_plain(asdict(summary)), indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "inf" if value > 0 else None
    return value
