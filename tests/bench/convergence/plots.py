"""The page's plots, as SVG to stand in HTML. Colours are Okabe's and Ito's, which the colour-blind can tell apart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.convergence.measures import Floats, Run
from tests.bench.convergence.statistics import Interval
from tests.bench.convergence.summary import Row

COLOURS = (
    "#000000", "#777777", "#56b4e9", "#0072b2", "#e69f00", "#8c6d1f",
    "#009e73", "#117733", "#d55e00", "#882255", "#999933", "#cc79a7",
)  # fmt: skip
DASHES = ("-", "--", "-.", ":")
AXES = {"steps": ("steps", 1), "seconds": ("CPU seconds", 1), "tokens": ("thousand tokens", 1000)}
GRID = 60
"""Points at which seeds, whose seconds and tokens differ, are read off."""
BIN = 10
"""Steps that a point of a plot over time stands for."""
_STYLE: dict[Any, Any] = {
    "axes.spines.right": False, "axes.spines.top": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "axes.axisbelow": True, "font.size": 9, "svg.fonttype": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How a contender is shown: its name in words, colour and dashes."""

    title: str
    colour: str
    dashes: str


def styles(titles: Mapping[str, str]) -> dict[str, Style]:
    """A style for each contender, by name; contenders beyond twelve share colours.

    Args:
        titles: names in words, in the order in which they are shown.
    """
    return {
        name: Style(title, COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)])
        for i, (name, title) in enumerate(titles.items())
    }


def _svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element. The same figure gives the same text, without the day that it was made."""
    file = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = file.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def _panels(
    count: int, width: float, height: float, *, share_y: bool = True
) -> tuple[Figure, Sequence[Axes]]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(1, count, sharey=share_y, squeeze=False)[0]


def _band(axes: Axes, x: Floats, y_SX: Floats, style: Style) -> None:
    """The median over seeds, and the middle half of them as a band."""
    low, middle, high = np.nanquantile(y_SX, (0.25, 0.5, 0.75), axis=0)
    axes.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)
    axes.plot(x, middle, style.dashes, color=style.colour, label=style.title, linewidth=1.8)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, each contender once."""
    handles = {
        label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(handles), 4),
        frameon=False,
    )


def curves(task: str, found: Mapping[str, Mapping[int, Run]], aim: float, shown: Mapping[str, Style]) -> str:
    """Held-out accuracy against steps, seconds and tokens.

    Args:
        task: its name.
        found: runs by contender and seed.
        aim: accuracy that is to be reached.
        shown: styles by contender.
    """
    figure, panels = _panels(len(AXES), 11, 4)
    for axes, (cost, (label, unit)) in zip(panels, AXES.items(), strict=True):
        for name, by_seed in found.items():
            spent = [run.costs[cost] for run in by_seed.values()]
            x = np.linspace(max(s[0] for s in spent), min(s[-1] for s in spent), GRID)
            y_SX = np.array([np.interp(x, run.costs[cost], run.accuracy) for run in by_seed.values()])
            _band(axes, x / unit, y_SX, shown[name])
        axes.axhline(aim, color="#777777", linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
    panels[0].set_ylabel("held-out accuracy")
    _legend(figure, panels)
    return _svg(figure, f"Held-out accuracy, {task}")


def gains(task: str, rows: Sequence[Row], shown: Mapping[str, Style], aims: Mapping[str, float]) -> str:
    """How many times less each contender needs than GRPO, with intervals, on a scale of doublings.

    Args:
        task: its name.
        rows: of the contenders that are compared with GRPO.
        shown: styles by contender.
        aims: by cost, the factor that is aimed at.
    """
    figure, panels = _panels(len(AXES), 11, 1 + 0.35 * len(rows))
    for axes, (cost, (label, _)) in zip(panels, AXES.items(), strict=True):
        for place, row in enumerate(rows):
            found, style = row.gains.get(cost), shown[row.contender]
            if found is None:
                continue
            if found.estimate == 0:
                axes.text(0.27, place, "target not reached", va="center", color=style.colour, fontsize=8)
                continue
            ends = np.clip([found.low, found.estimate, found.high], 0.25, 16)
            axes.plot([ends[0], ends[2]], [place, place], color=style.colour, linewidth=2)
            axes.plot(ends[1], place, "o", color=style.colour, markersize=6)
        axes.set_xscale("log", base=2)
        axes.set_xlim(0.25, 16)
        axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["¼", "½", "1", "2", "4", "8", "16"])
        axes.axvline(1, color="#777777", linewidth=1)
        if cost in aims:
            axes.axvline(aims[cost], color="#777777", linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlabel(f"times fewer {label.removeprefix('thousand ')}")
    panels[0].set_yticks(range(len(rows)), [shown[row.contender].title for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return _svg(figure, f"Times less than GRPO, {task}")


def bars(task: str, found: Mapping[str, Interval], aim: float) -> str:
    """Final accuracies with their intervals, a bar each; the first is what the others are compared with.

    Args:
        task: its name.
        found: by name in words, accuracy with its interval.
        aim: GRPO's final accuracy.
    """
    figure, [axes] = _panels(1, 8, 0.9 + 0.35 * len(found))
    for place, interval in enumerate(found.values()):
        axes.barh(place, interval.estimate, color="#d55e00" if place == 0 else "#56b4e9", height=0.65)
        axes.plot([interval.low, interval.high], [place, place], color="#000000", linewidth=1.2)
    axes.axvline(aim, color="#777777", linewidth=1, linestyle=(0, (2, 2)))
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("final held-out accuracy")
    return _svg(figure, f"Ablations, {task}")


# By what a plot over time shows, its value in a bin of steps, the table that has it, and the scale.
_OVER_TIME = {
    "silent groups": (
        "sum(silent_groups) / sum(groups)",
        "(SELECT * FROM train_steps WHERE groups > 0)",
        (0, 1),
    ),
    "live difficulty": ("sum(difficulty * problems) / sum(problems)", "difficulty", (1, 9)),
    "right, originals": (
        "sum(correct) / sum(judged)",
        "(SELECT * FROM rollouts WHERE kind = 'original')",
        (0, 1),
    ),
    "right, variants": (
        "sum(correct) / sum(judged)",
        "(SELECT * FROM rollouts WHERE kind <> 'original')",
        (0, 1),
    ),
}


def over_time(
    results: duckdb.DuckDBPyConnection, task: str, whats: Sequence[str], shown: Mapping[str, Style]
) -> str | None:
    """What changes in the course of training, a panel each; None where no run has recorded it.

    Args:
        results: with the tables of `tests.bench.convergence.results`.
        task: its name.
        whats: keys of `_OVER_TIME`.
        shown: styles by contender.
    """
    figure, panels = _panels(len(whats), 5.5 * len(whats), 3.6, share_y=False)
    for axes, what in zip(panels, whats, strict=True):
        value, table, scale = _OVER_TIME[what]
        margin = 0.03 * (scale[1] - scale[0])
        rows = results.execute(
            f"""
            SELECT r.contender, r.seed, step // {BIN} AS bin, {value} AS value
            FROM {table} t JOIN runs r USING (task, run_id)
            WHERE task = $task AND r.run_group = 'main' AND r.outcome = 'ok' GROUP BY ALL ORDER BY ALL
            """,
            {"task": task},
        ).fetchall()
        for name, style in shown.items():
            mine = [row[1:] for row in rows if row[0] == name]
            if mine:
                seeds, bins = sorted({row[0] for row in mine}), sorted({row[1] for row in mine})
                y_SX = np.full((len(seeds), len(bins)), np.nan)
                for seed, step, y in mine:
                    y_SX[seeds.index(seed), bins.index(step)] = y
                _band(axes, (np.array(bins) + 0.5) * BIN, y_SX, style)
        axes.set_xlabel("steps")
        axes.set_ylim(scale[0] - margin, scale[1] + margin)
        axes.set_title(what, fontsize=9)
    if not any(axes.lines for axes in panels):
        return None
    _legend(figure, panels)
    return _svg(figure, f"{', '.join(whats)} over time, {task}")
