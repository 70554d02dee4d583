"""Replies of endpoints as users report them: what is good is kept, what is an error is read as one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.schemas.config import OutputMode, TeacherConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.replies import Answer, HarderTexts, Rewordings
from diva_grpo.schemas.replies import Reply as Structured
from tests.support.endpoints import Endpoint, Reply, Server, body, completion, json_reply, serving
from tests.support.sessions import ask

PROMPT = Prompt(version="test-1", system="You help.", user="Say $word.")
TEXT = "Work this out: what is 2 plus 3?"
GOOD = completion(json.dumps({"rewordings": [TEXT]}))
DRAFT = '{"rewordings": ["A wrong draft only"]}'
FINAL = json.dumps({"rewordings": [TEXT]})


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def _ask(
    store: VariantStore,
    endpoint: Endpoint,
    shape: type[Structured] | None = Rewordings,
    times: int = 1,
    **values: Any,
) -> list[Answer[Structured]]:
    config = TeacherConfig.model_validate(
        {"model": "m", "base_url": endpoint.url, "concurrency": 1, "patience_s": 2} | values
    )

    async def one(word: str, teacher: Teacher) -> Answer[Structured]:
        return await teacher.ask(PROMPT, {"word": word}, purpose="test", problem_id=word, shape=shape)

    return ask(store, config, [partial(one, str(i)) for i in range(times)])


def _texts(store: VariantStore, reply: Reply, mode: OutputMode = "auto") -> list[str]:
    """The texts that are read of a reply, which must do without a second request."""
    with serving(Endpoint(reply)) as endpoint:
        [answer] = _ask(store, endpoint, output_mode=mode)
    assert answer.failure is None
    assert len(endpoint.requests) == 1
    assert isinstance(answer.value, Rewordings)
    return answer.value.rewordings


def _changed(content: object = FINAL, **changes: Any) -> Reply:
    """A good completion with another message, choice or usage."""
    made = body(None)
    choice = made["choices"][0]
    choice["message"]["content"] = content
    choice["message"].update(changes.pop("message", {}))
    choice.update(changes.pop("choice", {}))
    made.update(changes)
    return json_reply(made)


# --- good answers are kept

KEPT: dict[str, Reply] = {
    "content as parts": _changed([{"type": "text", "text": FINAL}]),
    "refusal is false": _changed(message={"refusal": False}),
    "usage is a list": _changed(usage=[]),
    "an extra field": _changed(json.dumps({"rewordings": [TEXT], "notes": "distinct"})),
    "a draft in <thinking>": _changed(f"<thinking>Maybe {DRAFT}?</thinking>\n{FINAL}"),
    "a draft in a channel": _changed(
        f"<|channel|>analysis<|message|>Maybe {DRAFT}?<|end|><|start|>assistant"
        f"<|channel|>final<|message|>{FINAL}"
    ),
}
MODES: tuple[OutputMode, ...] = ("json_schema", "json_object", "text")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", KEPT)
def test_good_answer_is_kept(store: VariantStore, name: str, mode: OutputMode) -> None:
    assert _texts(store, KEPT[name], mode) == [TEXT]


def test_trailing_comma_is_a_failure_with_its_reason(store: VariantStore) -> None:
    with serving(Endpoint(completion(f'{{"rewordings": ["{TEXT}",]}}'))) as endpoint:
        [answer] = _ask(store, endpoint, output_mode="text")
    assert answer.failure is not None
    assert answer.failure.startswith("parse: Invalid JSON: trailing comma")


# --- LaTeX comes through

WRITTEN: dict[str, tuple[str, str]] = {
    "half escaped": (
        r"Find $\\rho + \beta$ where $\\nu = 3$, $\beta = 5$ and $\rho = 2\\nu$.",
        r"Find $\rho + \beta$ where $\nu = 3$, $\beta = 5$ and $\rho = 2\nu$.",
    ),
    "invalid and valid escapes": (
        r"A triangle has angles $\alpha = 30^\circ$ and $\beta = 45^\circ$; is $\theta \neq \beta$?",
        r"A triangle has angles $\alpha = 30^\circ$ and $\beta = 45^\circ$; is $\theta \neq \beta$?",
    ),
    "over-escaped": (
        r"Find $\\\\frac{3}{4} \\\\times 8$ exactly.",
        r"Find $\frac{3}{4} \times 8$ exactly.",
    ),
    "strictly valid": (r"Find $\frac{3}{4} \times 8$ exactly.", r"Find $\frac{3}{4} \times 8$ exactly."),
    "a true line break": (r"First line.\nNow find 2 plus 3.", "First line.\nNow find 2 plus 3."),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WRITTEN)
def test_latex_is_read_as_it_was_meant(store: VariantStore, name: str, mode: OutputMode) -> None:
    written, meant = WRITTEN[name]
    assert _texts(store, completion(f'{{"rewordings": ["{written}"]}}'), mode) == [meant]


# --- failures say what they are


def test_reasoning_without_an_answer_says_what_to_set(store: VariantStore) -> None:
    with serving(Endpoint(_changed("", message={"reasoning_content": "long thoughts"}))) as endpoint:
        [answer] = _ask(store, endpoint)
    assert answer.failure is not None
    assert answer.failure.startswith("no_answer: ")
    assert "--max-tokens" in answer.failure
    assert len(endpoint.requests) == 1


def test_rate_limit_inside_a_200_is_waited_for(store: VariantStore) -> None:
    limited = json_reply({"error": {"message": "Rate limit exceeded", "code": 429}})
    with serving(Endpoint(limited, limited, GOOD)) as endpoint:
        [answer] = _ask(store, endpoint)
    assert answer.failure is None
    assert store.query("SELECT outcome, attempts FROM calls") == [("ok", 3)]


# --- refusals of an output mode


def _without(*kinds: str, status: int, message: str) -> Callable[[dict[str, Any]], Reply]:
    def answer(request: dict[str, Any]) -> Reply:
        if request.get("response_format", {}).get("type") in kinds:
            return json_reply({"error": {"message": message, "code": status}}, status)
        return GOOD

    return answer


@pytest.mark.parametrize(
    ("server", "sent", "mode"),
    [
        (
            _without(
                "json_schema",
                "json_object",
                status=400,
                message="Failed to initialize samplers: failed to parse grammar",
            ),
            3,
            "text",
        ),
        (
            _without(
                "json_schema",
                status=500,
                message="Grammar error: failed to compile grammar for the json schema",
            ),
            2,
            "json_object",
        ),
    ],
    ids=["400", "500"],
)
def test_grammar_error_leads_to_a_simpler_mode(
    store: VariantStore, server: Callable[[dict[str, Any]], Reply], sent: int, mode: str
) -> None:
    with serving(Server(server)) as endpoint:
        [answer] = _ask(store, endpoint)
        assert answer.failure is None
        assert len(endpoint.requests) == sent
        _ask(store, endpoint, times=2)
        assert len(endpoint.requests) == sent + 1, "remembered"
    assert store.query("SELECT DISTINCT outcome, output_mode FROM calls") == [("ok", mode)]


def _faults_by_strict_rules(schema: Any, where: str = "$") -> Iterator[str]:
    """What OpenAI's published rules for strict schemas forbid."""
    if isinstance(schema, list):
        for i, item in enumerate(schema):
            yield from _faults_by_strict_rules(item, f"{where}[{i}]")
    if not isinstance(schema, dict):
        return
    if "$ref" in schema and len(schema) > 1:
        yield f"{where}: $ref with neighbours"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            yield f"{where}: additional properties"
        if sorted(schema.get("required", [])) != sorted(schema.get("properties", {})):
            yield f"{where}: an optional property"
    for word in ("default", "allOf", "not", "if", "patternProperties", "oneOf"):
        if word in schema:
            yield f"{where}: {word}"
    for name, inner in schema.items():
        yield from _faults_by_strict_rules(inner, f"{where}.{name}")


def test_schema_sent_keeps_the_strict_rules(store: VariantStore) -> None:
    harder = {"texts": [{"aspect": "story", "text": TEXT}]}
    with serving(Endpoint(completion(json.dumps(harder)))) as endpoint:
        [answer] = _ask(store, endpoint, HarderTexts)
    assert answer.failure is None
    sent = endpoint.requests[0]["response_format"]["json_schema"]
    assert list(_faults_by_strict_rules(sent["schema"])) == []
    assert "$ref" not in json.dumps(sent), "flat: some servers know no $ref at all"


# --- 429s that do not pass

QUOTAS: dict[str, Reply] = {
    "DashScope": json_reply(
        {
            "error": {
                "message": "You exceeded your current quota, please check your plan and billing details.",
                "type": "Throttling.AllocationQuota",
                "param": None,
                "code": "Throttling.AllocationQuota",
            }
        },
        429,
    ),
    "OpenRouter's day": json_reply(
        {
            "error": {
                "message": "Rate limit exceeded: free-models-per-day",
                "code": 429,
                "metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800000"}},
            }
        },
        429,
        **{"X-RateLimit-Reset": "4102444800000"},
    ),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_used_up_quota_ends_the_run_at_once(store: VariantStore, name: str) -> None:
    started = time.monotonic()
    with serving(Endpoint(QUOTAS[name])) as endpoint, pytest.raises(TeacherError, match="http_429"):
        _ask(store, endpoint, times=5)
    assert len(endpoint.requests) == 1
    assert time.monotonic() - started < 1.5
