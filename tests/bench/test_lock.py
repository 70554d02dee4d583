"""The testbed `lock`: its task, and that its page says what its figures say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.bench.bed_results import (
    RESULTS,
    collect,
    final_accuracy,
    steps_to,
    tokens_before,
    tokens_to_target,
)
from tests.bench.lock.summary import page, read, times_fewer_tokens
from tests.bench.lock.supervised import by_answer, examples
from tests.bench.lock.task import RULES, SIZES, Lock, accuracy_reward, fill_store, found, hint_lines, worked

FOLDER = Path(__file__).parent / "lock" / "results"


def test_only_the_hidden_rules_are_right() -> None:
    task = Lock(length=3, seed=1)
    start, cues = task.draw(random.Random(0))
    right = task.rules_of(cues)
    answer = found("\n".join(worked(start, cues, right)))
    for other in RULES:
        rules = [other, *right[1:]]
        said = "\n".join(worked(start, cues, rules))
        assert accuracy_reward([said], [answer]) == [float(other == right[0])]


def test_a_hint_names_rules_in_other_words_than_the_answer() -> None:
    lines = hint_lines(("red", "blue"), ("a", "d"))
    assert lines == ["1 red asks for add one", "2 blue asks for mirror"]
    assert found("\n".join(lines)) == ""


def test_the_store_has_a_ladder_for_each_training_problem(tmp_path: Path) -> None:
    fill_store(Lock(length=4, seed=2), tmp_path / "store")
    rows = VariantStore(tmp_path / "store").query(
        "SELECT list(hint_steps ORDER BY hint_steps) FROM variants WHERE status = 'accepted' GROUP BY problem_id"
    )
    assert rows == [([1, 2, 3, 4],)] * SIZES["train"]


def test_solutions_in_two_manners_have_one_answer(tmp_path: Path) -> None:
    fill_store(Lock(length=4, seed=2), tmp_path / "store")
    store = VariantStore(tmp_path / "store")
    policy, teacher = (examples(store, manner) for manner in ("policy", "teacher"))
    assert len(policy) == len(teacher) == SIZES["train"]
    answers = [problem.answer for problem in store.problems(where="split = 'train'")]
    assert (
        by_answer(policy["completion"], answers)
        == by_answer(teacher["completion"], answers)
        == [1.0] * len(answers)
    )
    assert [found(text) for text in policy["completion"]] == answers
    assert {found(text) for text in teacher["completion"]} == {""}
    assert by_answer(["1 red:a4\n2 blue:b8", "", "7 8 9"], ["a4 b8", "a4 b8", "a4 b8"]) == [1.0, 0.0, 0.0]


def test_lines_of_other_runs_stay(tmp_path: Path) -> None:
    for machine, seeds in (("one", (1, 2)), ("other", (2, 3))):
        (tmp_path / machine / "runs").mkdir(parents=True)
        for seed in seeds:
            run = {"arm": "grpo", "length": 2, "seed": seed, "accuracy": {"0": seed / 10}, "device": machine}
            (tmp_path / machine / "runs" / f"{seed}.json").write_text(json.dumps(run))
        collect(tmp_path / machine, tmp_path / RESULTS, lambda bed: {"length": int(bed[1:])})
    lines = map(json.loads, (tmp_path / RESULTS).read_text().splitlines())
    assert [(line["seed"], line["device"]) for line in lines] == [(1, "one"), (2, "other"), (3, "other")]


def test_figures_of_a_run() -> None:
    run = {"accuracy": {"0": 0.0, "5": 0.4, "10": 0.6}, "steps": [[s, 8, 100, 2, 1] for s in range(10)]}
    assert (tokens_before(run, 5), tokens_to_target(run)) == (500, 1_000)
    assert (steps_to(run, 0.4), steps_to(run, 0.6), steps_to(run, 0.7)) == (5, 10, None)
    assert final_accuracy(run, tokens=999) == pytest.approx(0.4)


def test_ratio_of_tokens_to_the_target() -> None:
    def run(*accuracies: float) -> dict[str, Any]:
        steps = [[s, 8, 100, 2, 1] for s in range(5 * (len(accuracies) - 1))]
        return {"accuracy": {str(5 * i): a for i, a in enumerate(accuracies)}, "steps": steps}

    slow, fast, never = run(0, 0, 0, 0, 0.6), run(0, 0.6, 0.6, 0.6, 0.6), run(0, 0, 0, 0, 0)
    both = {(2, "grpo"): {1: slow, 2: slow, 3: slow}, (2, "signal"): {1: fast, 2: fast, 3: never}}
    assert times_fewer_tokens(both, 2, "signal") == "4.0"
    assert times_fewer_tokens(both | {(2, "grpo"): dict.fromkeys((1, 2, 3), never)}, 2, "signal") == "≥ 4.0"
    assert times_fewer_tokens(both | {(2, "signal"): dict.fromkeys((1, 2, 3), never)}, 2, "signal") == "-"
    assert times_fewer_tokens(both, 2, "dapo") == "-"


def test_the_page_is_made_of_the_figures() -> None:
    assert (FOLDER / "README.md").read_text("utf-8") == page(FOLDER / RESULTS)
    runs, starts, _ = read(FOLDER / RESULTS)
    assert all(len(by_seed) == 5 for by_seed in runs.values())
    for length, seeds in starts.items():
        assert all(rates[str(length)] >= 0.9 for rates in seeds), "the warm models follow a hint"
