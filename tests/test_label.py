"""The verb label, against real endpoints on loopback."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from scipy.stats import beta

from pipeline.label import difficulty_of, label
from pipeline.solve import VERIFICATION, TeacherSolver
from pipeline.store import VariantStore
from pipeline.verify import verify
from schemas.config import LabelConfig, TeacherConfig, VerifyConfig
from schemas.records import Label, Variant
from tests.endpoints import Endpoint, Reply, serving
from tests.verbs import (
    RIGHT,
    WORDING,
    WRONG,
    part_files,
    plant,
    plant_hint,
    teacher_of,
)


@pytest.mark.parametrize(
    ("correct", "samples", "difficulty", "low", "high"),
    [
        # Beta(1, 2): F(x) = 1 - (1 - x)^2; Beta(2, 1): F(x) = x^2; Beta(1, 5): F(x) = 1 - (1 - x)^5.
        (0, 1, 9 - 8 / 3, 9 - 8 * (1 - 0.05**0.5), 9 - 8 * (1 - 0.95**0.5)),
        (1, 1, 9 - 16 / 3, 9 - 8 * 0.95**0.5, 9 - 8 * 0.05**0.5),
        (0, 4, 9 - 8 / 6, 9 - 8 * (1 - 0.05**0.2), 9 - 8 * (1 - 0.95**0.2)),
        (4, 4, 9 - 40 / 6, 9 - 8 * 0.95**0.2, 9 - 8 * 0.05**0.2),
        (2, 4, 5.0, 9 - 8 * 0.8107447, 9 - 8 * 0.1892553),
    ],
)
def test_difficulty_by_hand(correct: int, samples: int, difficulty: float, low: float, high: float) -> None:
    assert difficulty_of(correct, samples) == pytest.approx((difficulty, low, high), abs=1e-6)


def test_difficulty_is_the_posterior_through_one_line() -> None:
    for samples in (1, 2, 5, 8, 64):
        for correct in range(samples + 1):
            a, b = correct + 1, samples - correct + 1
            difficulty, low, high = difficulty_of(correct, samples)
            assert difficulty == pytest.approx(9 - 8 * a / (a + b), abs=1e-12)
            assert low == pytest.approx(9 - 8 * beta.ppf(0.95, a, b), abs=1e-9)
            assert high == pytest.approx(9 - 8 * beta.ppf(0.05, a, b), abs=1e-9)
            assert 1 <= low < difficulty < high <= 9


def _label(store: VariantStore, served: Endpoint, model: str = "m", **values: Any) -> Counter[str]:
    settings = {"problem_ids": values.pop("problem_ids", ["w/0"])}
    solver = TeacherSolver(store, teacher_of(served, model=model))
    return label(store, solver, LabelConfig(**values), **settings)


def test_labels_of_originals_and_accepted_variants(store: VariantStore) -> None:
    plant(store, 0, WORDING, status="accepted")
    plant(store, 1, WORDING, kind="harder", status="rejected")
    with serving(Endpoint(RIGHT, WRONG, WRONG, WRONG, RIGHT)) as served:
        assert _label(store, served, samples=4) == {"original": 1, "reword": 1}
    assert len(served.requests) == 8
    original, wording = store.read(Label)
    assert (original.subject_id, original.subject_kind, original.correct, original.samples) == (
        "w/0",
        "original",
        1,
        4,
    )
    assert (wording.subject_id, wording.subject_kind, wording.pass_rate) == ("w/0:reword:0", "reword", 1.0)
    assert (original.difficulty, original.difficulty_low, original.difficulty_high) == difficulty_of(1, 4)
    assert original.solver_model == "m"


def test_hint_is_in_the_question_of_a_labelled_variant(store: VariantStore) -> None:
    store.append([v.model_copy(update={"status": "accepted"}) for v in _hints(store)])
    with serving(Endpoint(RIGHT)) as served:
        _label(store, served, samples=1)
    questions = [request["messages"][1]["content"] for request in served.requests]
    assert ["Start with 3." in question for question in questions] == [False, True]


def _hints(store: VariantStore) -> list[Variant]:
    plant_hint(store, 1, ["Start with 3."], 2)
    return store.read(Variant)


def test_label_again_adds_nothing(store: VariantStore, endpoint: TeacherConfig) -> None:
    solver = TeacherSolver(store, endpoint)
    config = LabelConfig(samples=2, label_model=True)
    problems = ["w/0", "w/1", "w/2", "w/3"]
    assert label(store, solver, config, problem_ids=problems) == {"original": 4}
    before = part_files(store, "labels", "settings", "calls")
    assert label(store, solver, config, problem_ids=problems) == {}
    assert part_files(store, "labels", "settings", "calls") == before


def test_more_samples_ask_only_for_what_is_missing(store: VariantStore) -> None:
    with serving(Endpoint(RIGHT, WRONG)) as served:
        _label(store, served, samples=1)
        _label(store, served, samples=3)
    assert [request["seed"] for request in served.requests] == [0, 1, 2]
    assert [(row.correct, row.samples) for row in store.read(Label)] == [(1, 3)]


def test_fewer_samples_leave_a_better_label_alone(store: VariantStore) -> None:
    with serving(Endpoint(RIGHT)) as served:
        _label(store, served, samples=3)
        assert _label(store, served, samples=2) == {}


def test_failed_answers_are_not_judged_and_asked_again(store: VariantStore) -> None:
    with serving(Endpoint(RIGHT, Reply(b"", 500), WRONG)) as served:
        assert _label(store, served, samples=3) == {"original": 1}
        assert [(row.correct, row.samples) for row in store.read(Label)] == [(1, 2)]
        _label(store, served, samples=3)
    assert len(served.requests) == 4
    assert [(row.correct, row.samples) for row in store.read(Label)] == [(1, 3)]


def test_subject_without_any_judged_answer_has_no_label(store: VariantStore) -> None:
    with serving(Endpoint(Reply(b"", 500))) as served:
        assert _label(store, served, samples=2) == {"unjudged": 1}
    assert store.read(Label) == []
    assert store.setting("label_model") is None


def test_first_solver_is_the_label_model_until_another_is_chosen(store: VariantStore) -> None:
    with serving(Endpoint(RIGHT)) as served:
        found = []
        for model, chosen in (("first", False), ("second", False), ("third", True), ("fourth", False)):
            _label(store, served, model, samples=1, label_model=chosen)
            found.append(store.setting("label_model"))
    assert found == ["first", "first", "third", "third"]
    assert len(store.read(Label)) == 4


def test_label_model_may_be_chosen_after_its_labels_are_there(store: VariantStore) -> None:
    with serving(Endpoint(RIGHT)) as served:
        for model in ("first", "second"):
            _label(store, served, model, samples=1)
        assert _label(store, served, "second", samples=1, label_model=True) == {}
    assert store.setting("label_model") == "second"


def test_progress_of_labels_is_told_by_answer(store: VariantStore, endpoint: TeacherConfig) -> None:
    told: list[int] = []
    config = LabelConfig(samples=2)
    label(store, TeacherSolver(store, endpoint), config, limit=3, progress=told.append)
    assert sum(told) == 6


def test_label_does_not_reuse_the_answer_that_accepted_a_variant(store: VariantStore) -> None:
    plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT, WRONG)) as served:
        verify(store, TeacherSolver(store, teacher_of(served), VERIFICATION), VerifyConfig())
        label(store, TeacherSolver(store, teacher_of(served)), LabelConfig(samples=2), problem_ids=["w/0"])
    assert [request["seed"] for request in served.requests] == [VERIFICATION, 0, 1, 0, 1]
    assert [row.correct for row in store.read(Label)] == [0, 0]
