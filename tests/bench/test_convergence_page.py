"""The page of the evidence: its numbers, its text, and that all of it comes from the results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.bench.convergence.page import CONTENDERS, main
from tests.bench.convergence.results import kept_results, stores_results
from tests.bench.convergence.summary import Summary, as_json, summarise
from tests.support.planted_bed_runs import Planted, plant

RISING = [5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25]  # final 23 of 50, reached at step 90
FAST = [5, 13, 21, 23, 25, 25, 25, 25, 25, 25, 25]  # reached at step 30
MIDDLING = [5, 7, 9, 13, 17, 21, 23, 25, 25, 25, 25]  # reached at step 60
FLAT = [5] * 11


def _five(curve: list[int]) -> list[list[int]]:
    """Five seeds, a fiftieth apart."""
    return [[right + shift for right in curve] for shift in (0, 0, 0, 1, -1)]


LABELS = {"label_rollouts": 64, "label_tokens": 600, "label_seconds": 4.0}
SUMS = [
    ("grpo", Planted(_five(RISING), seconds=1.0, tokens=100, silent=2)),
    ("dapo", Planted(_five(MIDDLING), seconds=1.5, tokens=200, silent=0)),
    ("diva", Planted(_five(FLAT), seconds=1.5, tokens=150, difficulty=6.0)),
    ("diva_taught", Planted(_five(FAST), seconds=1.2, tokens=120, bench=LABELS, difficulty=6.5)),
    ("grpo", Planted([RISING], group="grid", rate=2e-4, split="validation")),
    ("grpo", Planted([FAST], group="grid", rate=1e-4, split="validation")),
    ("new_idea", Planted([RISING, FAST], group="trial", split="validation")),
    ("diva_no_weight", Planted([MIDDLING] * 3, group="ablation", seconds=1.2)),
]
WORDS = [
    ("grpo", Planted([RISING])),
    ("diva_taught", Planted([RISING], seconds=2.0)),
    ("sft", Planted([FAST], seconds=0.1, tokens=0, rollouts=0)),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    plant(folder, {"sums": SUMS, "words": WORDS})
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with stores_results(out) as found:
        yield found


@pytest.fixture(scope="module")
def summary(results: duckdb.DuckDBPyConnection) -> Summary:
    return summarise(results, list(CONTENDERS))


@pytest.fixture(scope="module")
def made(out: Path) -> Path:
    main(["--out", str(out)])
    return out / "page"


def test_gains_are_the_ratios_that_were_planted(summary: Summary) -> None:
    sums = summary.tasks[0]
    assert (sums.name, sums.steps) == ("sums", 100)
    assert (sums.warm, sums.target) == pytest.approx((5 / 50, 23 / 50))
    grpo, dapo, diva, ours = sums.rows
    assert [row.contender for row in sums.rows] == ["grpo", "dapo", "diva", "diva_taught"]
    assert (grpo.needed["steps"].estimate, ours.needed["steps"].estimate) == (90, 30)
    assert ours.gains["steps"].estimate == pytest.approx(3.0)
    assert ours.gains["seconds"].estimate == pytest.approx(90 / (4 + 30 * 1.2))
    assert ours.gains["tokens"].estimate == pytest.approx(9000 / (600 + 30 * 120))
    assert dapo.gains["steps"].estimate == pytest.approx(90 / 60)
    assert ours.gains["steps"].low <= 3.0 <= ours.gains["steps"].high
    assert grpo.gains == {}
    assert diva.reached == 0
    assert diva.gains["steps"].high == 0
    assert ours.lead is not None
    assert ours.lead.estimate == pytest.approx(2 / 50)


def test_the_verdict_follows_from_the_aims(summary: Summary) -> None:
    sums, words = summary.tasks
    assert [(c.what, c.over, c.met) for c in sums.verdict] == [
        ("steps", "grpo", True), ("seconds", "grpo", True), ("tokens", "dapo", True),
    ]  # fmt: skip
    assert [c.found.estimate for c in sums.verdict] == pytest.approx([3.0, 2.25, 60 * 200 / 4200])
    assert [c.met for c in sums.verdict_paper] == [False, False, False]
    assert [(c.what, c.found.estimate, c.met) for c in words.verdict] == [
        ("steps", 1.0, False), ("seconds", 0.5, False),
    ]  # fmt: skip
    assert summary.met is None, "DAPO has no run on words"


def test_controls_say_what_ours_owes_to_which_part(summary: Summary, made: Path) -> None:
    sums, words = summary.tasks
    assert sums.controls == []
    [sft] = words.controls
    assert sft.contender == "sft"
    assert sft.gains["steps"].estimate == pytest.approx(30 / 90)
    assert sft.gains["seconds"].estimate == pytest.approx(30 * 0.1 / (90 * 2.0))
    assert sft.lead is not None
    assert sft.lead.estimate == pytest.approx((23 - 25) / 50)
    text = re.sub(r"\s+", " ", (made / "index.html").read_text())
    assert "SFT, solutions alone: 0.33 and 0.02, -0.040." in text


def test_what_training_starts_from(summary: Summary) -> None:
    start = summary.tasks[0].start
    # Right 0, 1, 2, 3 times of four, and four times four.
    assert (start.samples, start.pass_rates) == (4, [1, 1, 1, 1, 0, 4])
    assert start.early_steps == 10
    # Of each, ten steps of five seeds: an original half right, and a hint with which all are right.
    assert [(e.contender, e.kind, e.steps_left, e.groups, e.right) for e in start.early] == [
        ("diva", "original", None, 50, 0.5), ("diva", "think_step", 1, 50, 1.0),
        ("diva_taught", "original", None, 50, 0.5), ("diva_taught", "think_step", 1, 50, 1.0),
    ]  # fmt: skip
    assert [(e.all_wrong, e.all_right) for e in start.early] == [(0, 0), (0, 1)] * 2
    assert start.problems == {"test": 50, "train": 8}
    assert start.visits["grpo"] == 100 * 2 / 8


def test_the_grid_says_which_rate_was_chosen(summary: Summary) -> None:
    grid = summary.tasks[0].grid
    assert [(t.contender, t.learning_rate, t.chosen) for t in grid] == [
        ("grpo", 1e-4, True),
        ("grpo", 2e-4, False),
    ]
    assert [t.final for t in grid] == pytest.approx([0.5, 0.46])


def test_trials_are_told_apart_from_what_is_reported(summary: Summary) -> None:
    sums, words = summary.tasks
    [trial] = sums.trials
    assert (trial.contender, trial.seeds, trial.steps, trial.chosen) == ("new_idea", 2, 100, False)
    assert trial.final == pytest.approx((23 + 25) / 2 / 50)
    assert trial.whole == pytest.approx((sum(RISING) + sum(FAST)) / 2 / 11 / 50)
    assert words.trials == []
    assert "new_idea" not in [row.contender for row in sums.rows]


def test_other_targets_give_other_factors(summary: Summary) -> None:
    best, less, far, half = summary.tasks[0].otherwise
    assert best.gains["steps"].estimate == pytest.approx(3.0), "GRPO's best is its last"
    assert less.gains["steps"].estimate == pytest.approx(90 / 30), "between the same evaluations"
    assert far.gains["steps"].estimate == pytest.approx(70 / 20), (
        "18.5 of 50: 19 at step 70, and 13, 21, 23 at 20"
    )
    assert half.gains["steps"].estimate == pytest.approx(50 / 20), "14 of 50: 15 at step 50"


def test_ablations_are_compared_with_the_papers_method_on_the_same_seeds(summary: Summary) -> None:
    whole, reduced = summary.tasks[0].ablations
    assert (whole.contender, whole.seeds, whole.lead) == ("diva", 5, None)
    assert (reduced.contender, reduced.seeds) == ("diva_no_weight", 3)
    assert reduced.lead is not None
    assert reduced.lead.estimate == pytest.approx(20 / 50)


def test_the_page_is_a_function_of_the_tables_beside_it(made: Path, tmp_path: Path) -> None:
    main(["--results", str(made), "--out", str(tmp_path)])
    for name in ("index.html", "table.md", "table.csv"):
        assert (tmp_path / "page" / name).read_text() == (made / name).read_text(), name


def test_the_page_carries_its_numbers(made: Path, summary: Summary) -> None:
    html = (made / "index.html").read_text()
    [numbers] = re.findall(r'<script type="application/json" id="numbers">(.*?)</script>', html, re.DOTALL)
    assert json.loads(numbers) == json.loads(as_json(summary))
    assert json.loads(numbers)["tasks"][0]["rows"][2]["needed"]["steps"]["estimate"] == "inf"


def test_the_page_needs_no_network(made: Path) -> None:
    html = (made / "index.html").read_text()
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>', "", html, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"|url\((?!#)[^)]*\)|@import', without_names)


def test_the_page_says_what_was_found(made: Path) -> None:
    text = re.sub(r"<(style|script|svg).*?</\1>", "", (made / "index.html").read_text(), flags=re.DOTALL)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text))
    assert "Undecided: runs are missing, or seeds too few." in text
    assert "Met: steps against GRPO. 3.00 [" in text
    assert "Missed: steps against GRPO. 1.00 times fewer over 1 seed; aimed at 2.55" in text
    assert "Short of it by a factor of 2.55." in text
    assert "The target is not reached by the median of the seeds." in text
    assert "nan" not in text.lower().split()


def test_each_task_has_its_plots(made: Path) -> None:
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', (made / "index.html").read_text())
    assert labels == [
        "Times less than GRPO, sums", "Held-out accuracy, sums", "silent groups, live difficulty over time, sums",
        "right, originals, right, variants over time, sums", "Ablations, sums",
        "Times less than GRPO, words", "Held-out accuracy, words", "silent groups, live difficulty over time, words",
    ]  # fmt: skip


def test_the_table_has_a_row_for_each_contender(made: Path) -> None:
    lines = (made / "table.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in lines) == 2 * 2 + 4 + 3
    [diva] = [line for line in lines if "as in the paper" in line]
    assert "not reached" in diva
    assert "0 of 5" in diva


def test_only_seeds_that_all_contenders_have_count(tmp_path: Path) -> None:
    plant(tmp_path, {"sums": [("grpo", Planted([RISING, FLAT, FLAT])), ("diva", Planted([FAST]))]})
    with stores_results(tmp_path) as results:
        [task] = summarise(results, list(CONTENDERS)).tasks
    assert [row.seeds for row in task.rows] == [1, 1]
    assert task.target == pytest.approx(23 / 50)


def test_without_grpo_there_is_no_target(tmp_path: Path) -> None:
    plant(tmp_path, {"sums": [("diva", Planted([FAST]))]})
    with pytest.raises(SystemExit, match="no whole run of grpo on sums"):
        main(["--out", str(tmp_path)])


def test_what_was_kept_gives_the_same_numbers(made: Path, summary: Summary) -> None:
    with kept_results(made) as kept:
        assert as_json(summarise(kept, list(CONTENDERS))) == as_json(summary)
