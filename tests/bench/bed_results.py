"""Figures of the testbeds of hints: gathered from the files of runs, and measured, with intervals over seeds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = "runs.jsonl"
TARGET = 0.5
"""Accuracy on originals without hints that an arm must reach."""
ENOUGH_SEEDS = 5
"""For a verdict: the interval over two seeds is that between them."""
_DRAWS, _LEVEL = 10_000, 0.9
_FIGURES = ("steps", "seconds", "cpu_seconds", "device", "rates", "at")
"""Entries of a line that are measured, beside accuracies."""


def collect(out: Path, file: Path, facts: Callable[[str], dict[str, Any]]) -> None:
    """Gather the runs and the preconditions of a folder into one file, a line each.

    Lines of other runs that the file has already stay, so that the runs of several machines can be gathered in turn.

    Args:
        out: folder of the runs.
        file: where the lines go.
        facts: returns what the lines of preconditions say of a testbed, from its name (`Bed.name`).
    """
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for kind, folder in (("run", "runs"), ("supervised", "supervised")):
        lines += [{"kind": kind, **json.loads(path.read_text())} for path in (out / folder).glob("*.json")]
    for path in out.glob("*/preconditions.json"):
        name, seed = path.parent.name.split("-s")
        rates = json.loads(path.read_text())
        lines.append({"kind": "start", **facts(name), "seed": int(seed), "rates": rates})
    by_name = {_name(line): line for line in lines}
    file.write_text("".join(json.dumps(by_name[name]) + "\n" for name in sorted(by_name)))


def _name(line: Mapping[str, Any]) -> str:
    """What tells a line from the others: all that it says but its figures."""
    said = {k: v for k, v in line.items() if k not in _FIGURES and not k.startswith("accuracy")}
    return json.dumps(said, sort_keys=True)


def final_accuracy(run: dict[str, Any], tokens: int | None = None) -> float:
    """Accuracy at the last evaluation, or at the last one within so many generated tokens."""
    reached = 0.0
    for step, accuracy in sorted((int(s), a) for s, a in run["accuracy"].items()):
        if tokens is None or tokens_before(run, step) <= tokens:
            reached = accuracy
    return reached


def tokens_before(run: dict[str, Any], step: int) -> int:
    """Tokens generated in the steps before an evaluation."""
    return sum(row[2] for row in run["steps"] if row[0] < step)


def tokens_to_target(run: dict[str, Any]) -> int | None:
    """Generated tokens up to the first evaluation at the target; None where it was not reached."""
    for step, accuracy in sorted((int(s), a) for s, a in run["accuracy"].items()):
        if accuracy >= TARGET:
            return tokens_before(run, step)
    return None


def steps_to(run: dict[str, Any], accuracy: float) -> int | None:
    """Steps up to the first evaluation at an accuracy; None where it was not reached."""
    return min((int(step) for step, found in run["accuracy"].items() if found >= accuracy), default=None)


def silent_share(run: dict[str, Any]) -> float:
    """Share of groups with equal rewards."""
    groups: int = sum(row[3] for row in run["steps"])
    silent: int = sum(row[4] for row in run["steps"])
    return silent / max(1, groups)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """90 % bootstrap interval of the mean over seeds (percentiles of resampled seeds)."""
    rng = random.Random(0)
    drawn = sorted(fmean(rng.choices(values, k=len(values))) for _ in range(_DRAWS))
    edge = int(_DRAWS * (1 - _LEVEL) / 2)
    return drawn[edge], drawn[-edge - 1]


def mean_and_interval(values: Sequence[float]) -> str:
    """The mean over seeds with its interval, such as `0.500 [0.400, 0.600]`; one seed has no interval."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    low, high = interval(values)
    return f"{fmean(values):.3f} [{low:.3f}, {high:.3f}]"


def verdict(low: float, high: float, seeds: int) -> str:
    """Whether an interval of a difference tells two arms apart; none with too few seeds."""
    if seeds < ENOUGH_SEEDS:
        return f"fewer than {ENOUGH_SEEDS} seeds"
    return "not told apart" if low <= 0 <= high else "told apart"


def difference(
    runs: Mapping[tuple[Any, str], Mapping[int, dict[str, Any]]],
    case: Any,
    one: str,
    other: str,
    slack: float = 0.0,
) -> tuple[float, float, float, int]:
    """Mean difference of final accuracies at equal tokens, seed by seed, its interval, and the number of seeds.

    Each pair of runs is compared at the tokens that the cheaper of the two had generated at its end.

    Args:
        runs: by case and arm, the run of each seed.
        case: whose runs are compared.
        one: an arm.
        other: the arm that is subtracted.
        slack: share of tokens that a run may have generated more. With 0, one token more sets a run back by a whole
            evaluation.
    """
    pairs = []
    for seed in sorted(runs[case, one].keys() & runs[case, other].keys()):
        a, b = runs[case, one][seed], runs[case, other][seed]
        tokens = round(min(tokens_before(run, 10**9) for run in (a, b)) * (1 + slack))
        pairs.append(final_accuracy(a, tokens) - final_accuracy(b, tokens))
    return fmean(pairs), *interval(pairs), len(pairs)
