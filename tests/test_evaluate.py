"""The policy as a solver, and scores with their standard errors."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.label import label
from schemas.config import LabelConfig
from schemas.question import Question
from schemas.records import Label
from tests.tiny import planted_store
from trainer.evaluate import evaluate, score
from trainer.policy import PolicySolver


@given(st.lists(st.integers(0, 4), min_size=2, max_size=20))
def test_score_against_counting_by_hand(correct: list[int]) -> None:
    result = score(correct, 4)
    shares = [c / 4 for c in correct]
    assert result.pass_at_1 == pytest.approx(statistics.mean(shares))
    assert result.standard_error == pytest.approx(statistics.stdev(shares) / len(shares) ** 0.5)
    answers = [[1] * c + [0] * (4 - c) for c in correct]
    pairs = [statistics.mean(max(pair) for pair in itertools.combinations(a, 2)) for a in answers]
    assert result.pass_at_k[2] == pytest.approx(statistics.mean(pairs))
    assert result.pass_at_k[1] == pytest.approx(result.pass_at_1)


def test_answers_are_in_order_whatever_their_length(model_path: Path) -> None:
    solver = PolicySolver(str(model_path), hint_style="prefix", max_new_tokens=4, batch_size=3)
    questions = [
        Question(str(i), str(i), "x" * (7 * (5 - i) % 11 + 1), "1", hint=(f"step {i}",)) for i in range(5)
    ]
    answers = solver.solve(questions, 2)
    assert [len(given) for given in answers] == [2] * 5
    for i, given_answers in enumerate(answers):
        assert all(answer.text.startswith(f"step {i}\n") for answer in given_answers)
    assert answers == solver.solve(questions, 2), "the same seed, the same answers"


def test_a_chat_policy_answers(chat_model_path: Path) -> None:
    [[answer]] = PolicySolver(str(chat_model_path), max_new_tokens=3).solve(
        [Question("a", "a", "2 + 2", "4")], 1
    )
    assert answer.failure is None
    assert answer.text


def test_evaluations_and_labels_of_a_policy(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=3)
    solver = PolicySolver(str(model_path), max_new_tokens=3, name="policy")
    result = evaluate(store, solver, store.problems(), samples=2, run_id="r", step=7)
    rows = store.query("SELECT run_id, step, split, count(*), sum(samples) FROM evaluations GROUP BY ALL")
    assert rows == [("r", 7, "train", 3, 6)]
    assert result.problems == 3
    counts = label(store, solver, LabelConfig(samples=2))
    assert counts == {"original": 3, "reword": 3, "think_step": 6}
    assert {row.solver_model for row in store.read(Label)} == {"policy"}
    assert store.setting("label_model") == "policy"
