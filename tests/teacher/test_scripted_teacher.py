"""The scripted teacher: what it knows, its slips, its errors, and that the protocol is spoken as clients expect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.flows.demo.scripted_teacher import (
    MODEL,
    NO_SOLUTION,
    Message,
    ScriptedTeacher,
    create_app,
    serve,
)
from diva_grpo.pipeline.grade import grade
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.question import Question, render_question
from diva_grpo.schemas.records import Aspect, Problem


def _messages(task: str, text: str, **values: object) -> list[dict[str, Any]]:
    prompt = load_prompt(task)
    defaults = {"count": 5, "aspects": "story, irrelevant", "existing": "(none)"}
    user = prompt.fill(problem=text, **(defaults | values))
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]


def _answer(teacher: ScriptedTeacher, task: str, text: str, sample: int = 0, **values: object) -> str:
    return teacher.answer([Message.model_validate(m) for m in _messages(task, text, **values)], sample)


def _sums(count: int) -> list[Problem]:
    """Problems that are each other's slips: 1 + 5, 2 + 5, ..."""
    return [
        Problem(
            problem_id=f"sums/{i}",
            source="sums",
            split="train",
            text=f"What is {i} + 5?",
            answer=str(i + 5),
            solution_steps=[f"Start with {i}.", f"{i} + 5 = {i + 5}"],
        )
        for i in range(1, count + 1)
    ]


@pytest.fixture
def url(word_problems: list[Problem]) -> Iterator[str]:
    with serve(create_app(ScriptedTeacher(word_problems, wrong_share=0.0))) as base_url:
        yield base_url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def _complete(client: openai.OpenAI, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
    create: Any = client.chat.completions.create
    return create(model=MODEL, messages=messages, **options)


# --- what it answers


def test_solves_as_the_problem_is_solved(client: openai.OpenAI, word_problems: list[Problem]) -> None:
    for problem in word_problems[:4]:
        content = _complete(client, _messages("solve", problem.text)).choices[0].message.content
        assert grade(content, problem.answer).outcome == "correct"
        assert content.startswith(problem.solution_steps[0])


def test_solves_what_it_has_worded_itself_and_with_a_hint(word_problems: list[Problem]) -> None:
    teacher = ScriptedTeacher(word_problems, wrong_share=0.0)
    problem = word_problems[0]
    wordings = json.loads(_answer(teacher, "reword", problem.text))["rewordings"]
    harder = json.loads(_answer(teacher, "harder", problem.text, aspects=", ".join(Aspect)))["texts"]
    assert [text["aspect"] for text in harder] == list(Aspect)
    for text in [*wordings, *(text["text"] for text in harder)]:
        hinted = render_question(text, hint=problem.solution_steps[:1])
        assert grade(_answer(teacher, "solve", hinted), problem.answer).outcome == "correct", text


def test_writes_five_different_rewordings(client: openai.OpenAI, word_problems: list[Problem]) -> None:
    reply = _complete(client, _messages("reword", word_problems[0].text))
    texts = json.loads(reply.choices[0].message.content)["rewordings"]
    assert len({word_problems[0].text, *texts}) == 6


def test_writes_as_many_as_it_is_asked_for(word_problems: list[Problem]) -> None:
    teacher = ScriptedTeacher(word_problems, wrong_share=0.0)
    messages = [Message.model_validate(m) for m in _messages("reword", word_problems[0].text, count=2)]
    assert len(json.loads(teacher.answer(messages, 0))["rewordings"]) == 2


def test_writes_what_does_not_exist_yet(word_problems: list[Problem]) -> None:
    teacher = ScriptedTeacher(word_problems, wrong_share=0.0)
    text = word_problems[0].text
    first = json.loads(_answer(teacher, "reword", text))["rewordings"]
    existing = "\n\n".join(first[:4])
    more = json.loads(_answer(teacher, "reword", text, sample=1, count=1, existing=existing))["rewordings"]
    assert more == first[4:]


def test_gives_the_solution_as_think_steps(client: openai.OpenAI, word_problems: list[Problem]) -> None:
    content = _complete(client, _messages("think_step", word_problems[1].text)).choices[0].message.content
    assert json.loads(content) == {"steps": word_problems[1].solution_steps, "answer": "30"}


@pytest.mark.parametrize(
    ("rewritten", "same"),
    [
        ("How many apples has he now? To answer, use what follows. Tom has 3 apples. He buys 4 more.", True),
        ("Tom has 4 apples. He buys 4 more. How many apples has he now?", False),
        ("A box holds 6 eggs. How many eggs are in 5 boxes?", False),
        ("What is love?", False),
    ],
)
def test_judges_whether_two_texts_are_the_same_question(
    word_problems: list[Problem], rewritten: str, same: bool
) -> None:
    prompt = load_prompt("judge")
    user = prompt.fill(original=word_problems[0].text, rewritten=rewritten)
    messages = [Message(role="system", content=prompt.system), Message(role="user", content=user)]
    for share in (0.0, 1.0):
        reply = json.loads(ScriptedTeacher(word_problems, wrong_share=share).answer(messages, 0))
        assert reply["same_question"] is (same if share == 0 else not same)


def test_altered_text_gets_another_answer(word_problems: list[Problem]) -> None:
    teacher = ScriptedTeacher(word_problems, wrong_share=0.0)
    altered = word_problems[0].text.replace("3 apples", "4 apples")
    assert grade(_answer(teacher, "solve", altered), "7").outcome == "wrong"


def test_slip_of_one_problem_does_not_hide_another() -> None:
    problems = _sums(9)
    teacher = ScriptedTeacher(problems, wrong_share=0.0)
    for problem in problems:
        assert grade(_answer(teacher, "solve", problem.text), problem.answer).outcome == "correct"


@given(data=st.data())
def test_options_are_part_of_the_question(data: st.DataObject) -> None:
    letter = data.draw(st.sampled_from("ABC"))
    problem = Problem(
        problem_id="c/1",
        source="c",
        split="train",
        text="Which is prime?",
        answer=letter,
        options=["8", "9", "7"],
        solution_steps=["Look."],
    )
    question = Question("c/1", "c/1", problem.text, letter, options=tuple(problem.options))
    teacher = ScriptedTeacher([problem], wrong_share=0.0)
    assert (
        grade(_answer(teacher, "solve", question.rendered()), letter, options=problem.options).outcome
        == "correct"
    )


# --- what it refuses


@pytest.mark.parametrize("task", ["solve", "think_step"])
def test_problem_without_a_solution_is_refused_saying_so(
    client: openai.OpenAI, word_problems: list[Problem], task: str
) -> None:
    message = _complete(client, _messages(task, word_problems[4].text)).choices[0].message
    assert (message.content, message.refusal) == (None, NO_SOLUTION)


@pytest.mark.parametrize("task", ["solve", "think_step", "reword", "harder"])
def test_unknown_problem_is_refused_saying_so(client: openai.OpenAI, task: str) -> None:
    message = _complete(client, _messages(task, "What is love?")).choices[0].message
    assert message.content is None
    assert "does not know this problem" in message.refusal


def test_unknown_task_is_refused_saying_so(client: openai.OpenAI) -> None:
    message = _complete(client, [{"role": "user", "content": "Hello!"}]).choices[0].message
    assert "only this project's prompts" in message.refusal


# --- slips


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_wrong_share_is_met_over_many_solutions(share: float) -> None:
    problems = _sums(60)
    teacher = ScriptedTeacher(problems, wrong_share=share)
    graded = [
        grade(_answer(teacher, "solve", problem.text, sample), problem.answer).outcome
        for problem in problems
        for sample in range(10)
    ]
    assert set(graded) <= {"correct", "wrong"}
    # Four standard deviations of 600 draws.
    assert graded.count("wrong") / 600 == pytest.approx(share, abs=4 * (share * (1 - share) / 600) ** 0.5)


def test_slip_in_think_steps_ends_at_a_wrong_answer() -> None:
    problem = _sums(1)[0]
    solution = json.loads(_answer(ScriptedTeacher([problem], wrong_share=1.0), "think_step", problem.text))
    assert solution["answer"] == "7"
    assert solution["steps"][-1] == "1 + 5 = 7"


def test_slip_in_a_wording_changes_one_text(word_problems: list[Problem]) -> None:
    text = word_problems[0].text
    right, slipped = (
        json.loads(_answer(ScriptedTeacher(word_problems, wrong_share=share), "reword", text))["rewordings"]
        for share in (0.0, 1.0)
    )
    assert sum(a != b for a, b in zip(right, slipped, strict=True)) == 1


def test_same_request_gets_the_same_answer(word_problems: list[Problem]) -> None:
    first, second = (ScriptedTeacher(word_problems, wrong_share=0.5, seed=3) for _ in range(2))
    for sample in range(10):
        text = word_problems[0].text
        assert _answer(first, "solve", text, sample) == _answer(second, "solve", text, sample)


# --- the protocol


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_usage_adds_up(client: openai.OpenAI, word_problems: list[Problem]) -> None:
    messages = _messages("solve", word_problems[0].text)
    reply = _complete(client, messages)
    characters = sum(len(message["content"]) for message in messages)
    assert reply.usage.prompt_tokens == pytest.approx(characters / 4, abs=2)
    assert reply.usage.completion_tokens == len(reply.choices[0].message.content) // 4
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert (reply.model, reply.object, reply.choices[0].finish_reason) == (MODEL, "chat.completion", "stop")


def test_images_in_a_message_are_passed_over(client: openai.OpenAI, word_problems: list[Problem]) -> None:
    messages = _messages("solve", word_problems[0].text)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages[1]["content"] = [image, {"type": "text", "text": messages[1]["content"]}]
    assert "\\boxed{7}" in _complete(client, messages).choices[0].message.content


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"model": "m"}',
        b'{"messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "messages": "hello"}',
        b'{"model": "m", "messages": ["hello"]}',
        b'{"model": "m", "messages": [{"content": "x"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": 5}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": ["x"]}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": "many"}',
    ],
)
def test_bad_body_is_a_400(url: str, body: bytes) -> None:
    reply = httpx.post(f"{url}/chat/completions", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_unknown_path_is_a_404(url: str) -> None:
    assert httpx.post(f"{url}/completions", json={}).status_code == 404


def test_errors_come_as_often_as_asked(word_problems: list[Problem]) -> None:
    app = create_app(ScriptedTeacher(word_problems), error_share=0.4, seed=1)
    body = {"model": MODEL, "messages": _messages("solve", word_problems[0].text)}
    with serve(app) as url, httpx.Client() as client:
        statuses = [client.post(f"{url}/chat/completions", json=body).status_code for _ in range(100)]
    assert set(statuses) == {200, 429, 503}
    assert statuses.count(200) == pytest.approx(60, abs=4 * (100 * 0.4 * 0.6) ** 0.5)


def test_client_that_retries_gets_through_errors(word_problems: list[Problem]) -> None:
    app = create_app(ScriptedTeacher(word_problems, wrong_share=0.0), error_share=0.5, seed=7)
    create: Any
    with serve(app) as url, openai.OpenAI(base_url=url, api_key="none", max_retries=5) as client:
        create = client.chat.completions.with_raw_response.create
        raw = create(model=MODEL, messages=_messages("solve", word_problems[0].text))
    assert raw.retries_taken == 1
    assert "boxed{7}" in raw.parse().choices[0].message.content


def test_port_that_is_taken_is_an_error(url: str, word_problems: list[Problem]) -> None:
    port = int(url.split(":")[2].split("/")[0])
    with pytest.raises(OSError, match="in use"), serve(create_app(ScriptedTeacher(word_problems)), port):
        pass


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_pages_of_elsewhere_are_refused(url: str, headers: dict[str, str]) -> None:
    assert httpx.get(f"{url}/models").status_code == 200
    assert httpx.get(f"{url}/models", headers=headers).status_code == 403
    assert httpx.post(f"{url}/chat/completions", json={}, headers=headers).status_code == 403
