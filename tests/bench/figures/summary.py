"""What the runs of `figures` show: recomputed from one file of figures, with intervals over seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any, Final

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
    verdict,
)

MEASURES: Final = {"perturbed": "accuracy", "clean": "accuracy_clean"}
"""By name, the key of a measure in the file of a run."""
SLACK: Final = 1e-3
"""Share of tokens that does not count. Nearly all answers have two tokens, and runs of equal steps differ by a few."""
COMPARED = (
    ("response", "grpo"),
    ("augmented", "grpo"),
    ("response", "augmented"),
    ("response", "uniform"),
    ("paper", "grpo"),
    ("paper", "augmented"),
)
"""Pairs of arms whose difference is asked for."""
ARM_NAMES: Final = {
    "grpo": "TRL's trainer on clean originals",
    "augmented": "TRL's trainer, in each epoch a random variant in place of the original",
    "response": "`DivaGRPOTrainer`, selector `signal`, prior `item_response`, the original one of the candidates",
    "uniform": "`DivaGRPOTrainer`, original and variants at random",
    "paper": "`DivaGRPOTrainer`, the paper's settings: the original and one variant for each problem",
}

Run = dict[str, Any]


def write_page(out: Path, folder: Path) -> None:
    """Gather a folder's runs into the results, and make the page of them."""
    collect(out, folder / RESULTS, lambda bed: {"case": bed})
    (folder / "README.md").write_text(page(folder / RESULTS), "utf-8")


def page(file: Path) -> str:
    """The page, in Markdown."""
    runs: dict[str, dict[int, Run]] = defaultdict(dict)
    starts: list[dict[str, dict[str, float]]] = []
    for line in map(json.loads, file.read_text().splitlines()):
        if line["kind"] == "run":
            runs[line["arm"]][line["seed"]] = line
        else:
            starts.append(line["rates"])
    seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
    lines = [
        "# Figures: what the runs show",
        "",
        f"Made by `python -m tests.bench.figures` from `{RESULTS}`. Seeds: {', '.join(map(str, seeds))}. One learning",
        "rate (1e-4) for all arms; 40 steps of 64 rollouts; 128 training problems, and 256 held-out ones with one",
        "answer each, so that the difference of two runs has a standard error of 0.04 on perturbed figures. Settings",
        "were chosen on seed 101. The policy counts shapes in figures of 48 by 48 pixels.",
        "",
        *([] if len(seeds) >= ENOUGH_SEEDS else [f"Fewer than {ENOUGH_SEEDS} seeds: no verdict.", ""]),
        "## Before any training",
        "",
        "The warm model on training problems, 8 answers each.",
        "",
        *_starts(starts),
        "",
        "## After training",
        "",
        *_table(runs),
        "",
        *(f"- `{arm}`: {told}." for arm, told in ARM_NAMES.items() if arm in runs),
        "",
        "## Differences at equal generated tokens",
        "",
        *_differences(runs),
    ]
    return "\n".join(lines) + "\n"


def _starts(starts: list[dict[str, dict[str, float]]]) -> list[str]:
    rows = [
        (name, *(f"{fmean(rates[measure][name] for rates in starts):.3f}" for measure in ("right", "silent")))
        for name in sorted(starts[0]["right"], key=lambda name: (name != "original", name))
    ]
    return [
        tabulate(
            rows, headers=("figures", "pass rate", "silent groups"), tablefmt="github", disable_numparse=True
        )
    ]


def _table(runs: dict[str, dict[int, Run]]) -> list[str]:
    rows = []
    for arm in ARM_NAMES:
        if arm not in runs:
            continue
        by_seed = list(runs[arm].values())
        shown = [
            f"{fmean(run[key]['0'] for run in by_seed):.3f} to {mean_and_interval([_final(r, key) for r in by_seed])}"
            for key in MEASURES.values()
        ]
        rows.append(
            (
                arm,
                len(by_seed),
                *shown,
                f"{fmean(silent_share(run) for run in by_seed):.2f}",
                f"{fmean(tokens_before(run, 10**9) for run in by_seed):,.0f}",
                f"{fmean(run['seconds'] for run in by_seed):.0f}",
            )
        )
    head = ("arm", "seeds", *(f"{name}, 90 % interval" for name in MEASURES), "silent", "tokens", "s")
    return [tabulate(rows, headers=head, tablefmt="github")]


def _final(run: Run, key: str) -> float:
    return final_accuracy({**run, "accuracy": run[key]})


def _differences(runs: dict[str, dict[int, Run]]) -> list[str]:
    rows = []
    for name, key in MEASURES.items():
        measured = {
            (name, arm): {seed: {**run, "accuracy": run[key]} for seed, run in by_seed.items()}
            for arm, by_seed in runs.items()
        }
        for one, other in COMPARED:
            if measured.get((name, one)) and measured.get((name, other)):
                mean, low, high, seeds = difference(measured, name, one, other, SLACK)
                rows.append(
                    (
                        name,
                        f"{one} - {other}",
                        f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" if seeds > 1 else f"{mean:+.3f}",
                        seeds,
                        verdict(low, high, seeds),
                    )
                )
    head = ("figures", "difference", "mean, 90 % interval", "seeds", "0 in it?")
    return [tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)]
