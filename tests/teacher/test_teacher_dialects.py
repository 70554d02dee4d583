"""Endpoints seen in the wild: what each refuses or ignores is learnt once, and what comes back is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.pipeline.quantities.escapes import damage
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.teacher.request import Dialect, Request
from diva_grpo.pipeline.teacher.structured import ShapeError, read_reply
from diva_grpo.schemas.config import Route, TeacherConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.replies import Answer, HarderTexts, Judgement, Rewordings, ThinkSteps
from diva_grpo.schemas.replies import Reply as Structured
from tests.support.endpoints import Endpoint, Reply, Server, completion, json_reply, serving
from tests.support.sessions import ask

PROMPT = Prompt(version="test-1", system="You help.", user="Say $word.")
GOOD = completion('{"rewordings": ["a", "b"]}')
WANTED = Rewordings(rewordings=["a", "b"])


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def _ask(
    store: VariantStore, config: TeacherConfig, words: Sequence[str] = ("x",)
) -> list[Answer[Rewordings]]:
    async def one(word: str, teacher: Teacher) -> Answer[Rewordings]:
        return await teacher.ask(PROMPT, {"word": word}, purpose="test", problem_id=word, shape=Rewordings)

    return ask(store, config, [partial(one, word) for word in words])


def _config(url: str, **values: Any) -> TeacherConfig:
    defaults = {"model": "m", "base_url": url, "max_retries": 0, "patience_s": 0, "concurrency": 1}
    return TeacherConfig.model_validate(defaults | values)


def _refused(message: str, status: int = 400, **error: Any) -> Reply:
    return json_reply({"error": {"message": message, **error}}, status)


# --- what is refused


def _without_schemas(request: dict[str, Any]) -> Reply:
    """As DashScope for older models."""
    if request.get("response_format", {}).get("type") == "json_schema":
        return _refused(
            "<400> InternalError.Algo.InvalidParameter: response_format.type must be json_object or text"
        )
    return GOOD


def _without_formats(request: dict[str, Any]) -> Reply:
    """As older llama.cpp builds."""
    return (
        _refused("'response_format' is not supported by this server")
        if "response_format" in request
        else GOOD
    )


def _reasoning_model(request: dict[str, Any]) -> Reply:
    """As OpenAI's."""
    if "max_tokens" in request:
        return _refused(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    if request.get("temperature", 1.0) != 1.0:
        return _refused(
            "Unsupported value: 'temperature' does not support 0.5 with this model.", param="temperature"
        )
    return GOOD


def _without_seed(request: dict[str, Any]) -> Reply:
    """As Mistral's, which checks strictly."""
    extra = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
    return json_reply({"detail": extra}, 422) if "seed" in request else GOOD


def _without_system(request: dict[str, Any]) -> Reply:
    """As servers whose chat template has no system role."""
    if request["messages"][0]["role"] == "system":
        return _refused("System role not supported", 500)
    assert request["messages"][0]["content"].startswith("You help.\n\nSay ")
    return GOOD


def _strictly(request: dict[str, Any]) -> Reply:
    """As Mistral's own API, whose message is an object."""
    if "seed" not in request:
        return GOOD
    extra = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
    return json_reply(
        {"object": "error", "message": {"detail": extra}, "type": "invalid_request_error", "code": None}, 422
    )


def _llama_cpp_python(request: dict[str, Any]) -> Reply:
    """As llama-cpp-python, which answers a schema by a fault of its own."""
    if request.get("response_format", {}).get("type") == "json_schema":
        said = "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type')}]"
        return _refused(said, 500, type="internal_server_error")
    return GOOD


IN_THE_WILD: dict[str, tuple[Callable[[dict[str, Any]], Reply], int, str]] = {
    "no schemas": (_without_schemas, 1, "json_object"),
    "no formats": (_without_formats, 2, "text"),
    "reasoning model": (_reasoning_model, 2, "json_schema"),
    "no seed": (_without_seed, 1, "json_schema"),
    "no seed, strictly": (_strictly, 1, "json_schema"),
    "no system role": (_without_system, 1, "json_schema"),
    "llama-cpp-python": (_llama_cpp_python, 1, "json_object"),
}


@pytest.mark.parametrize("name", IN_THE_WILD)
def test_what_an_endpoint_refuses_is_learnt_once_for_all_runs(store: VariantStore, name: str) -> None:
    server, refusals, mode = IN_THE_WILD[name]
    with serving(Server(server)) as endpoint:
        config = _config(endpoint.url, temperature=0.5)
        assert [answer.value for answer in _ask(store, config, ["1", "2", "3"])] == [WANTED] * 3
        assert len(endpoint.requests) == 3 + refusals
        assert [answer.value for answer in _ask(store, config, ["3", "4"])] == [WANTED] * 2
    assert len(endpoint.requests) == 4 + refusals
    assert store.query("SELECT DISTINCT outcome, output_mode FROM calls") == [("ok", mode)]


def test_configured_output_mode_is_kept_whatever_the_endpoint_says(store: VariantStore) -> None:
    with serving(Server(_without_schemas)) as endpoint:
        [answer] = _ask(store, _config(endpoint.url, output_mode="json_schema"))
    assert answer.failure is not None
    assert answer.failure.startswith("http_400: ")
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        "no such voice",
        "Invalid image",
    ],
)
def test_refusal_for_another_reason_is_not_sent_again(store: VariantStore, message: str) -> None:
    with serving(Endpoint(_refused(message))) as endpoint:
        [answer] = _ask(store, _config(endpoint.url, max_retries=5))
    assert answer.failure == f"http_400: Error code: 400 - {message}"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize(
    ("message", "size"),
    [
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (2952 in the "
            "messages, 2048 in max_tokens). Please reduce the length of the messages or completion.",
            " of 4096 tokens",
        ),
        ("Requested tokens (5000) exceed context window of 2048", " of 2048 tokens"),
        ("the request exceeds the available context size, try increasing it", ""),
    ],
)
def test_context_too_long_says_so_with_the_number(
    store: VariantStore, message: str, size: str, status: int
) -> None:
    with serving(Endpoint(_refused(message, status))) as endpoint:
        [answer] = _ask(store, _config(endpoint.url, max_retries=5))
    wanted = f"http_{status}: prompt and --max-tokens do not fit into the model's context{size}: lower --max-tokens"
    assert answer.failure is not None
    assert answer.failure.startswith(wanted)
    assert len(endpoint.requests) == 1


@given(st.text())
def test_every_refusal_comes_to_an_end(message: str) -> None:
    dialect: Dialect | None = Dialect()
    for _ in range(6):
        if dialect:
            dialect = dialect.after_refusal(f"{message} max_tokens seed temperature", may_change_mode=True)
    assert dialect is None


def test_content_filter_of_azure_is_a_refusal(store: VariantStore) -> None:
    with serving(Endpoint(_refused("filtered", code="content_filter", param="prompt"))) as endpoint:
        [answer] = _ask(store, _config(endpoint.url))
    assert answer.failure == "refusal: Error code: 400 - filtered"


# --- what is ignored


def test_output_mode_that_is_ignored_is_given_up(store: VariantStore) -> None:
    def server(request: dict[str, Any]) -> Reply:
        told = "JSON object of this schema" in json.dumps(request["messages"])
        return GOOD if told else completion("Here are two: a and b")

    words = list("abcdef")
    with serving(Server(server)) as endpoint:
        answers = _ask(store, _config(endpoint.url), words)
    assert [answer.value for answer in answers] == [WANTED] * 6
    assert len(endpoint.requests) == 3 * 2 + 3, "three repairs, then the words are sent along at once"
    assert store.query(
        "SELECT output_mode, count(*), sum(attempts) FROM calls GROUP BY ALL ORDER BY ALL"
    ) == [
        ("json_object", 3, 3),
        ("json_schema", 3, 6),
    ]


def test_single_slip_is_repaired_and_changes_nothing(store: VariantStore) -> None:
    slip = completion('{"rewordings": ["a", ')
    with serving(Endpoint(GOOD, slip, GOOD)) as endpoint:
        answers = _ask(store, _config(endpoint.url), list("abc"))
    assert [answer.value for answer in answers] == [WANTED] * 3
    repair = endpoint.requests[2]["messages"]
    assert [message["role"] for message in repair] == ["system", "user", "assistant", "user"]
    assert repair[2]["content"] == '{"rewordings": ["a", '
    assert "cannot be read" in repair[3]["content"]
    assert store.query("SELECT DISTINCT output_mode FROM calls") == [("json_schema",)]


def test_cost_of_the_answer_that_was_repaired_is_in_the_ledger(store: VariantStore) -> None:
    with serving(Endpoint(completion("oh"), GOOD)) as endpoint:
        _ask(store, _config(endpoint.url, model="gpt-4o"))
    one = (100 * 2.5 + 20 * 10) / 1e6
    assert store.query("SELECT prompt_tokens, completion_tokens, cost_usd, attempts, outcome FROM calls") == [
        (200, 40, pytest.approx(2 * one), 2, "ok")
    ]


# --- what comes back

READABLE = {
    "bare": '{"rewordings": ["a", "b"]}',
    "fenced": '```json\n{"rewordings": ["a", "b"]}\n```',
    "in words": 'Sure! {"rewordings": ["a", "b"]} Anything else?',
    "after a set": 'For x in {1, 2}: {"rewordings": ["a", "b"]}',
    "after another object": '{"note": 1}\n{"rewordings": ["a", "b"]}',
    "after thoughts": '<think>{"rewordings": ["no"]}? Hm.</think>{"rewordings": ["a", "b"]}',
}


@pytest.mark.parametrize("name", READABLE)
def test_readable(name: str) -> None:
    assert read_reply(READABLE[name], Rewordings) == WANTED


def test_line_breaks_and_latex_within_strings_are_taken() -> None:
    text = '{"rewordings": ["one\ntwo", "\\(x\\) \\"y\\" \\u00e9"]}'
    assert read_reply(text, Rewordings).rewordings == ["one\ntwo", '\\(x\\) "y" é']


@pytest.mark.parametrize("mark", ["<think>", "<THINK>", "</think>", "[THINK]", "<|channel|>"])
def test_a_mark_of_thoughts_within_a_text_is_part_of_it(mark: str) -> None:
    reply = Rewordings(rewordings=[f"What does {mark} open?"])
    assert read_reply(f"so {reply.model_dump_json()} there", Rewordings) == reply


# Backslashes and control characters are read for the LaTeX that models mean by them: test_escapes.py says how.
UNESCAPED = st.text(st.characters(exclude_characters="\\", codec="utf-8"), max_size=8).filter(
    lambda text: damage(text) is None
)


@given(st.lists(UNESCAPED, min_size=1, max_size=3), st.data())
def test_reads_its_own_and_never_completes_what_is_cut(texts: list[str], data: st.DataObject) -> None:
    reply = Rewordings(rewordings=texts)
    text = reply.model_dump_json()
    around = data.draw(st.sampled_from(["{}", "so {} there", "```\n{}\n```"]))
    assert read_reply(around.replace("{}", text), Rewordings) == reply
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(ShapeError):
        read_reply(cut, Rewordings)


# --- where it goes


def test_azure_is_asked_by_its_own_urls_and_header(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-secret")
    with serving(Endpoint(GOOD)) as endpoint:
        url = endpoint.url.removesuffix("/v1")
        config = _config(url, api_version="2024-10-21", key_env="AZURE_OPENAI_API_KEY", model="my-gpt")
        [answer] = _ask(store, config)
    assert answer.value == WANTED
    assert endpoint.paths == ["/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"]
    assert endpoint.headers[0]["api-key"] == "azure-secret"
    assert endpoint.requests[0]["max_completion_tokens"] == 2048


def test_routes_share_the_work_by_weight_and_each_has_its_key(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_A", "aaaa")
    monkeypatch.setenv("KEY_B", "bbbb")
    words = [str(i) for i in range(40)]
    with serving(Endpoint(GOOD)) as first, serving(Endpoint(GOOD)) as second:
        routes = (
            Route(base_url=first.url, key_env="KEY_A", weight=3),
            Route(base_url=second.url, key_env="KEY_B"),
        )
        config = TeacherConfig(model="m", endpoint="both", routes=routes, concurrency=4)
        _ask(store, config, words)
        _ask(store, config.model_copy(update={"routes": routes[1:]}), words)  # all there already
    assert abs(len(first.requests) - 30) <= 4
    assert len(first.requests) + len(second.requests) == 40
    assert (set(first.keys), set(second.keys)) == ({"Bearer aaaa"}, {"Bearer bbbb"})


def test_request_that_fails_on_one_route_goes_to_another(store: VariantStore) -> None:
    with serving(Endpoint(Reply(b"", 500))) as broken, serving(Endpoint(GOOD)) as sound:
        routes = (Route(base_url=broken.url, weight=2), Route(base_url=sound.url))
        config = TeacherConfig(model="m", endpoint="both", routes=routes, concurrency=1, max_retries=1)
        answers = _ask(store, config, list("abcd"))
    assert [answer.value for answer in answers] == [WANTED] * 4


def test_routes_need_a_name(store: VariantStore) -> None:
    config = TeacherConfig(model="m", routes=(Route(base_url="http://127.0.0.1:9/v1"),))
    with pytest.raises(ConfigError, match="give --endpoint NAME"):
        _ask(store, config)


# --- what stays

KEYS: dict[type[Structured] | None, str] = {
    None: "14bb6f9444db1a68a65f819b5b2ee7d964e59c6e1ca0f68d89ee3b6c1aaa26ca",
    Rewordings: "7eae646f4e87823bfa0d797441446c19892da68d4990870eb7e54207a1c81c63",
    HarderTexts: "59641ad54031431abeded5b6b33b881919a85cddc8a2cb643433855ff116ecb0",
    ThinkSteps: "8444b048e2b79dc5c4e1bfa20b717a3d9f94b9cc46a3e4eb3d2fb5916c0ada8a",
    Judgement: "f7249dfb92ab4498ccca7da5a96220583bec20968011865cbcc039f87fdf1be5",
}


@pytest.mark.parametrize("shape", KEYS)
def test_keys_of_the_journal_stay_whatever_is_sent(shape: type[Structured] | None) -> None:
    """Of release 0.1: another key would have every answer paid for again."""
    assert Request("e", "m", "s", "c", shape, "auto", 1.0, 2048, 0).key == KEYS[shape]


def test_reasoning_effort_and_further_fields_are_sent_and_part_of_the_key(store: VariantStore) -> None:
    with serving(Endpoint(GOOD)) as endpoint:
        _ask(store, _config(endpoint.url))
        more = {"reasoning_effort": "low", "request_fields": '{"thinking_budget": 64}'}
        _ask(store, _config(endpoint.url, **more))
        _ask(store, _config(endpoint.url, **more))
    plain, asked = endpoint.requests
    assert asked == plain | {"reasoning_effort": "low", "thinking_budget": 64}
