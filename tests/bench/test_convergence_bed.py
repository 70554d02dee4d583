"""The testbed of tests/bench/convergence: its exercises, its plan, and a run from nothing."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reasoning_gym.arithmetic.leg_counting import ANIMALS

from diva_grpo.flows.demo.toy_models import build_tokenizer
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import HINT_OPENING
from diva_grpo.trainer.prompts import PromptBuilder
from tests.bench.convergence import plan, preconditions, run, tasks, warm
from tests.bench.convergence.contenders import ABLATIONS, CONTENDERS, MAIN, ROLLOUTS
from tests.bench.convergence.run import RunSpec, prepare, train_run
from tests.bench.convergence.tasks import TASKS, Exercise, Task

SEEDS = st.integers(0, 2**32).map(random.Random)


@given(SEEDS, st.integers(2, 9))
def test_a_sum_is_worked_out_term_by_term(rng: random.Random, terms: int) -> None:
    exercise = tasks.draw_sum(rng, terms)
    assert exercise.answer == str(eval(exercise.body))
    assert len(exercise.steps) == terms - 1
    assert all(0 <= int(step.partition("=")[2]) < 100 for step in exercise.steps)


@given(SEEDS, st.integers(1, 6))
def test_legs_are_counted_animal_by_animal(rng: random.Random, animals: int) -> None:
    exercise = tasks.draw_legs(rng, animals)
    counted = [re.fullmatch(r"(\d+) (.+)", part) for part in exercise.body.split(", ")]
    # "3 flys" and "1 fly" alike: the plural of reasoning-gym is an s.
    legs = [int(m[1]) * ANIMALS[m[2] if m[2] in ANIMALS else m[2][:-1]] for m in counted if m]
    assert exercise.answer == str(sum(legs))
    assert [int(step.partition("=")[2].partition(";")[0]) for step in exercise.steps] == legs


@given(SEEDS)
def test_who_slips_goes_on_from_the_wrong_total(rng: random.Random) -> None:
    exercise = Exercise("5+8-2", 5, (("+8=", 8), ("-2=", -2)))
    assert exercise.worked(rng, 0.0) == (["+8=13", "-2=11"], "11")
    (first, second), answer = exercise.worked(rng, 0.5)
    assert second.removeprefix("-2=") == answer
    if first == "+8=13":
        return
    assert first.startswith("+8=")


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_store_has_variants_of_the_training_problems_alone(task: Task, tmp_path: Path) -> None:
    store, variants = tasks.fill_store(task, tmp_path / "store")
    problems = {problem.problem_id: problem for problem in store.problems()}
    assert len({problem.text for problem in problems.values()}) == sum(tasks.SIZES.values())
    for variant in variants:
        problem = problems[variant.problem_id]
        assert problem.split == "train"
        assert variant.hint == problem.solution_steps[: variant.hint_steps or 0]
        assert variant.kind == "think_step" or variant.text != problem.text
    assert {v.delta_designed for v in variants} == {0.0, -2.0, -4.0, -6.0, -8.0}


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_warm_up_shows_none_of_the_problems(task: Task) -> None:
    excluded, tokenizer = tasks.held_out(task), build_tokenizer(warm.phrases(task), warm.MAX_LENGTH)
    assert len(excluded) == sum(tasks.SIZES.values())
    drawn = warm.examples(replace(task, warm_levels=task.levels), random.Random(1))
    pieces = [frame.split("{body}") for frame in task.frames]
    for example in (next(drawn) for _ in range(200)):
        text = example.prompt.split(HINT_OPENING)[0].strip()
        bodies = {
            text[len(a) : len(text) - len(b)] for a, b in pieces if text.startswith(a) and text.endswith(b)
        }
        assert bodies
        assert not bodies & excluded
        assert tokenizer.decode(tokenizer.encode(example.answer)) == example.answer


def test_the_plan_does_what_matters_most_first() -> None:
    rates = {(task, contender): 1e-4 for task in TASKS for contender in MAIN}
    runs = plan.main(plan.FULL, rates)
    assert len(runs) == len(TASKS) * len(MAIN) * len(plan.FULL.seeds)
    assert [r.seed for r in runs] == sorted(r.seed for r in runs), "breadth first"
    every = [*plan.grid(plan.FULL, {}), *runs, *plan.ablation(plan.FULL, rates), *plan.trials(plan.FULL)]
    every += plan.presets(plan.FULL)
    assert len({(r.task, r.run_id) for r in every}) == len(every)
    assert {r.contender for r in every} == set(CONTENDERS)
    assert {r.split for r in every if r.group in ("main", "ablation", "preset")} == {"test"}
    assert {r.split for r in every if r.group in ("grid", "trial")} == {"validation"}
    assert plan.grid(plan.SHORT, {}) == [], "nothing to choose"


@pytest.mark.parametrize(
    ("best", "more"),
    [
        (6e-4, []),
        (3e-4, [1.5e-4]),
        (1.5e-4, [1.5e-4, 7.5e-5]),
        (1.2e-3, [2.4e-3]),
        (2.4e-3, [2.4e-3, 4.8e-3]),
    ],
)
def test_the_grid_goes_on_beyond_an_edge_that_is_best(best: float, more: list[float]) -> None:
    plain = plan.grid(plan.FULL, {})
    runs = plan.grid(plan.FULL, {("sums", "sft"): best})
    assert [run for run in runs if run in plain] == plain
    further = [run for run in runs if run not in plain]
    assert {(run.task, run.contender) for run in further} <= {("sums", "sft")}
    assert [run.learning_rate for run in further] == pytest.approx(more)


@pytest.mark.parametrize("name", [name for name in (*MAIN, *ABLATIONS) if name != "sft"])
def test_all_contenders_have_equal_rollouts(name: str) -> None:
    settings = CONTENDERS[name].settings
    size = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    assert size == {"diva_m2": 63, "diva_m4": 60}.get(name, ROLLOUTS), "three, and five, do not divide 64"
    assert size % (settings["num_generations"] * (settings.get("num_variants", 0) + 1)) == 0


def test_supervised_training_sees_as_many_problems_a_step_as_ours() -> None:
    settings = CONTENDERS["sft"].settings
    problems = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    assert problems == ROLLOUTS / CONTENDERS["diva_taught"].settings["num_generations"]


@pytest.mark.timeout(300)
def test_from_nothing_to_runs_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(TASKS["sums"], warm_steps=2)
    monkeypatch.setattr(run, "TASKS", {"sums": small})
    monkeypatch.setattr(plan, "TASKS", {"sums": small})
    monkeypatch.setattr(tasks, "SIZES", {"train": 16, "validation": 3, "test": 5})
    prepare(tmp_path, "sums")
    model = (tmp_path / "sums" / "warm" / "model.safetensors").stat().st_mtime_ns
    prepare(tmp_path, "sums")
    assert (tmp_path / "sums" / "warm" / "model.safetensors").stat().st_mtime_ns == model
    store = VariantStore(tmp_path / "sums" / "store")
    assert store.query("SELECT count(*), max(samples) FROM labels") == [(16, run.LABEL_SAMPLES)]
    solutions = run._solutions(store, PromptBuilder(chat=False))
    trained = store.problems(where="split = 'train'")
    assert sorted(row["prompt"] for row in solutions) == sorted(f"{p.text}\n" for p in trained)
    answers = {f"{p.text}\n": p.answer for p in trained}
    right = run._exact(solutions["completion"], [answers[prompt] for prompt in solutions["prompt"]])
    assert right == [1.0] * 16
    found = json.loads((tmp_path / "sums" / preconditions.FILE).read_text())
    assert found["problems"] == 16
    assert set(found["by_steps"]) <= {"8", "9", "10"}
    assert set(found["hinted"]["opening the answer"]) >= {str(left) for left in range(8)}
    assert found["all_wrong"] == 1.0, "two steps of warm-up teach nothing"
    words = preconditions.told(tmp_path / "sums", 2, 8)
    assert "16 problems, 0.00 right" in words
    assert "each problem 1.0 times" in words

    specs = [
        RunSpec("sums", name, 1, 1e-4, "main", 2, 1) for name in ("grpo", "dapo", "diva_posterior", "sft")
    ]
    specs.append(RunSpec("sums", "diva", 1, 1e-4, "grid", 2, 1))
    # A run that was cut short leaves its beginning behind.
    with pytest.raises(KeyboardInterrupt), store.run("train", "{}", run_id=specs[0].run_id):
        raise KeyboardInterrupt
    assert plan.undone(tmp_path, specs) == specs
    for spec in specs:
        train_run(tmp_path, spec)
    assert plan.undone(tmp_path, specs) == []
    two_rates = replace(plan.SHORT, steps=2, rates=(1e-4, 2e-4))
    assert plan.chosen_rates(tmp_path, two_rates) == {("sums", "diva"): 1e-4}, "the only run of the grid"

    steps = "SELECT run_id, count(*), bool_and(rollouts >= ?), max(rollouts) = 0 FROM train_steps GROUP BY 1"
    assert {row[0]: row[1:] for row in store.query(steps, [ROLLOUTS])} == {
        s.run_id: (2, s.contender != "sft", s.contender == "sft") for s in specs
    }
    evaluated = store.query("SELECT run_id, step, split, count(*) FROM evaluations GROUP BY ALL ORDER BY ALL")
    expected = [(s.run_id, step, s.split, tasks.SIZES[s.split]) for s in specs for step in (0, 1, 2)]
    assert evaluated == sorted(expected)
    configs = dict(store.query("SELECT run_id, config FROM runs WHERE outcome = 'ok'"))
    paid = {s.contender: json.loads(configs[s.run_id])["bench"]["label_rollouts"] for s in specs}
    assert paid == {"grpo": 0, "dapo": 0, "diva": 0, "sft": 0, "diva_posterior": 16 * run.LABEL_SAMPLES}
