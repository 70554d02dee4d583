"""The verb label, against real endpoints on loopback."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binom, spearmanr

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.difficulty.scale import measured_difficulty
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Stages, curate
from diva_grpo.pipeline.stages.solve import VERIFICATION, policy_prompt
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.queries import answer
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.schemas.config import LabelConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.question import Question, question_of
from diva_grpo.schemas.records import Label, Problem, Variant
from diva_grpo.schemas.replies import Answer
from diva_grpo.schemas.replies import Reply as Structured
from diva_grpo.trainer.prompts import PromptBuilder
from tests.support.endpoints import Endpoint, Reply, completion, serving
from tests.support.planted_variants import RIGHT, WORDING, WRONG, part_files, plant, plant_hint, teacher_of
from tests.support.sessions import label, verify


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
    assert measured_difficulty(correct, samples) == pytest.approx((difficulty, low, high), abs=1e-6)


def test_difficulty_is_the_posterior_through_one_line() -> None:
    for samples in (1, 2, 5, 8, 64):
        for correct in range(samples + 1):
            a, b = correct + 1, samples - correct + 1
            difficulty, low, high = measured_difficulty(correct, samples)
            assert difficulty == pytest.approx(9 - 8 * a / (a + b), abs=1e-12)
            assert low == pytest.approx(9 - 8 * beta.ppf(0.95, a, b), abs=1e-9)
            assert high == pytest.approx(9 - 8 * beta.ppf(0.05, a, b), abs=1e-9)
            assert 1 <= low < difficulty < high <= 9


def _label(store: VariantStore, served: Endpoint, model: str = "m", **values: Any) -> Counter[str]:
    settings = {"problem_ids": values.pop("problem_ids", ["w/0"])}
    solver = teacher_of(served, model=model)
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
    assert (original.difficulty, original.difficulty_low, original.difficulty_high) == measured_difficulty(
        1, 4
    )
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
    solver = endpoint
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
    meter = Meter("answers")
    label(store, endpoint, LabelConfig(samples=2), meter, limit=3)
    assert meter.done == 6


def test_label_does_not_reuse_the_answer_that_accepted_a_variant(store: VariantStore) -> None:
    plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT, WRONG)) as served:
        verify(store, teacher_of(served), VerifyConfig(solver_samples=1))
        label(store, teacher_of(served), LabelConfig(samples=2), problem_ids=["w/0"])
    assert [request["seed"] for request in served.requests] == [VERIFICATION, 0, 1, 0, 1]
    assert [row.correct for row in store.read(Label)] == [0, 0]


def test_answer_cut_at_the_limit_is_judged_as_in_training(store: VariantStore) -> None:
    cut = completion("Let us see. First, Tom has 3 apples, and", finish_reason="length")
    with serving(Endpoint(RIGHT, cut)) as served:
        assert _label(store, served, samples=2) == {"original": 1}
        assert [(row.correct, row.samples) for row in store.read(Label)] == [(1, 2)]
        assert _label(store, served, samples=2) == {}
    assert len(served.requests) == 2


@pytest.mark.parametrize("system", [None, "Think, then answer."])
def test_policy_behind_an_endpoint_is_asked_as_in_training(store: VariantStore, system: str | None) -> None:
    store.append([v.model_copy(update={"status": "accepted"}) for v in _hints(store)])
    with serving(Endpoint(RIGHT)) as served, Session(store, teacher_of(served)) as session:
        stages = Stages(label=LabelConfig(samples=1), prompt=policy_prompt(system))
        curate(session, stages, problem_ids=["w/0"])
    builder = PromptBuilder(chat=True, system=system)
    problem, [variant] = store.problems(["w/0"])[0], store.read(Variant)
    expected = [builder.of_question(question_of(problem, v))[0] for v in (None, variant)]
    assert [request["messages"] for request in served.requests] == expected
    assert {request["temperature"] for request in served.requests} == {1.0}


# --- human levels


def _labelled(
    store: VariantStore, source: str, pairs: Sequence[tuple[float | None, int]], model: str = "m"
) -> None:
    """Problems with a human level, of 8 answers so many right."""
    problems = [
        Problem(problem_id=f"{source}/{i}", source=source, split="t", text="?", answer="1", human_level=level)
        for i, (level, _) in enumerate(pairs)
    ]
    store.append(problems)
    labels = []
    for problem, (_, correct) in zip(problems, pairs, strict=True):
        difficulty, low, high = measured_difficulty(correct, 8)
        labels.append(
            Label(
                subject_id=problem.problem_id,
                solver_model=model,
                subject_kind="original",
                samples=8,
                correct=correct,
                pass_rate=correct / 8,
                difficulty=difficulty,
                difficulty_low=low,
                difficulty_high=high,
            )
        )
    store.append(labels)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 8)), min_size=2, max_size=40).filter(
        lambda pairs: all(len(set(column)) > 1 for column in zip(*pairs, strict=True))
    ),
)
def test_human_agreement_is_spearmans_coefficient(store: VariantStore, pairs: list[tuple[int, int]]) -> None:
    source = str(uuid4())  # the examples share a store: no drawn name, which could come twice
    _labelled(store, source, pairs)
    found = next(row for row in answer(store, "agreement") if row["source"] == source)
    expected = spearmanr(
        [level for level, _ in pairs], [measured_difficulty(c, 8)[0] for _, c in pairs]
    ).statistic
    assert found["problems"] == len(pairs)
    assert found["spearman"] == pytest.approx(expected, abs=1e-9)


def test_human_agreement_is_by_source_and_solver_and_may_be_none(store: VariantStore) -> None:
    _labelled(store, "a", [(1, 8), (3, 5), (5, 0), (None, 8)])
    _labelled(store, "b", [(1, 0), (2, 8)])
    _labelled(store, "b", [(1, 8), (2, 4)], model="n")
    _labelled(store, "c", [(1, 0), (1, 8)])
    found = [tuple(row.values()) for row in answer(store, "agreement")]
    assert found == [("a", "m", 3, 1.0), ("b", "m", 2, -1.0), ("b", "n", 2, 1.0), ("c", "m", 2, None)]


def test_status_shows_the_agreement(store: VariantStore, capsys: pytest.CaptureFixture[str]) -> None:
    _labelled(store, "a", [(1, 8), (3, 5), (5, 0)])
    cli.main(["status", "--store", str(store.root)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert re.search(r"measured difficulty.*\n.*spearman\n.*\na +m +3 +1", shown), shown


# --- a planted difficulty: D uniform over [1, 9], the solver's chance p(D) = 1 / (1 + exp(D - 5))


def _chance(difficulty: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(difficulty - 5))


class _LogisticSolver:
    """Right by chance, the chance of a problem being logistic in its planted difficulty with slope 1."""

    model = "logistic"

    def __init__(self, planted: Mapping[str, float]) -> None:
        self._planted, self._rng = planted, np.random.default_rng(5)

    def solve(
        self, questions: Sequence[Question], samples: int, progress: Any = None
    ) -> list[list[Answer[Structured]]]:
        chances = _chance(np.array([self._planted[question.subject_id] for question in questions]))
        right = self._rng.random((len(questions), samples)) < chances[:, None]
        return [
            [Answer(None, f"\\boxed{{{question.answer if hit else '-1'}}}") for hit in row]
            for question, row in zip(questions, right, strict=True)
        ]


def _recovery(
    planted: NDArray[np.float64], labels: Sequence[tuple[float, float, float]]
) -> tuple[float, float]:
    """Spearman between planted and measured difficulty, and how many intervals hold the truth.

    A label estimates 9 - 8 p, so its truth is 9 - 8 p(D), which rises with D: the ranks are those of D.
    """
    difficulty, low, high = np.array(labels).T
    truth = 9 - 8 * _chance(planted)
    return spearmanr(difficulty, planted).statistic, float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.slow
def test_labels_recover_a_planted_difficulty(tmp_path: Path) -> None:
    planted = np.random.default_rng(4).uniform(1, 9, 2_000)
    store = VariantStore(tmp_path / "planted", create=True)
    store.append(
        [
            Problem(problem_id=f"p/{i:04}", source="p", split="t", text="?", answer=str(i))
            for i in range(len(planted))
        ]
    )
    ids = [problem.problem_id for problem in store.problems()]
    solver = _LogisticSolver(dict(zip(ids, planted.tolist(), strict=True)))
    assert label(store, solver, LabelConfig(samples=8)) == {"original": 2_000}
    labels = [(row.difficulty, row.difficulty_low, row.difficulty_high) for row in store.read(Label)]
    spearman, held = _recovery(planted, labels)
    assert spearman >= 0.92
    assert 0.85 <= held <= 0.95


def test_recovery_over_many_problems_and_by_exact_sums() -> None:
    rng = np.random.default_rng(6)
    planted = rng.uniform(1, 9, 300_000)
    labels = [measured_difficulty(correct, 8) for correct in range(9)]
    spearman, held = _recovery(planted, [labels[c] for c in rng.binomial(8, _chance(planted))])
    assert spearman == pytest.approx(0.928, abs=0.001)
    assert held == pytest.approx(0.892, abs=0.002)
    # The share held without any drawing: the mean over D of the chance of those c whose interval has 9 - 8 p(D).
    levels = np.linspace(1, 9, 20_001)
    truth = 9 - 8 * _chance(levels)
    exact = sum(
        binom.pmf(c, 8, _chance(levels)) * ((low <= truth) & (truth <= high))
        for c, (_, low, high) in enumerate(labels)
    )
    assert float(np.mean(exact)) == pytest.approx(held, abs=0.002)
