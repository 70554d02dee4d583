"""The verb generate, against real endpoints on loopback."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.pipeline.difficulty.design import designed_delta
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.stages.generate import joined, solution_hints
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.schemas.config import GenerateConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.mapping import PRESETS
from diva_grpo.schemas.records import Aspect, Image, Kind, Problem
from tests.support.endpoints import Endpoint, Reply, completion, serving
from tests.support.planted_variants import ALL_KINDS, REWORD, part_files, teacher_of, variants_by
from tests.support.sessions import generate, verify

STEPS = GenerateConfig(kinds=(Kind.THINK_STEP,))
TWO_WORDINGS = completion(
    json.dumps({"rewordings": ["Tom had 3 apples, then 4 more.", "3 apples and 4 apples?"]})
)
SOLUTION = completion(json.dumps({"steps": ["Start with 3.", "Add 4."], "answer": "7"}))


def test_generate_writes_candidates_of_every_kind(store: VariantStore, endpoint: TeacherConfig) -> None:
    counts = generate(store, endpoint, ALL_KINDS)
    # Five problems with five wordings and two harder texts; four have a solution of two steps, one has none.
    assert counts == {"candidate": 5 * 5 + 5 * 2 + 4 * 2, "failed": 1}
    assert variants_by(store, "kind, status, count(*)") == [
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
    before = part_files(store, "variants", "calls")
    assert generate(store, endpoint, ALL_KINDS) == {}
    assert part_files(store, "variants", "calls") == before


def test_generate_asks_only_for_missing_kinds(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, REWORD)
    counts = generate(store, endpoint, ALL_KINDS)
    assert counts == {"candidate": 10 + 8, "failed": 1}
    assert store.query("SELECT count(*) FROM calls WHERE purpose = 'reword'") == [(5,)]


def test_another_model_writes_variants_of_its_own(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, REWORD)
    generate(store, endpoint.model_copy(update={"model": "another"}), REWORD)
    assert variants_by(store, "generator_model, count(*)") == [("another", 10), ("scripted-teacher", 10)]


def test_generate_keeps_to_the_problems_that_it_is_given(
    store: VariantStore, endpoint: TeacherConfig
) -> None:
    generate(store, endpoint, REWORD, limit=2)
    assert variants_by(store, "problem_id") == [("w/0",), ("w/1",)]
    generate(store, endpoint, REWORD, problem_ids=["w/3"])
    assert variants_by(store, "problem_id") == [("w/0",), ("w/1",), ("w/3",)]


@pytest.mark.parametrize(
    ("config", "good"), [(REWORD, TWO_WORDINGS), (STEPS, SOLUTION)], ids=["reword", "think"]
)
def test_variant_whose_request_failed_on_its_way_is_asked_for_again(
    store: VariantStore, config: GenerateConfig, good: Reply
) -> None:
    with serving(Endpoint(Reply(b"", 500), good)) as served:
        assert generate(store, teacher_of(served), config, limit=1) == {"failed": 1}
        assert generate(store, teacher_of(served), config, limit=1) == {"candidate": 2}
        assert generate(store, teacher_of(served), config, limit=1) == {}
    assert len(served.requests) == 2
    assert variants_by(store) == [("candidate", 2)], "a failed row is left beside the variants"


def test_variant_that_was_refused_is_asked_for_again_only_on_demand(store: VariantStore) -> None:
    retry = REWORD.model_copy(update={"retry_failed": True})
    with serving(Endpoint(completion(None, refusal="no"), TWO_WORDINGS)) as served:
        assert generate(store, teacher_of(served), REWORD, limit=1) == {"failed": 1}
        assert generate(store, teacher_of(served), REWORD, limit=1) == {}
        again = generate(store, teacher_of(served, retry_failed=True), retry, limit=1)
    assert again == {"candidate": 2}
    assert len(served.requests) == 2


@pytest.mark.parametrize(
    ("config", "content"), [(REWORD, '{"rewordings": []}'), (STEPS, '{"steps": [], "answer": "7"}')]
)
def test_empty_answer_is_a_failed_variant(store: VariantStore, config: GenerateConfig, content: str) -> None:
    with serving(Endpoint(completion(content))) as served:
        generate(store, teacher_of(served), config, limit=1)
    assert variants_by(store, "status, reason") == [("failed", "schema: an empty list")]


def test_unreachable_endpoint_makes_failed_variants_with_the_reason(store: VariantStore) -> None:
    config = TeacherConfig(model="m", base_url="http://127.0.0.1:9/v1", max_retries=0)
    assert generate(store, config, REWORD) == {"failed": 5}
    [(reason,)] = variants_by(store, "reason")
    assert reason.startswith("network: ")


def test_lost_records_cost_no_second_request(store: VariantStore) -> None:
    with serving(Endpoint(TWO_WORDINGS)) as served:
        generate(store, teacher_of(served), REWORD)
        for part in (store.root / "variants").glob("*-*.parquet"):
            if "empty" not in part.name:
                part.unlink()
        assert generate(store, teacher_of(served), REWORD) == {"candidate": 10}
    assert len(served.requests) == 5


def test_progress_adds_up_on_every_run(store: VariantStore, endpoint: TeacherConfig) -> None:
    for _ in range(2):
        meter = Meter("requests")
        generate(store, endpoint, ALL_KINDS, meter)
        assert meter.done == 5 * 3


def test_request_names_the_count_and_the_problem(store: VariantStore) -> None:
    with serving(Endpoint(TWO_WORDINGS)) as served:
        generate(store, teacher_of(served), REWORD, limit=1)
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
            generate(store, teacher_of(served), config, problem_ids=["a/0"])
    asked = [
        request["messages"] for request in served.requests if len(request["messages"]) == 2
    ]  # no repairs
    assert ["(B) two" in question["content"] for _, question in asked] == [False, True]


def test_images_of_a_problem_are_sent(store: VariantStore) -> None:
    buffer = io.BytesIO()
    Picture.new("RGB", (2, 2)).save(buffer, "PNG")
    digest = store.put_image(buffer.getvalue(), "PNG")
    image = Image(hash=digest, width=2, height=2)
    store.append(
        [Problem(problem_id="a/0", source="a", split="t", text="<image> What?", answer="1", images=[image])]
    )
    with serving(Endpoint(TWO_WORDINGS)) as served:
        generate(store, teacher_of(served), REWORD, problem_ids=["a/0"])
    assert [part["type"] for part in served.requests[0]["messages"][1]["content"]] == [
        "text",
        "image_url",
        "text",
    ]


@pytest.mark.parametrize(
    ("total", "deltas"),
    [
        (1, [-8]),
        (2, [-2, -8]),
        (3, [-2, -4, -8]),
        (4, [-2, -4, -6, -8]),
        (5, [-2, -4, -6, -6, -8]),
    ],
)
def test_think_steps_are_rows_with_growing_hints(
    store: VariantStore, total: int, deltas: list[float]
) -> None:
    steps = [f"Step {j}." for j in range(1, total + 1)]
    with serving(Endpoint(completion(json.dumps({"steps": steps, "answer": "7"})))) as served:
        generate(store, teacher_of(served), STEPS, limit=1)
    rows = store.query(
        "SELECT hint_steps, hint, hint_total, delta_designed, text FROM variants ORDER BY hint_steps"
    )
    text = store.problems(limit=1)[0].text
    assert rows == [(j, steps[:j], total, deltas[j - 1], text) for j in range(1, total + 1)]


def test_designed_deltas() -> None:
    assert (designed_delta("reword"), designed_delta("harder")) == (0, 2)
    assert [designed_delta("think_step", j, 6) for j in range(1, 7)] == [-2, -4, -6, -6, -6, -8]


def test_long_solution_has_neighbouring_steps_joined(store: VariantStore) -> None:
    steps = [f"Step {j}." for j in range(1, 8)]
    with serving(Endpoint(completion(json.dumps({"steps": steps, "answer": "7"})))) as served:
        generate(store, teacher_of(served), STEPS, limit=1)
    [(hint,)] = store.query("SELECT hint FROM variants WHERE hint_steps = hint_total")
    assert hint == ["Step 1.", "Step 2.\nStep 3.", "Step 4.", "Step 5.\nStep 6.", "Step 7."]


@given(st.lists(st.text(), max_size=40), st.integers(1, 9))
def test_joined_steps_keep_every_line_in_order(steps: list[str], most: int) -> None:
    groups = joined(steps, most)
    assert len(groups) == min(len(steps), most)
    assert "\n".join(groups) == "\n".join(steps)


# --- aspects of harder texts


def _harder(*aspects: str) -> Reply:
    texts = [{"aspect": aspect, "text": f"A text by {aspect}."} for aspect in aspects]
    return completion(json.dumps({"texts": texts}))


def test_aspect_is_asked_for_and_recorded(store: VariantStore) -> None:
    config = GenerateConfig(kinds=(Kind.HARDER,), harder=2, aspects=(Aspect.STORY, Aspect.ABSTRACT))
    with serving(Endpoint(_harder("story", "abstract"))) as served:
        generate(store, teacher_of(served), config, limit=1)
    [request] = served.requests
    assert re.search(r"in this order: (story, abstract|abstract, story)\.", request["messages"][1]["content"])
    assert store.query("SELECT aspect, text FROM variants ORDER BY variant_id") == [
        ("story", "A text by story."),
        ("abstract", "A text by abstract."),
    ]


def test_aspect_that_does_not_exist_is_a_failed_variant(store: VariantStore) -> None:
    with serving(Endpoint(_harder("longer"))) as served:
        generate(store, teacher_of(served), GenerateConfig(kinds=(Kind.HARDER,)), limit=1)
    [(reason,)] = variants_by(store, "reason")
    assert reason.startswith("schema: texts.0.aspect")


def test_every_aspect_comes_up_over_problems(store: VariantStore, endpoint: TeacherConfig) -> None:
    problems = [
        Problem(problem_id=f"p/{i}", source="p", split="t", text=f"What is {i} + 1?", answer="1")
        for i in range(40)
    ]
    store.append(problems)
    with serve(create_app(ScriptedTeacher(problems, wrong_share=0))) as url:
        teacher = endpoint.model_copy(update={"base_url": url})
        config = GenerateConfig(kinds=(Kind.HARDER,))
        generate(store, teacher, config, problem_ids=[problem.problem_id for problem in problems])
    counts = dict(variants_by(store, "aspect, count(*)"))
    assert counts.keys() == set(Aspect)
    assert min(counts.values()) >= 10, counts


# --- a problem's own solution


SOURCE_STEPS = GenerateConfig(kinds=(Kind.THINK_STEP,), steps_from="source")


def _with_solution(*steps: str, answer: str = "7") -> Problem:
    text = "Tom has 3 apples. He buys 4 more. How many apples has he now?"
    return Problem(
        problem_id="a/0", source="a", split="train", text=text, answer=answer, solution_steps=list(steps)
    )


def test_own_solution_serves_as_think_steps_without_a_request(store: VariantStore) -> None:
    with serving(Endpoint(SOLUTION)) as served:
        assert generate(store, teacher_of(served), SOURCE_STEPS) == {"candidate": 4 * 2 + 2}
        assert generate(store, teacher_of(served), SOURCE_STEPS) == {}
    assert len(served.requests) == 1, "only the problem without a solution is asked for"
    rows = store.query(
        "SELECT hint, hint_total, delta_designed, generator_model FROM variants "
        "WHERE problem_id = 'w/0' ORDER BY hint_steps"
    )
    assert rows == [
        (["Tom starts with 3."], 2, -2.0, "source"),
        (["Tom starts with 3.", "3 + 4 = 7"], 2, -8.0, "source"),
    ]


def test_own_solution_passes_verification(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, SOURCE_STEPS)
    verify(store, endpoint, VerifyConfig())
    assert variants_by(store, "generator_model, status, count(*)") == [
        ("scripted-teacher", "failed", 1),
        ("source", "accepted", 8),
    ]


def test_teacher_writes_its_own_beside_the_source(store: VariantStore, endpoint: TeacherConfig) -> None:
    generate(store, endpoint, SOURCE_STEPS)
    generate(store, endpoint, STEPS, problem_ids=["w/0"])
    assert generate(store, endpoint, SOURCE_STEPS) == {}
    found = variants_by(store, "problem_id, generator_model, count(*)")
    assert found[:2] == [("w/0", "scripted-teacher", 2), ("w/0", "source", 2)]


@pytest.mark.parametrize(
    ("steps", "hints"),
    [
        (["He has 3.", "3 + 4 = 7", "The answer is 7."], ["He has 3.", "3 + 4 = 7\nThe answer is 7."]),
        (["3 + 4 = 7", "So 7.", "#### 7"], ["3 + 4 = 7\nSo 7.\n#### 7"]),
        (["7 is lucky.", "He has 3.", "3 + 4 = 7"], ["7 is lucky.", "He has 3.", "3 + 4 = 7"]),
        (["3 + 4 = 7"], ["3 + 4 = 7"]),
        ([], []),
    ],
)
def test_closing_lines_that_repeat_the_answer_are_one_step(steps: list[str], hints: list[str]) -> None:
    assert solution_hints(_with_solution(*steps)) == hints


def test_hint_of_an_own_solution_that_states_the_answer_early_is_rejected(
    store: VariantStore, endpoint: TeacherConfig
) -> None:
    store.append([_with_solution("7 is lucky.", "He has 3.", "3 + 4 = 7")])
    generate(store, endpoint, SOURCE_STEPS, problem_ids=["a/0"])
    verify(store, endpoint, VerifyConfig(), problem_ids=["a/0"])
    rows = store.query("SELECT hint_steps, status FROM variants ORDER BY hint_steps")
    assert rows == [(1, "rejected"), (2, "rejected"), (3, "accepted")]


@pytest.mark.slow
def test_own_solutions_of_real_problems_make_hints_that_do_not_leak(
    tmp_path: Path, real_data: Path, endpoint: TeacherConfig
) -> None:
    store = VariantStore(tmp_path / "gsm8k", create=True)
    ingest(store, str(real_data / "gsm8k" / "problems.jsonl"), PRESETS["gsm8k"])
    generate(store, endpoint, SOURCE_STEPS)
    verify(store, endpoint, VerifyConfig())
    [(problems, with_solution, hinted, sent)] = store.query(
        "SELECT (SELECT count(*) FROM problems), "
        "count(DISTINCT problem_id) FILTER (hint_steps = hint_total AND status = 'accepted'), "
        "count(DISTINCT problem_id) FILTER (hint_steps < hint_total AND status = 'accepted'), "
        "(SELECT count(*) FROM calls) FROM variants"
    )
    assert (problems, with_solution, sent) == (500, 500, 0)
    assert hinted >= 400
    assert {reason.split(":")[0] for (reason,) in variants_by(store, "reason") if reason} <= {
        "leak",
        "duplicate",
    }
