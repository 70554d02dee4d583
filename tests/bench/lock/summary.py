"""What the runs of `lock` show: recomputed from one file of figures, with intervals over seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tabulate import tabulate

from tests.bench.bed_results import (
    ENOUGH_SEEDS,
    RESULTS,
    TARGET,
    collect,
    difference,
    final_accuracy,
    mean_and_interval,
    silent_share,
    tokens_before,
    tokens_to_target,
)

NOTES = (
    "One learning rate (7e-4), not tuned by arm; 100 steps of 256 rollouts; hints in the question; five seeds. The",
    "settings of testbed and selector were chosen on seeds 101 and 102, which are not among these. The runs of the arm",
    "`response` were made later and on another machine: the pass rates of its warm models differ by up to 2 in 256.",
)
"""What a reader must know of these figures."""

Runs = dict[tuple[int, str], dict[int, dict[str, Any]]]
"""By length and arm, the run of each seed."""
Supervised = dict[tuple[str, int], list[list[dict[str, float]]]]
"""By manner and number of solutions, the evaluations of each seed."""


def write_page(out: Path, folder: Path) -> None:
    """Gather a folder's runs into the results, and make the page of them."""
    collect(out, folder / RESULTS, lambda bed: {"length": int(bed.removeprefix("L"))})
    (folder / "README.md").write_text(page(folder / RESULTS), "utf-8")


def read(file: Path) -> tuple[Runs, dict[int, list[dict[str, float]]], Supervised]:
    """Runs, by length what the warm models do by the number of given steps, and runs of supervised training."""
    runs: Runs = defaultdict(dict)
    starts: dict[int, list[dict[str, float]]] = defaultdict(list)
    supervised: Supervised = defaultdict(list)
    for line in map(json.loads, file.read_text().splitlines()):
        if line["kind"] == "run":
            runs[line["length"], line["arm"]][line["seed"]] = line
        elif line["kind"] == "supervised":
            supervised[line["manner"], line["solutions"]].append(line["at"])
        else:
            starts[line["length"]].append(line["rates"])
    return runs, starts, supervised


def page(file: Path) -> str:
    """The page, in Markdown."""
    runs, starts, supervised = read(file)
    lines = [
        "# Lock: what the runs show",
        "",
        f"Made by `python -m tests.bench.lock` from `{RESULTS}`.",
        "",
        *NOTES,
        "",
    ]
    for length in sorted({key[0] for key in runs}, reverse=True):
        rates = starts[length]
        told = ", ".join(f"{given}: {fmean(r[given] for r in rates):.3f}" for given in rates[0])
        lines += [f"## {length} steps", "", f"Start pass rate 4^-{length} = {4.0**-length:.1e}. "
                  f"Warm model's pass rate by the number of steps given in the question: {told}.", ""]  # fmt: skip
        rows = []
        for (at, arm), by_seed in sorted(runs.items()):
            if at != length:
                continue
            finals = [final_accuracy(run) for run in by_seed.values()]
            to_target = [tokens_to_target(run) for run in by_seed.values()]
            reached = sorted(t for t in to_target if t is not None)
            rows.append(
                (
                    arm, mean_and_interval(finals), " ".join(f"{a:.2f}" for a in finals),
                    f"{len(reached)} of {len(finals)}", f"{fmean(reached):,.0f}" if reached else "-",
                    f"{fmean(silent_share(run) for run in by_seed.values()):.2f}",
                    f"{fmean(run['seconds'] for run in by_seed.values()):.0f}",
                )
            )  # fmt: skip
        head = (
            "arm",
            "final accuracy, 90 % interval",
            "by seed",
            f"reached {TARGET}",
            "tokens to it",
            "silent",
            "s",
        )
        lines += [tabulate(rows, headers=head, tablefmt="github"), ""]
    lines += ["## Dose", "", _DOSE, "", *_dose(runs), ""]
    lines += ["## Questions fixed beforehand", "", *_answers(runs)]
    if supervised:
        seeds = min(len(by_seed) for by_seed in supervised.values())
        few = f" Fewer than {ENOUGH_SEEDS} seeds: no verdict." if seeds < ENOUGH_SEEDS else ""
        lines += [
            "",
            "## Supervised training on the solutions (F3)",
            "",
            _F3 + few,
            "",
            *_solutions(supervised),
        ]
    return "\n".join(lines) + "\n"


_F3 = (
    "Eight steps, from the same warm models, batches of 64 (`python -m tests.bench.lock.supervised`). Accuracy is "
    "judged by the last digit alone, which a guess gets right once in ten. CPU seconds are those of the training."
)


def _solutions(supervised: Supervised) -> list[str]:
    rows = [
        (
            manner,
            count,
            evaluations[0]["step"],
            mean_and_interval([at["answer"] for at in evaluations]),
            " ".join(f"{at['answer']:.2f}" for at in evaluations),
            f"{fmean(at['cpu_seconds'] for at in evaluations):.0f}",
        )
        for (manner, count), by_seed in sorted(supervised.items())
        for evaluations in zip(*by_seed, strict=True)
    ]
    head = ("in whose manner", "solutions", "steps", "accuracy, 90 % interval", "by seed", "CPU s")
    return [tabulate(rows, headers=head, tablefmt="github")]


_DOSE = (
    f"Tokens to an accuracy of {TARGET}, GRPO's over the arm's, seed by seed: the median. A seed in which GRPO did not "
    "get there counts with the tokens of its whole run, so the ratio is at least the number (≥)."
)


def _dose(runs: Runs) -> list[str]:
    arms = ("paper_ladder", "signal", "response", "uniform", "dapo")
    rows = []
    for length in sorted({key[0] for key in runs}):
        ratios = [times_fewer_tokens(runs, length, arm) for arm in arms]
        rows.append((length, f"{4.0**-length:.1e}", *ratios))
    head = ("L", "start pass rate", *arms)
    return [tabulate(rows, headers=head, tablefmt="github")]


def times_fewer_tokens(runs: Runs, length: int, arm: str) -> str:
    """Median over seeds of GRPO's tokens to the target over an arm's, as text.

    `≥` marks a median that rests on runs of GRPO that did not reach the target. A seed in which the arm itself did not
    reach it counts as 0; `-` is a median of 0, or an arm that was not run.
    """
    ratios, censored = [], False
    for seed, run in runs.get((length, arm), {}).items():
        plain = runs[length, "grpo"][seed]
        tokens, of_grpo = tokens_to_target(run), tokens_to_target(plain)
        censored |= of_grpo is None
        ratios.append((of_grpo or tokens_before(plain, 10**9)) / tokens if tokens else 0.0)
    middle = median(ratios) if ratios else 0.0
    return f"{'≥ ' * censored}{middle:.1f}" if middle else "-"


def _answers(runs: Runs) -> list[str]:
    asked = [
        ("F1 mechanism: (signal - grpo); refuted below 0.3", "signal", "grpo"),
        ("F1 mechanism with a curve for each problem: (response - grpo)", "response", "grpo"),
        ("F1 with the paper's method on a ladder: (paper_ladder - grpo)", "paper_ladder", "grpo"),
        ("The paper's method as published: (paper - grpo)", "paper", "grpo"),
        ("F2 choice: (signal - uniform)", "signal", "uniform"),
        ("F2 choice with a curve for each problem: (response - uniform)", "response", "uniform"),
        ("A curve for each problem, or one for all: (response - signal)", "response", "signal"),
        ("F5 DAPO at equal tokens: (signal - dapo)", "signal", "dapo"),
        ("Problems by predicted signal: (difficulty - grpo)", "difficulty", "grpo"),
        ("Problems without silent ones: (pool - grpo)", "pool", "grpo"),
        ("Problems by predicted signal, against DAPO: (difficulty - dapo)", "difficulty", "dapo"),
        ("F6 global part: (whole - local alone)", "paper_ladder", "paper_ladder_local"),
        ("F6 difficulty weight: (whole - without)", "paper_ladder", "paper_ladder_no_weight"),
        ("F6 balance: (whole - without)", "paper_ladder", "paper_ladder_no_balance"),
    ]
    rows = []
    for length in sorted({key[0] for key in runs}, reverse=True):
        for name, one, other in asked:
            if runs.get((length, one)) and runs.get((length, other)):
                mean, low, high, seeds = difference(runs, length, one, other)
                verdict = "not told apart" if low <= 0 <= high else "told apart"
                rows.append((length, name, f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", seeds, verdict))
    head = (
        "L",
        "difference in accuracy without hints, at equal tokens",
        "mean, 90 % interval",
        "seeds",
        "0 in it?",
    )
    return [tabulate(rows, headers=head, tablefmt="github")]
