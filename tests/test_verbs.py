"""The verbs generate, verify and label, against real endpoints on loopback."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture
from scipy.stats import beta

from pipeline.generate import designed_delta, generate
from pipeline.label import difficulty_of, label
from pipeline.solve import VERIFICATION, TeacherSolver
from pipeline.store import VariantStore
from pipeline.verify import verify
from schemas.config import GenerateConfig, LabelConfig, TeacherConfig, VerifyConfig
from schemas.exceptions import ConfigError
from schemas.records import Image, Kind, Label, Problem, Variant
from tests.endpoints import Endpoint, Reply, completion, serving

ALL_KINDS = GenerateConfig(kinds=(Kind.REWORD, Kind.HARDER, Kind.THINK_STEP))
REWORD = GenerateConfig(kinds=(Kind.REWORD,), rewordings=2)
STEPS = GenerateConfig(kinds=(Kind.THINK_STEP,))
TWO_WORDINGS = completion(
    json.dumps({"rewordings": ["Tom had 3 apples, then 4 more.", "3 apples and 4 apples?"]})
)
SOLUTION = completion(json.dumps({"steps": ["Start with 3.", "Add 4."], "answer": "7"}))


def _config(served: Endpoint, **values: Any) -> TeacherConfig:
    defaults = {"model": "m", "base_url": served.url, "max_retries": 0, "concurrency": 1, "endpoint": "test"}
    return TeacherConfig.model_validate(defaults | values)


def _files(store: VariantStore, *tables: str) -> set[str]:
    return {path.name for table in tables for path in (store.root / table).iterdir()}


def _status(store: VariantStore, columns: str = "status, count(*)") -> list[tuple[Any, ...]]:
    return store.query(f"SELECT {columns} FROM variants GROUP BY ALL ORDER BY ALL")


# --- generate


def test_generate_writes_candidates_of_every_kind(store: VariantStore, endpoint: TeacherConfig) -> None:
    counts = generate(store, endpoint, ALL_KINDS)
    # Five problems with five wordings and two harder texts; four have a solution of two steps, one has none.
    assert counts == {"candidate": 5 * 5 + 5 * 2 + 4 * 2, "failed": 1}
    assert _status(store, "kind, status, count(*)") == [
        ("harder", "candidate", 10),
        ("reword", "candidate", 25),
        ("think_step", "candidate", 8),
        ("think_step", "failed", 1),
    ]
    [(reason, text)] = store.query("SELECT reason, text FROM variants WHERE status = 'failed'")
    assert (reason, text) == ("refusal: the scripted teacher has no solution for this problem", None)


def test_ids_are_the_same_on_every_run(
    word_problems: list[Problem], endpoint: TeacherConfig, tmp_path: Path
) -> None:
    found = []
    for name, problems in (("a", word_problems), ("b", word_problems[::-1])):
        store = VariantStore(tmp_path / name, create=True)
        store.append(problems)
        generate(store, endpoint.model_copy(update={"concurrency": 3}), ALL_KINDS)
        found.append(store.query("SELECT variant_id, text, hint FROM variants ORDER BY variant_id"))
    assert found[0] == found[1]
    assert len({row[0] for row in found[0]}) == 5 * 5 + 5 * 2 + 4 * 2 + 1


def test_generate_again_does_nothing(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, ALL_KINDS)
    before = _files(store, "variants", "calls")
    assert generate(store, endpoint, ALL_KINDS) == {}
    assert _files(store, "variants", "calls") == before


def test_generate_asks_only_for_missing_kinds(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, REWORD)
    counts = generate(store, endpoint, ALL_KINDS)
    assert counts == {"candidate": 10 + 8, "failed": 1}
    assert store.query("SELECT count(*) FROM calls WHERE purpose = 'reword'") == [(5,)]


def test_another_model_writes_variants_of_its_own(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, REWORD)
    generate(store, endpoint.model_copy(update={"model": "another"}), REWORD)
    assert _status(store, "generator_model, count(*)") == [("another", 10), ("scripted-teacher", 10)]


def test_generate_keeps_to_the_problems_that_it_is_given(
    store: VariantStore, endpoint: TeacherConfig
) -> None:
    generate(store, endpoint, REWORD, limit=2)
    assert _status(store, "problem_id") == [("w/0",), ("w/1",)]
    generate(store, endpoint, REWORD, problem_ids=["w/3"])
    assert _status(store, "problem_id") == [("w/0",), ("w/1",), ("w/3",)]


@pytest.mark.parametrize(
    ("config", "good"), [(REWORD, TWO_WORDINGS), (STEPS, SOLUTION)], ids=["reword", "think"]
)
def test_failed_variant_is_asked_for_again_only_on_demand(
    store: VariantStore, config: GenerateConfig, good: Reply
) -> None:
    retry = config.model_copy(update={"retry_failed": True})
    with serving(Endpoint(Reply(b"", 500), good)) as served:
        assert generate(store, _config(served), config, limit=1) == {"failed": 1}
        assert generate(store, _config(served), config, limit=1) == {}
        assert generate(store, _config(served), retry, limit=1) == {"candidate": 2}
        assert generate(store, _config(served), retry, limit=1) == {}
    assert len(served.requests) == 2
    assert _status(store) == [("candidate", 2)], "a failed row is left beside the variants"


@pytest.mark.parametrize(
    ("config", "content"), [(REWORD, '{"rewordings": []}'), (STEPS, '{"steps": [], "answer": "7"}')]
)
def test_empty_answer_is_a_failed_variant(store: VariantStore, config: GenerateConfig, content: str) -> None:
    with serving(Endpoint(completion(content))) as served:
        generate(store, _config(served), config, limit=1)
    assert _status(store, "status, reason") == [("failed", "schema: an empty list")]


def test_unreachable_endpoint_makes_failed_variants_with_the_reason(store: VariantStore) -> None:
    config = TeacherConfig(model="m", base_url="http://127.0.0.1:9/v1", max_retries=0)
    assert generate(store, config, REWORD) == {"failed": 5}
    [(reason,)] = _status(store, "reason")
    assert reason.startswith("network: ")


def test_kind_that_no_teacher_writes_is_one_line(store: VariantStore, endpoint: TeacherConfig) -> None:
    with pytest.raises(
        ConfigError, match="kind image is not written by a teacher: choose from reword, harder"
    ):
        generate(store, endpoint, GenerateConfig(kinds=(Kind.IMAGE,)))


def test_lost_records_cost_no_second_request(store: VariantStore) -> None:
    with serving(Endpoint(TWO_WORDINGS)) as served:
        generate(store, _config(served), REWORD)
        for part in (store.root / "variants").glob("*-*.parquet"):
            if "empty" not in part.name:
                part.unlink()
        assert generate(store, _config(served), REWORD) == {"candidate": 10}
    assert len(served.requests) == 5


def test_progress_adds_up_on_every_run(store: VariantStore, endpoint: TeacherConfig) -> None:
    for _ in range(2):
        told: list[int] = []
        generate(store, endpoint, ALL_KINDS, progress=told.append)
        assert sum(told) == 5 * 3


def test_request_names_the_count_and_the_problem(store: VariantStore) -> None:
    with serving(Endpoint(TWO_WORDINGS)) as served:
        generate(store, _config(served), REWORD, limit=1)
    [request] = served.requests
    assert "Write 2 distinct rewordings" in request["messages"][1]["content"]
    assert "Tom has 3 apples." in request["messages"][1]["content"]


def test_options_are_shown_to_the_solver_and_not_to_the_rewriter(store: VariantStore) -> None:
    choice = Problem(
        problem_id="a/0", source="a", split="train", text="Pick.", answer="B", options=["one", "two"]
    )
    store.append([choice])
    with serving(Endpoint(TWO_WORDINGS)) as served:
        for config in (REWORD, STEPS):
            generate(store, _config(served), config, problem_ids=["a/0"])
    shown = ["(B) two" in request["messages"][1]["content"] for request in served.requests]
    assert shown == [False, True]


def test_images_of_a_problem_are_sent(store: VariantStore) -> None:
    buffer = io.BytesIO()
    Picture.new("RGB", (2, 2)).save(buffer, "PNG")
    digest = store.put_image(buffer.getvalue(), "PNG")
    image = Image(hash=digest, width=2, height=2)
    store.append(
        [Problem(problem_id="a/0", source="a", split="t", text="<image> What?", answer="1", images=[image])]
    )
    with serving(Endpoint(TWO_WORDINGS)) as served:
        generate(store, _config(served), REWORD, problem_ids=["a/0"])
    assert [part["type"] for part in served.requests[0]["messages"][1]["content"]] == ["image_url", "text"]


@pytest.mark.parametrize(
    ("total", "deltas"),
    [
        (1, [-8]),
        (2, [-2, -8]),
        (3, [-2, -4, -8]),
        (4, [-2, -4, -6, -8]),
        (6, [-2, -4, -6, -6, -6, -8]),
    ],
)
def test_think_steps_are_rows_with_growing_hints(
    store: VariantStore, total: int, deltas: list[float]
) -> None:
    steps = [f"Step {j}." for j in range(1, total + 1)]
    with serving(Endpoint(completion(json.dumps({"steps": steps, "answer": "7"})))) as served:
        generate(store, _config(served), STEPS, limit=1)
    rows = store.query(
        "SELECT hint_steps, hint, hint_total, delta_designed, text FROM variants ORDER BY hint_steps"
    )
    text = store.problems(limit=1)[0].text
    assert rows == [(j, steps[:j], total, deltas[j - 1], text) for j in range(1, total + 1)]


def test_designed_deltas_of_texts() -> None:
    assert (designed_delta("reword"), designed_delta("harder")) == (0, 2)


# --- verify


def _plant(store: VariantStore, number: int, text: str, kind: str = "reword", **values: Any) -> str:
    variant = Variant.model_validate(
        {
            "variant_id": f"w/0:{kind}:{number}",
            "problem_id": "w/0",
            "kind": kind,
            "text": text,
            "generator_model": "m",
            "prompt_version": "1",
        }
        | values
    )
    store.append([variant])
    return variant.variant_id


def _hint(store: VariantStore, number: int, hint: Sequence[str], total: int, answer: str = "7") -> str:
    text = store.problems(["w/0"])[0].text
    values = {"hint": list(hint), "hint_steps": len(hint), "hint_total": total, "solution_answer": answer}
    return _plant(store, number, text, "think_step", **values)


def _verify(store: VariantStore, served: Endpoint, config: VerifyConfig | None = None) -> Counter[str]:
    return verify(store, TeacherSolver(store, _config(served)), config or VerifyConfig())


def _outcome(store: VariantStore, variant_id: str) -> tuple[str, str | None]:
    [row] = store.query("SELECT status, reason FROM variants WHERE variant_id = ?", [variant_id])
    return row[0], row[1]


WORDING = "Tom owns 3 apples and buys another 4. How many has he in the end?"
RIGHT, WRONG = completion("so \\boxed{7}"), completion("so \\boxed{8}")


def test_every_candidate_gets_a_terminal_status_with_a_reason(
    store: VariantStore, endpoint: TeacherConfig
) -> None:
    generate(store, endpoint, ALL_KINDS)
    counts = verify(store, TeacherSolver(store, endpoint), VerifyConfig())
    # w/4 has no solution: its texts cannot be verified; all others are right, and full hints end at the answer.
    assert counts == {"accepted": 4 * 5 + 4 * 2 + 8, "failed": 7}
    assert store.query("SELECT count(*) FROM variants WHERE status = 'candidate'") == [(0,)]
    assert store.query("SELECT count(*) FROM variants WHERE (status = 'accepted') <> (reason IS NULL)") == [
        (0,)
    ]


def test_every_check_of_an_accepted_variant_has_its_verdict(store: VariantStore) -> None:
    text, hint = _plant(store, 0, WORDING), _hint(store, 0, ["Start with 3."], 2)
    with serving(Endpoint(RIGHT)) as served:
        assert _verify(store, served) == {"accepted": 2}
    rows = store.query("SELECT variant_id, check_name, model, passed FROM verdicts ORDER BY ALL")
    checks = ["answer", "duplicate", "format", "leak"]
    assert rows == [(text, name, "m" if name == "answer" else "", True) for name in checks] + [
        (hint, name, "", True) for name in checks
    ]
    assert len(served.requests) == 1, "a hint's solution states its own answer"


FAULTS: dict[str, tuple[str, str]] = {
    "preamble": (f"Sure! {WORDING}", "format: preamble"),
    "too short": ("Apples?", "format: length"),
    "placeholder": (f"<image> {WORDING}", "format: image placeholders"),
    "leak": (f"{WORDING} The answer is 7.", "leak: the text states the answer '7'"),
    "copy of the original": (
        "tom has 3 apples. He buys 4 more.  How many apples has he now",
        "duplicate: copy of the o",
    ),
    "altered": (WORDING.replace("3", "4"), "answer: the solver answers '8', not '7'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_rejected_by_the_right_check(store: VariantStore, fault: str) -> None:
    text, reason = FAULTS[fault]
    planted, sound = _plant(store, 0, text), _plant(store, 1, WORDING)
    with serving(Endpoint(*([WRONG] if fault == "altered" else []), RIGHT)) as served:
        assert _verify(store, served) == {"rejected": 1, "accepted": 1}
    status, why = _outcome(store, planted)
    assert status == "rejected"
    assert why is not None
    assert why.startswith(reason)
    assert _outcome(store, sound) == ("accepted", None)
    check = reason.split(":")[0]
    assert store.query("SELECT check_name FROM verdicts WHERE NOT passed") == [(check,)]
    assert len(served.requests) == (2 if check == "answer" else 1), "cheap checks spare the solver"


def test_wrong_solution_is_rejected_with_all_its_hints(store: VariantStore) -> None:
    hints = [_hint(store, j, ["Start with 3.", "3 + 4 = 8"][:j], 2, answer="8") for j in (1, 2)]
    with serving(Endpoint()) as served:
        _verify(store, served)
    assert {_outcome(store, hint) for hint in hints} == {
        ("rejected", "answer: the solution ends at '8', not '7'")
    }
    assert served.requests == []


def test_hint_that_gives_the_answer_away_is_rejected(store: VariantStore) -> None:
    hints = [_hint(store, j, ["3 + 4 = 7", "So he has 7."][:j], 2) for j in (1, 2)]
    with serving(Endpoint()) as served:
        _verify(store, served)
    assert _outcome(store, hints[0]) == ("rejected", "leak: the hint states the answer '7'")
    assert _outcome(store, hints[1]) == ("accepted", None)


def test_second_of_two_equal_siblings_is_rejected(store: VariantStore) -> None:
    first, second = _plant(store, 0, WORDING), _plant(store, 1, WORDING.upper())
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert _outcome(store, first) == ("accepted", None)
    assert _outcome(store, second) == ("rejected", "duplicate: copy of a sibling")


def test_copy_of_a_sibling_that_was_accepted_before_is_rejected(store: VariantStore) -> None:
    _plant(store, 5, WORDING, status="accepted")
    copy = _plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert _outcome(store, copy) == ("rejected", "duplicate: copy of a sibling")


def test_copy_of_a_sibling_that_was_rejected_is_judged_by_itself(store: VariantStore) -> None:
    _plant(store, 5, WORDING, status="rejected")
    copy = _plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert _outcome(store, copy) == ("accepted", None)


@pytest.mark.parametrize(
    ("replies", "status", "reason"),
    [
        ([RIGHT, RIGHT, WRONG], "accepted", None),
        ([WRONG, RIGHT, WRONG], "rejected", "answer: the solver answers '8', not '7'"),
        ([RIGHT, WRONG, completion("who knows")], "rejected", "answer: the solver is of two minds"),
        ([RIGHT, WRONG, Reply(b"", 500)], "rejected", "answer: the solver is of two minds"),
        ([Reply(b"", 500), Reply(b"", 500), RIGHT], "accepted", None),
        ([completion("")] * 3, "rejected", "answer: the solver answers nothing, not '7'"),
    ],
)
def test_majority_of_independent_solutions_decides(
    store: VariantStore, replies: list[Reply], status: str, reason: str | None
) -> None:
    variant = _plant(store, 0, WORDING)
    with serving(Endpoint(*replies)) as served:
        _verify(store, served, VerifyConfig(solver_samples=3))
    found, why = _outcome(store, variant)
    assert found == status
    assert (why or "").startswith(reason or "")
    assert [request["seed"] for request in served.requests] == [0, 1, 2]


def test_variant_without_a_verdict_has_failed_and_is_tried_again_on_demand(store: VariantStore) -> None:
    variant = _plant(store, 0, WORDING)
    with serving(Endpoint(Reply(b"", 500), RIGHT)) as served:
        assert _verify(store, served) == {"failed": 1}
        status, reason = _outcome(store, variant)
        assert (status, (reason or "")[:16]) == ("failed", "answer: http_500")
        assert store.query("SELECT passed FROM verdicts WHERE check_name = 'answer'") == [(None,)]
        assert _verify(store, served) == {}
        assert _verify(store, served, VerifyConfig(retry_failed=True)) == {"accepted": 1}
    assert store.query("SELECT passed FROM verdicts WHERE check_name = 'answer'") == [(True,)]


def test_variant_that_was_never_written_is_not_verified_again(store: VariantStore) -> None:
    with serving(Endpoint(Reply(b"", 500))) as served:
        generate(store, _config(served), REWORD, limit=1)
        assert _verify(store, served, VerifyConfig(retry_failed=True)) == {}
    assert len(served.requests) == 1


def test_without_the_answer_check_no_solver_is_asked(store: VariantStore) -> None:
    _plant(store, 0, WORDING)
    with serving(Endpoint()) as served:
        assert _verify(store, served, VerifyConfig(checks=("format", "duplicate"))) == {"accepted": 1}
    assert served.requests == []
    assert store.query("SELECT check_name FROM verdicts ORDER BY 1") == [("duplicate",), ("format",)]


def test_verify_again_does_nothing(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, ALL_KINDS)
    solver = TeacherSolver(store, endpoint)
    verify(store, solver, VerifyConfig())
    before = _files(store, "variants", "verdicts", "calls")
    assert verify(store, solver, VerifyConfig()) == {}
    assert _files(store, "variants", "verdicts", "calls") == before


def test_verify_keeps_to_the_problems_that_it_is_given(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, REWORD)
    verify(store, TeacherSolver(store, endpoint), VerifyConfig(), problem_ids=["w/1"])
    assert _status(store, "problem_id, status") == [
        ("w/0", "candidate"),
        ("w/1", "accepted"),
        ("w/2", "candidate"),
        ("w/3", "candidate"),
        ("w/4", "candidate"),
    ]


def test_wording_of_a_choice_is_solved_with_its_options(store: VariantStore) -> None:
    options = ["five", "seven"]
    store.append(
        [
            Problem(
                problem_id="w/0", source="w", split="t", text="3 apples and 4?", answer="B", options=options
            )
        ]
    )
    variant = _plant(store, 0, "How many are 3 and 4 apples?")
    with serving(Endpoint(completion("\\boxed{B}"))) as served:
        _verify(store, served)
    assert "(B) seven" in served.requests[0]["messages"][1]["content"]
    assert _outcome(store, variant) == ("accepted", None)


def test_label_does_not_reuse_the_answer_that_accepted_a_variant(store: VariantStore) -> None:
    _plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT, WRONG)) as served:
        verify(store, TeacherSolver(store, _config(served), VERIFICATION), VerifyConfig())
        label(store, TeacherSolver(store, _config(served)), LabelConfig(samples=2), problem_ids=["w/0"])
    assert [request["seed"] for request in served.requests] == [VERIFICATION, 0, 1, 0, 1]
    assert [row.correct for row in store.read(Label)] == [0, 0]


# --- label


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
    solver = TeacherSolver(store, _config(served, model=model))
    return label(store, solver, LabelConfig(**values), **settings)


def test_labels_of_originals_and_accepted_variants(store: VariantStore) -> None:
    _plant(store, 0, WORDING, status="accepted")
    _plant(store, 1, WORDING, kind="harder", status="rejected")
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
    _hint(store, 1, ["Start with 3."], 2)
    return store.read(Variant)


def test_label_again_adds_nothing(store: VariantStore, endpoint: TeacherConfig) -> None:
    solver = TeacherSolver(store, endpoint)
    config = LabelConfig(samples=2, label_model=True)
    problems = ["w/0", "w/1", "w/2", "w/3"]
    assert label(store, solver, config, problem_ids=problems) == {"original": 4}
    before = _files(store, "labels", "settings", "calls")
    assert label(store, solver, config, problem_ids=problems) == {}
    assert _files(store, "labels", "settings", "calls") == before


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
