"""The page of the evidence: one HTML file without a network, and its table as Markdown and CSV.

    python -m tests.bench.convergence.page --out DIR
    python -m tests.bench.convergence.page --results tests/bench/convergence/results --out DIR

The first reads the stores `DIR/<task>/store`, the second the tables that the first has kept; both write `DIR/page`:
`index.html`, `table.md`, `table.csv`, and the tables themselves as Parquet. The same tables give the same page.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import duckdb
import jinja2
import numpy as np
from markdown_it import MarkdownIt
from markupsafe import Markup

from diva_grpo.schemas.exceptions import DivaError
from tests.bench.convergence import plots
from tests.bench.convergence.measures import COSTS, Run, runs
from tests.bench.convergence.results import keep, kept_results, stores_results
from tests.bench.convergence.statistics import LEVEL, Interval
from tests.bench.convergence.summary import (
    AIMS,
    BASELINE,
    OURS,
    PAPER,
    Row,
    Summary,
    Task,
    as_json,
    by_contender,
    summarise,
)

CONTENDERS: dict[str, tuple[str, str]] = {
    "grpo": ("GRPO", "TRL's own trainer, without variants, eight rollouts of a problem."),
    "grpo_n4": ("GRPO, n = 4", "the same with four rollouts each of twice as many problems."),
    "dr_grpo": (
        "Dr. GRPO",
        "TRL's trainer with its loss of that name, and rewards that are not divided by deviations.",
    ),
    "dapo": (
        "DAPO",
        "clips higher, and replaces problems without a signal; what it generates for nothing is charged.",
    ),
    "diva": (
        "DIVA-GRPO, as in the paper",
        "an original and a variant by live difficulty, hints in the question.",
    ),
    "diva_posterior": (
        "DIVA-GRPO, posterior",
        "an original and a variant chosen by a Beta posterior, hints that open the answer, difficulty from labels, "
        "whose rollouts are charged.",
    ),
    "diva_signal": (
        "DIVA-GRPO, signal",
        "one prompt a problem: the original, or the least help from which there is something to learn, as learnt over "
        "all problems (selector signal).",
    ),
    "uniform": (
        "signal without the aim",
        "any prompt of a problem by chance, so that what the aim adds shows.",
    ),
    "diva_taught": (
        "DIVA-GRPO, ours",
        "one prompt a problem, with the help that makes half of the answers right, and the given steps are trained on "
        "too (opening_advantage); four rollouts each of twice as many problems.",
    ),
    "uniform_taught": (
        "ours without the aim",
        "the same with any prompt of a problem by chance: what teaching the given steps is worth whichever they are.",
    ),
    "untaught": (
        "ours without teaching",
        "the same with given steps that are not trained on, as before.",
    ),
    "sft": (
        "SFT, solutions alone",
        "TRL's SFTTrainer on the worked solutions that hints are made of, as many problems a step as ours: what they "
        "are worth without any rollout.",
    ),
}
"""By name, a contender in words and what it is, in the order in which they are shown."""
ABLATIONS: dict[str, str] = {
    "diva_no_variants": "without variants",
    "diva_no_weight": "without the difficulty weight",
    "diva_no_rescaling": "without rescaling (no change: rewards are 0 or 1)",
    "diva_no_balance": "without balance",
    "diva_fixed": "difficulty fixed",
    "diva_from_group": "difficulty from the whole group",
    "diva_m2": "two variants, n = 7",
    "diva_m3": "three variants, n = 4",
    "diva_m4": "four variants, n = 3",
}
"""By name, what is other than in the paper's method."""

TRIED = Path(__file__).parent / "TRIED.md"
UNITS = {"steps": "steps", "rollouts": "rollouts", "tokens": "thousand tokens", "seconds": "CPU seconds"}
_SCALE = {"tokens": 1000.0}


# --- numbers in words


def bracketed(found: Interval, show: Callable[[float], str]) -> str:
    """An estimate with its interval; alone where there is one seed, which has none."""
    if found.seeds == 1:
        return show(found.estimate)
    return f"{show(found.estimate)} [{show(found.low)}, {show(found.high)}]"


def accuracy(found: Interval) -> str:
    """`0.412 [0.383, 0.440]`."""
    return bracketed(found, "{:.3f}".format)


def difference(found: Interval | None) -> str:
    """`+0.021 [-0.013, +0.042]`; a dash where there is none."""
    return "–" if found is None else bracketed(found, "{:+.3f}".format)


def spent(row: Row, cost: str) -> str:
    """What a contender needed to reach the target, in the cost's unit; `not reached` where its median did not."""
    scale = _SCALE.get(cost, 1.0)
    if np.isinf(row.needed[cost].estimate):
        return "not reached"
    return bracketed(row.needed[cost], lambda end: _whole(end / scale))


def _whole(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def times(found: Interval | None, *, bounded: bool = False) -> str:
    """How many times less: `2.10 [1.62, 2.84]`; `≥` where whom it is compared with never reached the target."""
    if found is None:
        return "–"
    if found.estimate == 0:
        return "not reached"
    shown = bracketed(found, lambda end: "∞" if np.isinf(end) else f"{end:.2f}")
    return f"≥ {shown}" if bounded else shown


def stacked(text: str) -> Markup:
    """An interval below its estimate, as HTML."""
    estimate, bracket, ends = text.partition(" [")
    return Markup("{}<br><small>[{}</small>").format(estimate, ends) if bracket else Markup("{}").format(text)


def share(value: float) -> str:
    """A share in per cent; a dash where it was not measured."""
    return "–" if np.isnan(value) else f"{100 * value:.0f} %"


def plain(value: float, digits: int = 2) -> str:
    """A number; a dash where it was not measured."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def title(name: str) -> str:
    """A contender's name in words."""
    return (
        CONTENDERS[name][0]
        if name in CONTENDERS
        else ABLATIONS.get(name, name.removeprefix("t_").replace("_", " "))
    )


# --- the table

COLUMNS = (
    "contender", "seeds", "final accuracy", "reached by", *(UNITS[cost] for cost in COSTS if cost != "rollouts"),
    "fewer steps", "fewer tokens", "fewer seconds", "silent groups",
)  # fmt: skip


def table_rows(task: Task) -> list[list[str]]:
    """The main table of a task as text, in the order of `COLUMNS`."""
    return [
        [
            title(row.contender), str(row.seeds), accuracy(row.final), f"{row.reached} of {row.seeds}",
            *(spent(row, cost) for cost in COSTS if cost != "rollouts"),
            *(times(row.gains.get(cost), bounded=row.bounded) for cost in ("steps", "tokens", "seconds")),
            share(row.silent_groups),
        ]
        for row in task.rows
    ]  # fmt: skip


def table_markdown(summary: Summary) -> str:
    """The table as Markdown, a table for each task."""
    blocks = []
    for task in summary.tasks:
        lines = [
            f"**{task.name}**: from {task.warm:.3f} to {task.target:.3f}, GRPO's accuracy after {task.steps} steps",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "| " + " | ".join(["---"] * len(COLUMNS)) + " |",
            *("| " + " | ".join(row) + " |" for row in table_rows(task)),
        ]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def table_csv(summary: Summary) -> str:
    """The table as CSV for programs: estimates and ends of intervals as numbers, `inf` where not reached."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("estimate", "low", "high")
    writer.writerow(
        ["task", "contender", "learning_rate", "seeds", "reached", "target", "silent_groups", "silent_problems",
         "gradient_noise", "step_seconds", "label_rollouts"]
        + [f"{name}_{end}" for name in ("final", *COSTS) for end in ends]
        + [f"{name}_times_fewer_{end}" for name in COSTS for end in ends]
    )  # fmt: skip
    for task in summary.tasks:
        for row in task.rows:
            writer.writerow(
                [task.name, row.contender, row.learning_rate, row.seeds, row.reached, task.target, row.silent_groups,
                 row.silent_problems, row.noise, row.step_seconds, row.label_rollouts]
                + [getattr(found, end) for found in (row.final, *row.needed.values()) for end in ends]
                + [getattr(row.gains.get(name), end, "") for name in COSTS for end in ends]
            )  # fmt: skip
    return out.getvalue()


# --- the page


def _plots(
    results: duckdb.DuckDBPyConnection, task: Task, main: Sequence[Run], shown: Mapping[str, plots.Style]
) -> dict[str, Markup | None]:
    """The plots of a task by name; None where nothing is recorded for one."""
    found = by_contender([run for run in main if run.task == task.name], list(shown))
    compared = [row for row in task.rows if row.gains]
    aims = {what: wanted for what, over, wanted, _ in AIMS if over == BASELINE}
    made = {
        "curves": plots.curves(task.name, found, task.target, shown),
        "gains": plots.gains(task.name, compared, shown, aims) if compared else None,
        "silent": plots.over_time(results, task.name, ["silent groups", "live difficulty"], shown),
        "right": plots.over_time(results, task.name, ["right, originals", "right, variants"], shown),
        "ablations": plots.bars(
            task.name, {title(row.contender): row.final for row in task.ablations}, task.target
        )
        if task.ablations
        else None,
    }
    return {name: None if svg is None else Markup(svg) for name, svg in made.items()}


def page(results: duckdb.DuckDBPyConnection, summary: Summary, tried: str = "") -> str:
    """The page as HTML.

    Args:
        results: with the tables of `tests.bench.convergence.results`.
        summary: of them.
        tried: Markdown of what was tried by hand.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "accuracy": accuracy, "difference": difference, "times": times, "share": share, "plain": plain, "title": title,
        "stacked": stacked,
    }  # fmt: skip
    main = runs(results, "main")
    names = [name for name in CONTENDERS if any(run.contender == name for run in main)]
    names += sorted({run.contender for run in main} - set(names))
    shown = plots.styles({name: title(name) for name in names})
    return environment.get_template("page.html").render(
        summary=summary,
        numbers=Markup(as_json(summary)),
        tables={task.name: table_rows(task) for task in summary.tasks},
        columns=COLUMNS,
        plots={task.name: _plots(results, task, main, shown) for task in summary.tasks},
        contenders=[(title(name), CONTENDERS.get(name, ("", ""))[1]) for name in names],
        spent=spent,
        units=UNITS,
        level=LEVEL,
        ours=title(OURS),
        paper=title(PAPER),
        baseline=BASELINE,
        own=OURS,
        tried=Markup(MarkdownIt("commonmark").enable("table").render(tried)),
    )


def write_page(results: duckdb.DuckDBPyConnection, folder: Path) -> Summary:
    """Write page, table and the tables that they were made of.

    Args:
        results: with the tables of `tests.bench.convergence.results`.
        folder: where to.

    Raises:
        ConfigError: GRPO, which sets the target, has no whole run.
    """
    summary = summarise(results, list(CONTENDERS))
    tried = TRIED.read_text("utf-8") if TRIED.exists() else ""
    keep(results, folder)
    (folder / "index.html").write_text(page(results, summary, tried), "utf-8")
    (folder / "table.md").write_text(table_markdown(summary), "utf-8")
    (folder / "table.csv").write_text(table_csv(summary), "utf-8")
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the testbed; the page goes to OUT/page"
    )
    parser.add_argument("--results", type=Path, help="read the tables that a page has kept, and no store")
    options = parser.parse_args(arguments)
    try:
        with ExitStack() as stack:
            read = kept_results(options.results) if options.results else stores_results(options.out)
            summary = write_page(stack.enter_context(read), options.out / "page")
    except DivaError as error:
        sys.exit(str(error))
    print(table_markdown(summary))
    print(f"{summary.runs} runs, {summary.unfinished} not whole: {options.out / 'page' / 'index.html'}")


if __name__ == "__main__":
    main()
