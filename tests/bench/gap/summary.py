"""What the runs of `gap` show: recomputed from one file of figures, with intervals over seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from tabulate import tabulate

from tests.bench.bed_results import (
    RESULTS,
    collect,
    difference,
    final_accuracy,
    mean_and_interval,
    silent_share,
    steps_to,
    tokens_before,
    verdict,
)

COMPARED = (
    ("response", "grpo"),
    ("signal", "grpo"),
    ("paper", "grpo"),
    ("response", "dapo"),
    ("response", "uniform"),
    ("response", "signal"),
)
"""Pairs of arms whose difference is asked for."""

Runs = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""By spectrum and arm, the run of each seed."""


def write_page(out: Path, folder: Path) -> None:
    """Gather a folder's runs into the results, and make the page of them."""
    collect(out, folder / RESULTS, lambda bed: {"spectrum": bed})
    (folder / "README.md").write_text(page(folder / RESULTS), "utf-8")


def page(file: Path) -> str:
    """The page, in Markdown."""
    runs: Runs = defaultdict(dict)
    starts: dict[str, list[dict[str, dict[str, float]]]] = defaultdict(list)
    for line in map(json.loads, file.read_text().splitlines()):
        if line["kind"] == "run":
            runs[line["spectrum"], line["arm"]][line["seed"]] = line
        else:
            starts[line["spectrum"]].append(line["rates"])
    told = ", ".join(map(str, sorted({seed for by_seed in runs.values() for seed in by_seed})))
    lines = [
        "# Gap: what the runs show",
        "",
        f"Made by `python -m tests.bench.gap` from `{RESULTS}`. Seeds: {told}. One learning rate",
        "(7e-4), not tuned by arm; 60 steps of 128 rollouts; hints in the question. Settings were chosen on seed 101,",
        "with hard problems of 10 to 12 steps. Accuracy is that on held-out originals without hints, of 13 to 15",
        "steps, in `rare` of 8 and 9. Middle ones have 4 to 7.",
        "",
    ]
    for spectrum in sorted({key[0] for key in runs}):
        lines += [f"## {spectrum}", "", *_starts(starts[spectrum]), "", *_table(runs, spectrum), ""]
        lines += [*_differences(runs, spectrum), ""]
    if runs.get(("rare", "grpo")):
        lines += ["## How much sooner: the paper's measure", "", _SOONER, "", *_sooner(runs), ""]
    return "\n".join(lines[:-1]) + "\n"


_SOONER = (
    "Problems of `rare`. Steps to GRPO's best accuracy of each seed, and how many times as many GRPO needs: the paper "
    "has 2.55 times for steps and 1.76 for seconds. CPU seconds are the run's, in proportion to its steps. An arm that "
    "did not get there counts as 0 times."
)


def _sooner(runs: Runs) -> list[str]:
    plain, rows = runs["rare", "grpo"], []
    for (spectrum, arm), by_seed in sorted(runs.items()):
        if spectrum != "rare" or arm == "grpo":
            continue
        steps, seconds, reached = [], [], []
        for seed in sorted(by_seed.keys() & plain.keys()):
            best = max(plain[seed]["accuracy"].values())
            own, theirs = steps_to(by_seed[seed], best), steps_to(plain[seed], best)
            assert theirs is not None
            reached.append(own)
            steps.append(theirs / own if own else 0.0)
            seconds.append(_seconds(plain[seed], theirs) / _seconds(by_seed[seed], own) if own else 0.0)
        told = " ".join("-" if own is None else str(own) for own in reached)
        rows.append((arm, told, mean_and_interval(steps), mean_and_interval(seconds)))
    head = ("arm", "steps to it, by seed", "fewer steps, 90 % interval", "fewer CPU seconds, 90 % interval")
    return [tabulate(rows, headers=head, tablefmt="github")]


def _seconds(run: dict[str, Any], step: int) -> float:
    """CPU seconds of a run up to a step."""
    return float(run["cpu_seconds"]) * step / len(run["steps"])


def _starts(starts: list[dict[str, dict[str, float]]]) -> list[str]:
    def told(name: str) -> str:
        return ", ".join(f"{n}: {fmean(rates[name][n] for rates in starts):.3f}" for n in starts[0][name])

    return [
        f"Warm model's pass rate on originals, by their steps: {told('originals')}.",
        "",
        f"On those tested, by the steps that a hint leaves: {told('left')}.",
    ]


def _table(runs: Runs, spectrum: str) -> list[str]:
    rows = []
    for (at, arm), by_seed in sorted(runs.items()):
        if at != spectrum:
            continue
        finals = [final_accuracy(run) for run in by_seed.values()]
        middles = [final_accuracy({**run, "accuracy": run["accuracy_middle"]}) for run in by_seed.values()]
        rows.append(
            (
                arm,
                mean_and_interval(finals),
                " ".join(f"{a:.2f}" for a in finals),
                mean_and_interval(middles),
                f"{fmean(silent_share(run) for run in by_seed.values()):.2f}",
                f"{fmean(tokens_before(run, 10**9) for run in by_seed.values()):,.0f}",
                f"{fmean(run['seconds'] for run in by_seed.values()):.0f}",
            )
        )
    head = ("arm", "accuracy, 90 % interval", "by seed", "middle, 90 % interval", "silent", "tokens", "s")
    return [tabulate(rows, headers=head, tablefmt="github")]


def _differences(runs: Runs, spectrum: str) -> list[str]:
    rows = []
    for one, other in COMPARED:
        if runs.get((spectrum, one)) and runs.get((spectrum, other)):
            mean, low, high, seeds = difference(runs, spectrum, one, other)
            told = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            rows.append((f"{one} - {other}", told, seeds, verdict(low, high, seeds)))
    head = ("difference in accuracy, at equal tokens", "mean, 90 % interval", "seeds", "0 in it?")
    return [tabulate(rows, headers=head, tablefmt="github")]
