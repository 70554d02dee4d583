"""Errors and answers in the words and forms of many endpoints: what each means, and what is done about it."""

from __future__ import annotations

import gzip
import json
from functools import partial
from typing import Any

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.teacher.structured import ShapeError, read_reply
from diva_grpo.pipeline.teacher.wire.completion import read_completion
from diva_grpo.pipeline.teacher.wire.outcome import Outcome
from diva_grpo.pipeline.teacher.wire.refusal import (
    cannot_pass,
    names_mode,
    names_role,
    said_wait_s,
    too_long,
)
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import OutageError
from diva_grpo.schemas.replies import Answer, Rewordings
from tests.support.endpoints import Endpoint, Reply, Server, body, completion, json_reply, serving
from tests.support.sessions import ask

PROMPT = Prompt(version="test-1", system="You help.", user="Say $word.")
WANTED = Rewordings(rewordings=["a"])
FINAL = WANTED.model_dump_json()
DRAFT = '{"rewordings": ["a draft"]}'


def _ask(store: VariantStore, endpoint: Endpoint, **values: Any) -> Answer[Rewordings]:
    defaults = {"model": "m", "base_url": endpoint.url, "max_retries": 0, "patience_s": 0, "concurrency": 1}
    config = TeacherConfig.model_validate(defaults | values)

    async def one(teacher: Teacher) -> Answer[Rewordings]:
        return await teacher.ask(PROMPT, {"word": "x"}, purpose="test", problem_id="p", shape=Rewordings)

    [answer] = ask(store, config, [one])
    return answer


# --- what does not pass

FOR_GOOD: list[tuple[int, str, str]] = [
    (429, "You have used all available credits or reached your monthly spending limit.", "add credit"),
    (429, "Tokens per day limit exceeded - too many tokens processed.", "add credit"),
    (429, "Rate limit of 50 per 86400s exceeded for UserByModelByDay.", "add credit"),
    (429, "You are using a Trial key, which is limited to 1000 API calls / month.", "add credit"),
    (429, "The inference limit of your account has been reached. SetLimitExceeded", "add credit"),
    (412, "Account suspended, possibly due to reaching the monthly spending limit", "add credit"),
    (403, "Your newly created team doesn't have any credits yet.", "add credit"),
    (403, "Key limit exceeded (total limit).", "add credit"),
    (400, "invalid model ID", "--model"),
    (400, "Model Not Exist", "--model"),
    (400, "The model `m` has been decommissioned and is no longer supported.", "--model"),
    (400, "foo/bar is not a valid model ID", "--model"),
]


@pytest.mark.parametrize(("status", "message", "to_do"), FOR_GOOD)
def test_what_cannot_pass_says_what_to_do(status: int, message: str, to_do: str) -> None:
    assert to_do in (cannot_pass(Outcome(None, f"http_{status}", message)) or "")


def test_parameter_that_a_quota_names_is_no_parameter_of_the_request() -> None:
    named = Outcome(None, "http_429", "Tokens per day limit exceeded", parameter="quota")
    assert "add credit" in (cannot_pass(named) or "")
    assert cannot_pass(Outcome(None, "http_404", "not found", parameter="seed")) is None


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (429, "Rate limit reached on requests per minute (RPM): Limit 30, Used 30."),
        (429, "Service tier capacity exceeded for this model."),
        (429, "您当前使用该API的并发数过高，请降低并发，或联系客服增加限额。"),
        (400, "Invalid model output: not JSON"),
        (400, "Invalid image"),
        (404, "No endpoints found that can handle the requested parameters."),
        (422, "input: 'She has no more credits on her card. How many has he?'"),
    ],
)
def test_what_may_pass_is_not_given_up(status: int, message: str) -> None:
    assert cannot_pass(Outcome(None, f"http_{status}", message)) is None


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please try again in 5m45s.", 345),
        ("Please retry after 26 seconds.", 26),
        ("Please retry in 34.07s.", 34.07),
        ("try again in 450ms", 0.45),
        ("try again in 1h2m3.5s", 3723.5),
        ("Please try again in 1 minute 30 seconds.", 90),
        ("Please try again later", None),
        ("try again after 3 tries", None),
    ],
)
def test_wait_that_a_text_asks_for(words: str, seconds: float | None) -> None:
    assert said_wait_s(words) == (None if seconds is None else pytest.approx(seconds))


def test_wait_beyond_the_patience_in_a_text_ends_the_run(store: VariantStore) -> None:
    limited = json_reply({"error": {"message": "Too many. Please wait 71000 seconds before retrying."}}, 429)
    with serving(Endpoint(limited)) as endpoint, pytest.raises(OutageError, match="it asks to wait until"):
        _ask(store, endpoint)
    assert len(endpoint.requests) == 1


# --- what is refused


@pytest.mark.parametrize(
    "message",
    [
        "Failed to compile json schema: unsupported keyword",
        "invalid JSON schema in format",
        "output_config.format: Extra inputs are not permitted",
        "No endpoints found that can handle the requested parameters.",
        "This response format is unavailable",
    ],
)
def test_refusal_of_a_mode_is_known_by_its_words(message: str) -> None:
    assert names_mode(message)


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Input should be 'user' or 'assistant'",
        "First message must be from user",
    ],
)
def test_refusal_of_the_system_message_is_known_by_its_words(message: str) -> None:
    assert names_role(message)


def test_system_message_that_is_refused_by_a_parameter_is_moved(store: VariantStore) -> None:
    def server(request: dict[str, Any]) -> Reply:
        if request["messages"][0]["role"] == "user":
            return completion(FINAL)
        said = "Unsupported value: 'messages[0].role' does not support 'system' with this model."
        return json_reply({"error": {"message": said, "param": "messages[0].role"}}, 400)

    with serving(Server(server)) as endpoint:
        assert _ask(store, endpoint).value == WANTED


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("prompt is too long: 210000 tokens > 200000 maximum", "200000"),
        ("input length and `max_tokens` exceed context limit: 199000 + 2048 > 200000, decrease", "200000"),
        ("The input token count (120000) exceeds the maximum number of tokens allowed (1048).", "1048"),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 3000 and 2048", "4096"),
        ("Prompt contains 40000 tokens, too large for model with 32768 maximum context length", "32768"),
        ("Range of input length should be [1, 30720]", "30720"),
        ("max_tokens is too large: 2048. This model supports at most 1024 completion tokens", "1024"),
    ],
)
def test_size_of_the_context_is_the_limit_and_not_what_was_sent(message: str, size: str) -> None:
    assert f"context of {size} tokens" in (too_long(message) or "")


# --- what comes back


def _changed(content: object = FINAL, **changes: Any) -> bytes:
    made = body(None)
    made["choices"][0]["message"] |= {"content": content} | changes.pop("message", {})
    made["choices"][0] |= changes.pop("choice", {})
    return json.dumps(made | changes).encode()


CALLED = {"function": {"name": "json", "arguments": FINAL}}
KEPT: dict[str, bytes] = {
    "arguments of a tool": _changed(None, message={"tool_calls": [CALLED]}),
    "arguments of a function": _changed(None, message={"function_call": CALLED["function"]}),
    "an object": _changed(json.loads(FINAL)),
    "a delta": json.dumps({"choices": [{"delta": {"content": FINAL}}]}).encode(),
    "a text": json.dumps({"choices": [{"text": FINAL}]}).encode(),
    "a byte order mark": b"\xef\xbb\xbf" + _changed(),
}


@pytest.mark.parametrize("name", KEPT)
def test_answer_in_another_place_is_kept(name: str) -> None:
    outcome = read_completion(KEPT[name])
    assert outcome.outcome == "ok", outcome
    assert read_reply(outcome.content or "", Rewordings) == WANTED


def test_tokens_by_other_names_are_counted() -> None:
    outcome = read_completion(_changed(usage={"input_tokens": 5, "output_tokens": 7}))
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (5, 7)


def test_thoughts_are_counted_in_the_ledger(store: VariantStore) -> None:
    counts = {
        "prompt_tokens": 5,
        "completion_tokens": 9,
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    with serving(Endpoint(Reply(_changed(usage=counts)))) as endpoint:
        _ask(store, endpoint)
    assert store.query("SELECT completion_tokens, reasoning_tokens FROM calls") == [(9, 7)]


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
def test_answer_that_was_broken_off_is_requested_again(store: VariantStore, reason: str) -> None:
    broken = Reply(_changed('{"rewordings": ["a', choice={"finish_reason": reason}))
    with serving(Endpoint(broken, completion(FINAL))) as endpoint:
        assert _ask(store, endpoint, max_retries=1).value == WANTED
    assert len(endpoint.requests) == 2


def test_answer_that_is_no_json_by_the_word_of_the_endpoint_is_requested_once_more(
    store: VariantStore,
) -> None:
    failed = {"message": "Failed to generate JSON.", "code": "json_validate_failed"}
    with serving(Endpoint(json_reply({"error": failed}, 400), completion(FINAL))) as endpoint:
        assert _ask(store, endpoint, max_retries=1).value == WANTED


def test_list_of_errors_inside_200_is_read() -> None:
    said = {"success": False, "errors": [{"message": "you have used up your daily free allocation"}]}
    outcome = read_completion(json.dumps(said).encode())
    assert outcome.outcome == "http_429"
    assert "add credit" in (cannot_pass(outcome) or "")


def test_compressed_answer_is_read(store: VariantStore) -> None:
    packed = Reply(gzip.compress(_changed()), headers={"content-encoding": "gzip"})
    with serving(Endpoint(packed)) as endpoint:
        assert _ask(store, endpoint).value == WANTED


def test_request_of_many_bytes_arrives_whole(store: VariantStore) -> None:
    config = {"model": "m", "max_retries": 0, "concurrency": 1}
    word = "x" * 3_000_000

    async def one(word: str, teacher: Teacher) -> Answer[Rewordings]:
        return await teacher.ask(PROMPT, {"word": word}, purpose="test", problem_id="p", shape=Rewordings)

    with serving(Endpoint(completion(FINAL))) as endpoint:
        ask(
            store,
            TeacherConfig.model_validate(config | {"base_url": endpoint.url}),
            [partial(one, word)],
        )
    assert word in endpoint.requests[0]["messages"][1]["content"]


THOUGHTS = {
    "Gemma's channel": f"<|channel>thought\n{DRAFT}<channel|>{FINAL}",
    "Granite's words": f"Here is my thought process: {DRAFT}\nHere is my response: {FINAL}",
    "a scratch pad": f"<scratch_pad>{DRAFT}</scratch_pad>{FINAL}",
    "a monologue": f"<internal_monologue>{DRAFT}</internal_monologue>{FINAL}",
    "spaces in the mark": f"< think >{DRAFT}</ think >{FINAL}",
    "an attribute": f'<think type="deep">{DRAFT}</think>{FINAL}',
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_draft_among_thoughts_is_not_the_answer(name: str) -> None:
    assert read_reply(THOUGHTS[name], Rewordings) == WANTED


def test_unclosed_thoughts_with_an_attribute_are_no_answer() -> None:
    with pytest.raises(ShapeError) as raised:
        read_reply(f'<think type="deep">{DRAFT}', Rewordings)
    assert raised.value.kind == "no_answer"
