"""The LLM client against an endpoint that fails in every way: each failure has its type, and the run goes on."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from diva_grpo.pipeline.images.shown import NOTHING_SHOWN, Shown
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import GIVE_UP_AFTER, Teacher
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.teacher.structured import ShapeError, read_reply
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import ConfigError, StoreError, TeacherError
from diva_grpo.schemas.replies import Answer, Rewordings, ThinkSteps
from diva_grpo.schemas.replies import Reply as StructuredReply
from tests.support.endpoints import Endpoint, Reply, body, completion, json_reply, serving
from tests.support.sessions import ask

PROMPT = Prompt(version="test-1", system="You help.", user="Say $word.")
GOOD = completion("42")
REWORDINGS = '{"rewordings": ["a", "b"]}'
SOON = {"retry-after": "0.01"}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def _config(served: Endpoint, **values: Any) -> TeacherConfig:
    return TeacherConfig.model_validate(
        {"model": "m", "base_url": served.url, "max_retries": 0, "patience_s": 0, "timeout_s": 5} | values
    )


def _ask(
    store: VariantStore,
    config: TeacherConfig,
    words: Sequence[str] = ("x",),
    shape: type[StructuredReply] | None = None,
    images: Shown = NOTHING_SHOWN,
) -> list[Answer[StructuredReply]]:
    async def one(word: str, teacher: Teacher) -> Answer[StructuredReply]:
        values: dict[str, object] = {"word": word}
        return await teacher.ask(PROMPT, values, purpose="test", problem_id=word, shape=shape, images=images)

    return ask(store, config, [partial(one, word) for word in words])


def _calls(store: VariantStore, columns: str) -> list[tuple[Any, ...]]:
    return store.query(f"SELECT {columns} FROM calls ORDER BY problem_id")


# --- failures have their types

FAULTS: dict[str, tuple[Reply, str]] = {
    "400": (json_reply({"error": {"message": "no such parameter"}}, 400), "http_400: .*no such parameter"),
    "410": (
        Reply(b"<html>\n<p>not\nhere</p></html>", 410, {"content-type": "text/html"}),
        "http_410: ",
    ),
    "429": (json_reply({"error": {"message": "slow down"}}, 429), "http_429: .*slow down"),
    "500": (Reply(b"oops", 500), "http_500: "),
    "503, empty": (Reply(b"", 503), "http_503: "),
    "hang": (Reply(GOOD.body, delay_s=1.5), "timeout: "),
    "lost connection": (Reply(drop=True), "network: "),
    "cut transfer": (Reply(GOOD.body, cut=True), "network: "),
    "cut JSON": (Reply(GOOD.body[:-30]), "parse: no chat completion"),
    "not JSON": (Reply(b"\x00\xff garbage"), "parse: no chat completion"),
    "HTML": (
        Reply(b"<html>login</html>", headers={"content-type": "text/html"}),
        "parse: no chat completion",
    ),
    "empty body": (Reply(b""), "parse: no chat completion"),
    "a list": (json_reply([1, 2]), "parse: no chat completion"),
    "null": (json_reply(None), "parse: no chat completion"),
    "wrong shape": (json_reply({"hello": 1}), "parse: no chat completion: choices"),
    "error with 200": (
        json_reply({"error": {"message": "no capacity"}, "choices": None}),
        "http_503: an error with status 200: no capacity",
    ),
    "half of a character": (json_reply(body("\ud800")), "parse: no chat completion"),
    "half of a character in an error": (
        json_reply({"error": {"message": "not \ud800"}}, 400),
        "http_400: .*not \\?",
    ),
    "parameter that is no name": (
        json_reply({"error": {"message": "no", "param": ["temperature"]}}, 400),
        "http_400: .*no",
    ),
    "no choices": (json_reply(body("x") | {"choices": []}), "parse: the answer has no choices"),
    "no message": (json_reply(body("x") | {"choices": [{}]}), "parse: .*message"),
    "no content": (completion(None), "parse: the answer has no content"),
    "refusal": (completion(None, refusal="I cannot"), "refusal: I cannot"),
    "content filter": (completion("", finish_reason="content_filter"), "refusal: content filter"),
    "length": (completion("half an ans", finish_reason="length"), "length: cut at .*raise --max-tokens"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failure_has_its_type_and_the_run_goes_on(store: VariantStore, fault: str) -> None:
    reply, wanted = FAULTS[fault]
    with serving(Endpoint(reply, GOOD)) as endpoint:
        config = _config(endpoint, concurrency=1, timeout_s=1.0 if fault == "hang" else 60.0)
        failed, fine = _ask(store, config, ["1", "2"])
    assert failed.failure is not None
    assert re.match(wanted, failed.failure), failed.failure
    assert "\n" not in failed.failure
    assert (fine.text, fine.failure) == ("42", None)
    assert _calls(store, "outcome") == [(wanted.split(":")[0],), ("ok",)]


STRUCTURE_FAULTS = {
    "no JSON": ("Here you are: a, b", "parse: "),
    "cut JSON": ('{"rewordings": ["a", ', "parse: "),
    "another field": ('{"wordings": ["a"]}', "schema: rewordings: Field required"),
    "another type": ('{"rewordings": "a"}', "schema: rewordings: "),
    "half of a character": ('{"rewordings": ["\\ud800"]}', "parse: "),
    "an element of another type": ('{"rewordings": ["a", 1]}', "schema: rewordings.1: "),
    "a list": ('["a", "b"]', "schema: "),
}


@pytest.mark.parametrize("fault", STRUCTURE_FAULTS)
def test_answer_of_another_structure_is_a_failure(store: VariantStore, fault: str) -> None:
    content, wanted = STRUCTURE_FAULTS[fault]
    with serving(Endpoint(completion(content))) as endpoint:
        [answer] = _ask(store, _config(endpoint), shape=Rewordings)
    assert answer.value is None
    assert answer.failure is not None
    assert answer.failure.startswith(wanted)
    assert answer.text == content  # kept as evidence


def test_answer_of_nothing_but_brackets_is_a_failure_at_any_depth() -> None:
    """JSON's reader and writer give up at different depths."""
    for depth in range(900, 1_010):
        with pytest.raises(ShapeError):
            read_reply('So: {"rewordings": ' + "[" * depth + "]" * depth + "}", Rewordings)


# --- retries


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_passing_error_is_tried_again(store: VariantStore, status: int) -> None:
    with serving(Endpoint(Reply(b"", status, SOON), Reply(b"", status, SOON), GOOD)) as endpoint:
        [answer] = _ask(store, _config(endpoint, max_retries=2, patience_s=5))
    assert answer.text == "42"
    assert _calls(store, "attempts, outcome") == [(3, "ok")]


@pytest.mark.parametrize("reply", [Reply(b"", 500, SOON), Reply(drop=True), Reply(b"", delay_s=0.4)])
def test_attempts_of_a_failure_are_counted(store: VariantStore, reply: Reply) -> None:
    with serving(Endpoint(reply)) as endpoint:
        _ask(store, _config(endpoint, max_retries=1, timeout_s=0.2))
    assert _calls(store, "attempts") == [(2,)]
    assert len(endpoint.requests) == 2


def test_wrong_request_is_not_tried_again(store: VariantStore) -> None:
    with serving(Endpoint(Reply(b"", 400))) as endpoint:
        _ask(store, _config(endpoint, max_retries=5))
    assert len(endpoint.requests) == 1
    assert _calls(store, "attempts") == [(1,)]


def test_retry_after_is_waited_for(store: VariantStore) -> None:
    started = time.monotonic()
    with serving(Endpoint(Reply(b"", 429, {"retry-after": "1.2"}), GOOD)) as endpoint:
        _ask(store, _config(endpoint, patience_s=5))
    assert time.monotonic() - started > 1.2  # without the header it would be half a second


# --- giving up


def test_endpoint_that_never_answers_is_given_up(store: VariantStore) -> None:
    words = [str(i) for i in range(10 * GIVE_UP_AFTER)]
    with (
        serving(Endpoint(json_reply({"error": {"message": "oh no"}}, 500))) as endpoint,
        pytest.raises(TeacherError, match=r"answered none of 16 requests \(http_500: .*oh no.*check the URL"),
    ):
        _ask(store, _config(endpoint, concurrency=2), words)
    assert len(endpoint.requests) <= GIVE_UP_AFTER + 2


def test_endpoint_that_answers_no_more_is_given_up(store: VariantStore) -> None:
    words = [str(i) for i in range(2 * GIVE_UP_AFTER)]
    with (
        serving(Endpoint(GOOD, Reply(b"", 500))) as endpoint,
        pytest.raises(TeacherError, match=r"answered none of the last 16 requests .*run the same command"),
    ):
        _ask(store, _config(endpoint, concurrency=1), words)
    assert len(endpoint.requests) == 1 + GIVE_UP_AFTER


def test_endpoint_that_answers_now_and_then_is_not_given_up(store: VariantStore) -> None:
    words = [str(i) for i in range(2 * GIVE_UP_AFTER)]
    replies = [Reply(b"", 500)] * (GIVE_UP_AFTER - 1) + [GOOD]
    with serving(Endpoint(*replies, *replies)) as endpoint:
        answers = _ask(store, _config(endpoint, concurrency=1), words)
    assert sum(answer.failure is None for answer in answers) == 2


def test_endpoint_that_only_refuses_is_not_given_up(store: VariantStore) -> None:
    words = [str(i) for i in range(2 * GIVE_UP_AFTER)]
    with serving(Endpoint(completion(None, refusal="no"))) as endpoint:
        answers = _ask(store, _config(endpoint), words)
    assert {answer.failure for answer in answers} == {"refusal: no"}


# --- what is sent


def _sent(store: VariantStore, shape: type[StructuredReply] | None, **values: Any) -> dict[str, Any]:
    with serving(Endpoint(completion(REWORDINGS))) as endpoint:
        [answer] = _ask(store, _config(endpoint, **values), shape=shape)
    assert answer.failure is None
    assert answer.value == (Rewordings(rewordings=["a", "b"]) if shape else None)
    [request] = endpoint.requests
    return request


def test_plain_text_request(store: VariantStore) -> None:
    request = _sent(store, None, temperature=0.5, max_tokens=7)
    assert request == {
        "model": "m",
        "messages": [{"role": "system", "content": "You help."}, {"role": "user", "content": "Say x."}],
        "temperature": 0.5,
        "max_tokens": 7,
        "seed": 0,
    }


def test_json_schema_mode_sends_the_schema(store: VariantStore) -> None:
    request = _sent(store, Rewordings, output_mode="json_schema")
    wanted = {"name": "Rewordings", "schema": Rewordings.model_json_schema(), "strict": True}
    assert request["response_format"] == {"type": "json_schema", "json_schema": wanted}
    assert request["messages"][1]["content"] == "Say x."
    assert _calls(store, "output_mode") == [("json_schema",)]


def test_json_object_mode_tells_the_schema_in_the_message(store: VariantStore) -> None:
    request = _sent(store, Rewordings, output_mode="json_object")
    assert request["response_format"] == {"type": "json_object"}
    assert json.dumps(Rewordings.model_json_schema()) in request["messages"][1]["content"]
    assert _calls(store, "output_mode") == [("json_object",)]


def test_text_mode_asks_in_words_alone(store: VariantStore) -> None:
    request = _sent(store, Rewordings, output_mode="text")
    assert "response_format" not in request
    assert json.dumps(Rewordings.model_json_schema()) in request["messages"][1]["content"]
    assert _calls(store, "output_mode") == [("text",)]


@pytest.mark.parametrize("around", ["```json\n{}\n```", "Sure! {} There you go.", "\n\n{}\n"])
def test_json_is_found_among_words(store: VariantStore, around: str) -> None:
    content = around.replace("{}", '{"steps": ["x = {1}"], "answer": "1"}')
    with serving(Endpoint(completion(content))) as endpoint:
        [answer] = _ask(store, _config(endpoint, output_mode="text"), shape=ThinkSteps)
    assert answer.value == ThinkSteps(steps=["x = {1}"], answer="1")


def test_images_are_sent_in_order_as_data_urls(store: VariantStore, tmp_path: Path) -> None:
    colours = {"b.png": (255, 0, 0), "a.png": (0, 0, 255)}
    for name, colour in colours.items():
        Picture.new("RGB", (2, 2), colour).save(tmp_path / name)
    with serving(Endpoint(GOOD)) as endpoint:
        _ask(store, _config(endpoint), images=Shown(tuple(tmp_path / name for name in colours)))
    *images, text = endpoint.requests[0]["messages"][1]["content"]
    urls = [image["image_url"]["url"] for image in images]
    assert [url.split(",")[0] for url in urls] == ["data:image/png;base64"] * 2
    sent = [Picture.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]
    assert [picture.getpixel((0, 0)) for picture in sent] == list(colours.values())
    assert text == {"type": "text", "text": "Say x."}


def test_concurrency_is_a_limit(store: VariantStore) -> None:
    with serving(Endpoint(Reply(GOOD.body, delay_s=0.05))) as endpoint:
        _ask(store, _config(endpoint, concurrency=3), [str(i) for i in range(12)])
    assert endpoint.most_at_once == 3


def test_answers_come_in_the_order_of_the_questions(store: VariantStore) -> None:
    slow_first = [Reply(completion(str(i)).body, delay_s=0.2 - 0.05 * i) for i in range(4)]
    with serving(Endpoint(*slow_first)) as endpoint:
        answers = _ask(store, _config(endpoint), list("abcd"))
    by_word = {r["messages"][1]["content"]: str(i) for i, r in enumerate(endpoint.requests)}
    assert [answer.text for answer in answers] == [by_word[f"Say {word}."] for word in "abcd"]


# --- the ledger


def test_usage_and_cost_are_in_the_ledger(store: VariantStore, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("m: [2.0, 10.0]\n")
    with serving(Endpoint(GOOD)) as endpoint:
        _ask(store, _config(endpoint, prices=tmp_path / "prices.yaml", endpoint="mine"))
    [row] = _calls(
        store, "purpose, endpoint, model, problem_id, prompt_tokens, completion_tokens, cost_usd, outcome"
    )
    assert row == ("test", "mine", "m", "x", 100, 20, pytest.approx((100 * 2 + 20 * 10) / 1e6), "ok")
    [(latency, age)] = _calls(store, "latency_s, epoch(now()::TIMESTAMP - created_at)")
    assert 0 < latency < 5
    assert abs(age) < 60


def test_cost_of_an_unknown_model_is_null(store: VariantStore) -> None:
    with serving(Endpoint(GOOD)) as endpoint:
        _ask(store, _config(endpoint))
    assert _calls(store, "prompt_tokens, cost_usd") == [(100, None)]


def test_cost_of_a_known_model_is_by_the_shipped_table(store: VariantStore) -> None:
    with serving(Endpoint(GOOD)) as endpoint:
        _ask(store, _config(endpoint, model="gpt-4o"))
    assert _calls(store, "cost_usd") == [(pytest.approx((100 * 2.5 + 20 * 10) / 1e6),)]


def test_answer_without_usage_has_no_cost(store: VariantStore) -> None:
    reply = body("42")
    del reply["usage"]
    with serving(Endpoint(json_reply(reply))) as endpoint:
        [answer] = _ask(store, _config(endpoint, model="gpt-4o"))
    assert answer.text == "42"
    assert _calls(store, "prompt_tokens, completion_tokens, cost_usd") == [(None, None, None)]


@pytest.mark.parametrize("count", [10**30, -1])
def test_count_of_tokens_that_is_none_is_left_out(store: VariantStore, count: int) -> None:
    reply = body("42")
    reply["usage"]["prompt_tokens"] = count
    with serving(Endpoint(json_reply(reply))) as endpoint:
        [answer] = _ask(store, _config(endpoint, model="gpt-4o"))
    assert answer.text == "42"
    assert _calls(store, "prompt_tokens, completion_tokens, cost_usd") == [(None, 20, None)]


def test_failed_answer_that_was_paid_for_has_its_cost(store: VariantStore) -> None:
    with serving(Endpoint(completion("no JSON"))) as endpoint:
        _ask(store, _config(endpoint, model="gpt-4o"), shape=Rewordings)
    [(outcome, cost)] = _calls(store, "outcome, cost_usd")
    assert (outcome, cost > 0) == ("parse", True)


# --- settings


def test_no_endpoint_and_no_key_is_one_line(store: VariantStore) -> None:
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY, or give --base-url") as caught:
        _ask(store, TeacherConfig(model="m"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "nonsense", "ftp://x/v1"])
def test_base_url_without_http_is_one_line(store: VariantStore, url: str) -> None:
    with pytest.raises(ConfigError, match="must begin with http"):
        _ask(store, TeacherConfig(model="m", base_url=url))


def test_base_url_may_come_from_the_environment(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Endpoint(GOOD)) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        [answer] = _ask(store, TeacherConfig(model="m"))
    assert answer.text == "42"
    assert endpoint.keys == ["Bearer secret"]
    assert _calls(store, "endpoint") == [(endpoint.url,)]


@pytest.mark.parametrize("content", ["m: cheap", "- m", "m: [1]", "m: [", "\xff"])
def test_unreadable_price_table_is_one_line(store: VariantStore, tmp_path: Path, content: str) -> None:
    (tmp_path / "prices.yaml").write_text(content, encoding="latin-1")
    config = TeacherConfig(model="m", base_url="http://127.0.0.1:9/v1", prices=tmp_path / "prices.yaml")
    with pytest.raises(ConfigError, match="price table") as caught:
        _ask(store, config)
    assert "\n" not in str(caught.value)


def test_missing_image_is_the_error_that_says_so(store: VariantStore) -> None:
    async def job(teacher: Teacher) -> None:
        store.image_path("0" * 64)

    config = TeacherConfig(model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(StoreError, match="ingest its source again"):
        ask(store, config, [job, job])


def test_missing_image_of_one_problem_lets_the_answers_in_flight_be_kept(store: VariantStore) -> None:
    async def job(teacher: Teacher) -> None:
        while not endpoint.requests:
            await asyncio.sleep(0.01)
        store.image_path("0" * 64)

    async def asks(word: str, teacher: Teacher) -> None:
        await teacher.ask(PROMPT, {"word": word}, purpose="t", problem_id=word)

    with serving(Endpoint(Reply(GOOD.body, delay_s=0.5))) as endpoint:
        jobs: list[Callable[[Teacher], Awaitable[None]]] = [
            partial(asks, "1"),
            job,
            partial(asks, "2"),
            partial(asks, "3"),
        ]
        with pytest.raises(StoreError, match="ingest its source again"):
            ask(store, _config(endpoint, concurrency=3), jobs)
    assert len(endpoint.requests) == 2
    assert _calls(store, "outcome") == [("ok",), ("ok",)]


def test_key_with_the_end_of_a_line_is_used_without(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-very-secret-4711\r\n")
    with serving(Endpoint(GOOD)) as endpoint:
        [answer] = _ask(store, _config(endpoint))
    assert answer.failure is None
    assert endpoint.keys == ["Bearer sk-very-secret-4711"]


@pytest.mark.parametrize("key", ["sk-very\nsecret-4711", "sk-verysecrét-4711"])
def test_key_that_no_header_can_hold_is_one_line_without_it(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(Endpoint(GOOD)) as endpoint, pytest.raises(ConfigError) as caught:
        _ask(store, _config(endpoint))
    assert (
        str(caught.value)
        == "OPENAI_API_KEY contains a character that cannot be part of an API key: set it again"
    )


def test_works_inside_of_a_running_event_loop(store: VariantStore) -> None:
    async def notebook() -> list[Answer[StructuredReply]]:
        return _ask(store, config)

    with serving(Endpoint(GOOD)) as endpoint:
        config = _config(endpoint)
        [answer] = asyncio.run(notebook())
    assert answer.text == "42"
