"""The verb verify, against real endpoints on loopback."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.judge import Judge
from diva_grpo.pipeline.stages.solve import VERIFICATION
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Problem
from tests.support.endpoints import Endpoint, Reply, completion, serving
from tests.support.planted_variants import (
    ALL_KINDS,
    REWORD,
    RIGHT,
    WORDING,
    WRONG,
    part_files,
    plant,
    plant_hint,
    teacher_of,
    variants_by,
)
from tests.support.sessions import generate, verify


def _verify(store: VariantStore, served: Endpoint, config: VerifyConfig | None = None) -> Counter[str]:
    return verify(store, teacher_of(served), config or VerifyConfig(solver_samples=1))


def _outcome(store: VariantStore, variant_id: str) -> tuple[str, str | None]:
    [row] = store.query("SELECT status, reason FROM variants WHERE variant_id = ?", [variant_id])
    return row[0], row[1]


def test_every_candidate_gets_a_terminal_status_with_a_reason(
    store: VariantStore, endpoint: TeacherConfig
) -> None:
    generate(store, endpoint, ALL_KINDS)
    counts = verify(store, endpoint, VerifyConfig(solver_samples=1))
    # w/4 has no solution: its texts cannot be verified; all others are right, and full hints end at the answer.
    assert counts == {"accepted": 4 * 5 + 4 * 2 + 8, "failed": 7}
    assert store.query("SELECT count(*) FROM variants WHERE status = 'candidate'") == [(0,)]
    assert store.query("SELECT count(*) FROM variants WHERE (status = 'accepted') <> (reason IS NULL)") == [
        (0,)
    ]


def test_every_check_of_an_accepted_variant_has_its_verdict(store: VariantStore) -> None:
    text, hint = plant(store, 0, WORDING), plant_hint(store, 0, ["Start with 3."], 2)
    with serving(Endpoint(RIGHT)) as served:
        assert _verify(store, served) == {"accepted": 2}
    rows = store.query("SELECT variant_id, check_name, model, passed FROM verdicts ORDER BY ALL")
    checks = ["answer", "duplicate", "format", "leak", "numbers"]
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
    "near copy": (
        "Tom has 3 apples. He buys 4 more. How many aples has he now?",
        "duplicate: nearly the original",
    ),
    "changed number": (WORDING.replace("3", "4"), "numbers: lost: 3"),
    "changed question": (
        WORDING.replace("has he in the end", "more would make 15"),
        "numbers: new: 15",
    ),
    "another question": (
        WORDING.replace("How many has he in the end", "How often does each of them occur"),
        "answer: the solver answers '8', not '7'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_rejected_by_the_right_check(store: VariantStore, fault: str) -> None:
    text, reason = FAULTS[fault]
    planted, sound = plant(store, 0, text), plant(store, 1, WORDING)
    with serving(Endpoint(*([WRONG] if fault == "another question" else []), RIGHT)) as served:
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
    hints = [plant_hint(store, j, ["Start with 3.", "3 + 4 = 8"][:j], 2, answer="8") for j in (1, 2)]
    with serving(Endpoint()) as served:
        _verify(store, served)
    assert {_outcome(store, hint) for hint in hints} == {
        ("rejected", "answer: the solution ends at '8', not '7'")
    }
    assert served.requests == []


def test_hint_that_gives_the_answer_away_is_rejected(store: VariantStore) -> None:
    hints = [plant_hint(store, j, ["3 + 4 = 7", "So he has 7."][:j], 2) for j in (1, 2)]
    with serving(Endpoint()) as served:
        _verify(store, served)
    assert _outcome(store, hints[0]) == ("rejected", "leak: the hint states the answer '7'")
    assert _outcome(store, hints[1]) == ("accepted", None)


def test_label_of_a_step_is_no_result(store: VariantStore) -> None:
    steps = [f"Step {j}: look again." for j in range(1, 8)]
    whole = [*steps, "Step 8: so it is 9."]
    plant_hint(store, 1, steps, 8)
    plant_hint(store, 2, whole, 8)
    with serving(Endpoint()) as served:
        assert _verify(store, served) == {"rejected": 2}
    reasons = {reason for (reason,) in variants_by(store, "reason")}
    assert reasons == {"answer: the last step ends at '9', not '7'"}, "7 and 8 are labels"


def test_second_of_two_equal_siblings_is_rejected(store: VariantStore) -> None:
    first, second = plant(store, 0, WORDING), plant(store, 1, WORDING.upper())
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert _outcome(store, first) == ("accepted", None)
    assert _outcome(store, second) == ("rejected", "duplicate: copy of a sibling")


def test_copy_of_a_sibling_that_was_accepted_before_is_rejected(store: VariantStore) -> None:
    plant(store, 5, WORDING, status="accepted")
    copy = plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert _outcome(store, copy) == ("rejected", "duplicate: copy of a sibling")


def test_copy_of_a_sibling_that_was_rejected_is_judged_by_itself(store: VariantStore) -> None:
    plant(store, 5, WORDING, status="rejected")
    copy = plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert _outcome(store, copy) == ("accepted", None)


@pytest.mark.parametrize(
    ("replies", "status", "reason"),
    [
        ([RIGHT, RIGHT, WRONG], "accepted", None),
        ([WRONG, RIGHT, WRONG], "rejected", "answer: the solver answers '8', not '7'"),
        ([RIGHT, WRONG, completion("who knows")], "rejected", "answer: the solver disagrees with itself"),
        ([RIGHT, RIGHT, Reply(b"", 500)], "accepted", None),
        ([WRONG, WRONG, Reply(b"", 500)], "rejected", "answer: the solver answers '8', not '7'"),
        ([RIGHT, WRONG, Reply(b"", 500)], "failed", "answer: http_500"),
        ([Reply(b"", 500), Reply(b"", 500), RIGHT], "failed", "answer: http_500"),
        (
            [completion("\\boxed{8}"), completion("\\boxed{8.0}"), RIGHT],
            "rejected",
            "answer: the solver answers '8'",
        ),
        ([completion("\\boxed{8}"), RIGHT, RIGHT], "accepted", None),
        ([completion("")] * 3, "rejected", "answer: the solver answers nothing, not '7'"),
    ],
)
def test_majority_of_independent_solutions_decides(
    store: VariantStore, replies: list[Reply], status: str, reason: str | None
) -> None:
    variant = plant(store, 0, WORDING)
    with serving(Endpoint(*replies)) as served:
        _verify(store, served, VerifyConfig(solver_samples=3))
    found, why = _outcome(store, variant)
    assert found == status
    assert (why or "").startswith(reason or "")
    assert [request["seed"] for request in served.requests] == [VERIFICATION + n for n in range(3)]


def test_variant_without_a_verdict_has_failed_and_is_tried_again(store: VariantStore) -> None:
    variant = plant(store, 0, WORDING)
    with serving(Endpoint(Reply(b"", 500), RIGHT)) as served:
        assert _verify(store, served) == {"failed": 1}
        status, reason = _outcome(store, variant)
        assert (status, (reason or "")[:16]) == ("failed", "answer: http_500")
        assert store.query("SELECT passed FROM verdicts WHERE check_name = 'answer'") == [(None,)]
        assert _verify(store, served, VerifyConfig(solver_samples=1)) == {"accepted": 1}
    assert store.query("SELECT passed FROM verdicts WHERE check_name = 'answer'") == [(True,)]


def test_variant_that_was_never_written_is_not_verified_again(store: VariantStore) -> None:
    with serving(Endpoint(Reply(b"", 500))) as served:
        generate(store, teacher_of(served), REWORD, limit=1)
        assert _verify(store, served, VerifyConfig(solver_samples=1, retry_failed=True)) == {}
    assert len(served.requests) == 1


def test_without_the_answer_check_no_solver_is_asked(store: VariantStore) -> None:
    plant(store, 0, WORDING)
    with serving(Endpoint()) as served:
        assert _verify(store, served, VerifyConfig(checks=("format", "duplicate"))) == {"accepted": 1}
    assert served.requests == []
    assert store.query("SELECT check_name FROM verdicts ORDER BY 1") == [("duplicate",), ("format",)]


def test_verify_again_does_nothing(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, ALL_KINDS)
    solver = endpoint
    verify(store, solver, VerifyConfig())
    before = part_files(store, "variants", "verdicts", "calls")
    assert verify(store, solver, VerifyConfig()) == {}
    assert part_files(store, "variants", "verdicts", "calls") == before


def test_verify_keeps_to_the_problems_that_it_is_given(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, REWORD)
    verify(store, endpoint, VerifyConfig(), problem_ids=["w/1"])
    assert variants_by(store, "problem_id, status") == [
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
    variant = plant(store, 0, "How many are 3 and 4 apples?")
    with serving(Endpoint(completion("\\boxed{B}"))) as served:
        _verify(store, served)
    assert "(B) seven" in served.requests[0]["messages"][1]["content"]
    assert _outcome(store, variant) == ("accepted", None)


# --- what is compared with


def test_text_of_another_problem_is_a_duplicate(store: VariantStore) -> None:
    twin = "Noor collects shells on the beach: 3 on the first walk and 4 on the next. How many does she take home?"
    store.append([Problem(problem_id="x/0", source="x", split="train", text=twin, answer="7")])
    copy = plant(store, 0, f"{twin} Count them all.")
    with serving(Endpoint(RIGHT)) as served:
        assert _verify(store, served) == {"rejected": 1}
    assert _outcome(store, copy) == ("rejected", "duplicate: nearly a text of problem x/0")
    assert served.requests == []


def test_accepted_variant_of_another_problem_counts_too(store: VariantStore) -> None:
    twin = "Noor collects shells on the beach: 3 on the first walk and 4 on the next. How many does she take home?"
    store.append(
        [Problem(problem_id="x/0", source="x", split="train", text="3 and 4 are how many?", answer="7")]
    )
    plant(store, 0, twin, variant_id="x/0:reword:0", problem_id="x/0", status="accepted")
    copy = plant(store, 0, twin)
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert _outcome(store, copy)[1] == "duplicate: nearly a text of problem x/0"


def test_problems_that_differ_in_a_number_are_no_duplicates(store: VariantStore) -> None:
    twin = "Noor collects shells on the beach: 5 on the first walk and 2 on the next. How many does she take home?"
    store.append([Problem(problem_id="x/0", source="x", split="train", text=twin, answer="7")])
    sound = plant(store, 0, twin.replace("5", "3").replace("2", "4"))
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert _outcome(store, sound) == ("accepted", None)


def test_evaluation_sets_are_kept_out_with_their_hints(store: VariantStore, tmp_path: Path) -> None:
    text = "In the end, how many apples does Tom own, who had 3 of them at first and then went to buy 4?"
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": f"{text} Explain.", "answer": "7"}) + "\n")
    planted = plant(store, 0, text)
    config = VerifyConfig(evaluation_sets=(str(tmp_path / "test.jsonl"),))
    with serving(Endpoint(RIGHT)) as served:
        assert _verify(store, served, config) == {"rejected": 1}
    reason = _outcome(store, planted)[1] or ""
    assert reason.startswith("decontamination: the text shares with ")
    assert "'in the end how many apples does tom own who had 3 of'" in reason


def test_without_evaluation_sets_there_is_no_verdict_on_them(store: VariantStore) -> None:
    plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT)) as served:
        _verify(store, served)
    assert store.query("SELECT count(*) FROM verdicts WHERE check_name = 'decontamination'") == [(0,)]


# --- judge

SAME = completion(json.dumps({"reason": "Only the wording differs.", "same_question": True}))
OTHER = completion(json.dumps({"reason": "It asks how many he bought.", "same_question": False}))
JUDGED = VerifyConfig(checks=("judge", "format", "answer"), solver_samples=1, judge_model="critic")


@pytest.mark.parametrize(
    ("reply", "status", "reason"),
    [
        (SAME, "accepted", None),
        (OTHER, "rejected", "judge: It asks how many he bought."),
        (Reply(b"", 500), "failed", "judge: http_500"),
    ],
)
def test_judge_has_the_last_word(store: VariantStore, reply: Reply, status: str, reason: str | None) -> None:
    text, hint = plant(store, 0, WORDING), plant_hint(store, 1, ["Start with 3."], 2)
    with serving(Endpoint(RIGHT, reply)) as served:
        teacher = teacher_of(served)
        verify(store, teacher, JUDGED)
    assert _outcome(store, text)[0] == status
    assert (_outcome(store, text)[1] or "").startswith(reason or "")
    assert _outcome(store, hint) == ("accepted", None), "its question is the original's"
    solved, judged = served.requests
    assert (solved["model"], judged["model"], judged["temperature"]) == ("m", "critic", 0.0)
    question = judged["messages"][1]["content"]
    assert "<original>\nTom has 3 apples." in question
    assert WORDING in question
    assert store.query("SELECT check_name, model FROM verdicts WHERE check_name = 'judge'") == [
        ("judge", "critic")
    ]


def test_judge_is_spared_what_the_solver_rejects(store: VariantStore) -> None:
    plant(store, 0, WORDING)
    with serving(Endpoint(WRONG)) as served:
        teacher = teacher_of(served)
        verify(store, teacher, JUDGED)
    assert len(served.requests) == 1


def test_judge_may_have_its_own_endpoint(store: VariantStore) -> None:
    plant(store, 0, WORDING)
    with serving(Endpoint(RIGHT)) as solving, serving(Endpoint(SAME)) as judging:
        config = JUDGED.model_copy(update={"judge_base_url": judging.url})
        teacher = teacher_of(solving)
        verify(store, teacher, config)
    assert (len(solving.requests), len(judging.requests)) == (1, 1)
    assert store.query("SELECT endpoint FROM calls WHERE purpose = 'judge'") == [(judging.url,)]


def test_judge_is_made_only_where_it_is_asked_for(store: VariantStore) -> None:
    with serving(Endpoint()) as served:
        assert Judge.for_verify(Session(store, teacher_of(served)), VerifyConfig()) is None
        assert Judge.for_verify(Session(store, teacher_of(served)), JUDGED) is not None
    with pytest.raises(ConfigError, match="needs a judge"):
        Judge.for_verify(Session(store), JUDGED)


# --- solutions


def test_hints_of_a_solution_with_a_false_step_are_rejected(store: VariantStore) -> None:
    steps = ["Start with 3 apples.", "He buys 2 + 3 = 4 more.", "In all 3 + 4 = 7."]
    hints = [plant_hint(store, j, steps[:j], 3) for j in (1, 2, 3)]
    with serving(Endpoint()) as served:
        _verify(store, served)
    assert {_outcome(store, hint)[1] for hint in hints} == {"answer: step 2 says 2 + 3 = 4"}


def test_hints_of_a_solution_that_ends_elsewhere_are_rejected(store: VariantStore) -> None:
    steps = ["Start with 3 apples.", "The answer is 12."]
    hints = [plant_hint(store, j, steps[:j], 2) for j in (1, 2)]
    with serving(Endpoint()) as served:
        _verify(store, served)
    assert {_outcome(store, hint)[1] for hint in hints} == {"answer: the last step ends at '12', not '7'"}
