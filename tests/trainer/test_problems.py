"""Samplers of problems: against their scalar oracle, and what must hold of any draw."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diva_grpo.trainer.method.curriculum import Curriculum, CurriculumSettings
from diva_grpo.trainer.method.problems import EASY, HARD, ProblemHistory, draw_problems
from diva_grpo.trainer.method.selection import Draw
from tests.support.scalar_samplers import ScalarHistory

SAMPLERS = ("difficulty", "pool")
Visits = list[tuple[int, int]]


def _history(priors: list[float]) -> tuple[ProblemHistory, np.ndarray[Any, Any]]:
    return ProblemHistory(np.zeros((len(priors), 2))), np.array(priors)


@given(
    st.sampled_from(SAMPLERS),
    st.lists(st.floats(0, 1), min_size=1, max_size=40),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150)
def test_draws_are_those_of_the_oracle(
    sampler: str, priors: list[float], count: int, revisit: float, seed: int, random: Any
) -> None:
    count = min(count, len(priors))
    history, prior_N = _history(priors)
    oracle = ScalarHistory(priors)
    for turn in range(5):
        step = turn // 2  # two draws of one step, then of the next
        generator = np.random.default_rng(Draw(seed, oracle.drawn, "problems").index(2**52, 0, sampler))
        expected = oracle.draw(sampler, count, step, revisit, generator)
        drawn = draw_problems(sampler, history, prior_N, count, step, seed=seed, revisit=revisit)
        assert dict(zip(drawn.problem_P.tolist(), drawn.chosen_P.tolist(), strict=True)) == expected
        judged = [random.choice([0, 4, 4, 4]) for _ in range(count)]
        right = [random.choice([0, n // 2, n]) for n in judged]
        history.observe(drawn.problem_P, np.array(right, float), np.array(judged, float))
        for number, r, n in zip(drawn.problem_P.tolist(), right, judged, strict=True):
            oracle.visit(number, r, n)
    names = {EASY: "easy", HARD: "hard"}
    assert [names.get(value, "mixed") for value in history.outcome_N.tolist()] == [
        seen.outcome for seen in oracle.problems
    ]
    counts = [(seen.right, seen.wrong) for seen in oracle.problems]
    assert history.count_N2.tolist() == [pytest.approx(pair) for pair in counts]


@given(st.sampled_from(SAMPLERS), st.integers(1, 30), st.data())
def test_no_problem_comes_twice_in_a_step_while_there_are_others(
    sampler: str, problems: int, data: Any
) -> None:
    count = data.draw(st.integers(1, problems))
    history, prior_N = _history([0.5] * problems)
    seen: list[int] = []
    for _ in range(problems // count):
        drawn = draw_problems(sampler, history, prior_N, count, 7, seed=1, revisit=0.1)
        assert "filled" not in drawn.chosen_P.tolist()
        history.observe(drawn.problem_P, np.zeros(count), np.full(count, 4.0))
        seen += drawn.problem_P.tolist()
    assert len(set(seen)) == len(seen)
    rest = draw_problems(sampler, history, prior_N, count, 7, seed=1, revisit=0.1)
    assert len(set(rest.problem_P.tolist())) == count
    assert rest.chosen_P.tolist().count("filled") == count - (problems - len(seen))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_is_a_function_of_seed_and_history(sampler: str) -> None:
    history, prior_N = _history([0.5] * 50)

    def after(state: ProblemHistory, seed: int) -> list[list[int]]:
        mine, found = copy.deepcopy(state), []
        for step in range(4):
            drawn = draw_problems(sampler, mine, prior_N, 5, step, seed=seed, revisit=0.2)
            mine.observe(drawn.problem_P, (drawn.problem_P % 5).astype(float), np.full(5, 4.0))
            found.append(drawn.problem_P.tolist())
        return found

    assert after(history, 1) == after(history, 1)
    assert after(history, 1) != after(history, 2)
    drawn = after(history, 1)
    assert len({tuple(sorted(numbers)) for numbers in drawn}) == 4, "each draw has random numbers of its own"


def _run(sampler: str, rates: np.ndarray[Any, Any], draws: int, revisit: float = 0.05) -> tuple[Any, Any]:
    """Visits of each problem, and how they were chosen, of a policy that stays as it is."""
    rng = np.random.default_rng(0)
    history, prior_N = _history([0.5] * len(rates))
    visits, chosen = np.zeros(len(rates)), []
    for step in range(draws):
        drawn = draw_problems(sampler, history, prior_N, 8, step, seed=0, revisit=revisit)
        right = rng.binomial(8, rates[drawn.problem_P]).astype(float)
        history.observe(drawn.problem_P, right, np.full(8, 8.0))
        visits[drawn.problem_P] += 1
        chosen += drawn.chosen_P.tolist()
    return visits, chosen


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_problems_with_a_signal_come_more_often_and_none_is_forgotten(sampler: str) -> None:
    rates = np.repeat([0.0, 0.5, 1.0], 40)
    visits, chosen = _run(sampler, rates, 300)
    per_visit = visits.reshape(3, 40).mean(axis=1)
    assert per_visit[1] > 4 * per_visit[0]
    assert per_visit[1] > 4 * per_visit[2]
    assert visits.min() >= 2, "exploration"
    if sampler == "pool":
        assert set(chosen) == {"open", "revisit"}
        assert 0.03 < chosen.count("revisit") / len(chosen) < 0.08


def test_pool_without_revisits_leaves_silent_problems_alone() -> None:
    visits, chosen = _run("pool", np.repeat([0.0, 0.5], 20), 60, revisit=0.0)
    assert visits[:20].tolist() == [1] * 20
    assert set(chosen) == {"open"}


def test_what_was_hard_and_becomes_possible_comes_back() -> None:
    rng = np.random.default_rng(0)
    for sampler in SAMPLERS:
        history, prior_N = _history([0.5] * 60)
        visits = np.zeros((2, 60))
        for step in range(300):
            rates = np.where(np.arange(60) < 20, 0.0 if step < 100 else 0.5, 0.4)
            drawn = draw_problems(sampler, history, prior_N, 6, step, seed=0, revisit=0.05)
            history.observe(
                drawn.problem_P, rng.binomial(8, rates[drawn.problem_P]).astype(float), np.full(6, 8.0)
            )
            visits[int(step >= 200), drawn.problem_P] += 1
        late = visits[1]
        assert late[:20].mean() > 0.5 * late[20:].mean(), sampler


def test_a_curriculum_continues_from_its_state() -> None:
    options = CurriculumSettings(variants=0, problem_sampler="difficulty", seed=3)
    ids = [f"p{i}" for i in range(30)]

    def go(curriculum: Curriculum, steps: range) -> list[list[int]]:
        found = []
        for step in steps:
            drawn = curriculum.draw(4, step)
            choice = curriculum.choose(drawn.problem_P, None, step, drawn.chosen_P)
            accuracy_PVN = (drawn.problem_P[:, None, None] + np.arange(4) + step) % 3 == 0
            curriculum.observe(choice, accuracy_PVN.astype(float))
            more = curriculum.replacements(choice, np.array([True, False, False, True]), step, 1)
            found.append([*drawn.problem_P.tolist(), *more.tolist()])
        return found

    whole = Curriculum(ids, options)
    expected = go(whole, range(12))
    first = Curriculum(ids, options)
    begun = go(first, range(5))
    state = first.state_dict()
    go(first, range(5, 7))  # a state is a copy
    second = Curriculum(ids, options)
    second.load_state_dict(state)
    assert begun + go(second, range(5, 12)) == expected
    assert all(len(set(step)) == 8 for step in expected), "a refill takes others than the batch"
    metrics = whole.metrics(whole.choose(np.arange(4), None, 0), np.array([[[1.0, 0.0]]] * 4))
    assert metrics["problems/signal"] == 0.25
    assert metrics["problems/easy"] == (whole.history.outcome_N == EASY).mean()
