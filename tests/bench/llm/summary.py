"""What the runs of `llm` show: recomputed from one file of figures."""

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
    interval,
    silent_share,
    tokens_before,
)


def write_page(out: Path, folder: Path) -> None:
    """Gather a folder's runs into the results, and make the page of them."""
    collect(out, folder / RESULTS, lambda bed: {"model": bed})
    (folder / "README.md").write_text(page(folder / RESULTS), "utf-8")


def page(file: Path) -> str:
    """The page, in Markdown."""
    runs: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    lines = [
        "# A real model: what the runs show",
        "",
        f"Made by `python -m tests.bench.llm` from `{RESULTS}`.",
        "",
    ]
    for line in map(json.loads, file.read_text().splitlines()):
        if line["kind"] == "run":
            runs[line["model"], line["arm"]][line["seed"]] = line
        else:
            told = ", ".join(f"{given}: {rate:.3f}" for given, rate in line["rates"].items())
            lines += [f"{line['model']}, seed {line['seed']}: pass rate by the steps given: {told}.", ""]
    rows = []
    for (model, arm), by_seed in sorted(runs.items()):
        finals = [final_accuracy(run) for run in by_seed.values()]
        low, high = interval(finals)
        rows.append(
            (
                model,
                arm,
                f"{fmean(finals):.3f} [{low:.3f}, {high:.3f}]",
                len(finals),
                f"{fmean(silent_share(run) for run in by_seed.values()):.2f}",
                f"{fmean(tokens_before(run, 10**9) for run in by_seed.values()):,.0f}",
                f"{fmean(run['seconds'] for run in by_seed.values()):.0f}",
                " ".join(sorted({run["device"] for run in by_seed.values()})),
            )
        )
    head = (
        "model",
        "arm",
        "accuracy without hints, 90 % interval",
        "seeds",
        "silent",
        "tokens",
        "s",
        "machine",
    )
    lines += [tabulate(rows, headers=head, tablefmt="github") if rows else "No run has ended yet.", ""]
    for model in sorted({model for model, _ in runs}):
        if runs.get((model, "signal")) and runs.get((model, "grpo")):
            mean, low, high, seeds = difference(runs, model, "signal", "grpo")
            lines += [
                f"{model}: signal - grpo at equal tokens: {mean:+.3f} [{low:+.3f}, {high:+.3f}], {seeds} seeds.",
                "",
            ]
    return "\n".join(lines[:-1]) + "\n"
