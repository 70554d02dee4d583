"""Outages: a run ends with exit status 1 and says so in `runs`; the next plain run asks for what is missing."""

from __future__ import annotations

import json
import random
import re
import threading
from typing import Any

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig
from diva_grpo.schemas.records import Kind
from tests.conftest import Diva
from tests.support.endpoints import Endpoint, Reply, Server, completion, json_reply, serving
from tests.support.planted_variants import RIGHT, WORDING, plant

GENERATE = ("generate", "--kinds", "reword", "--rewordings", "1")
VERIFY = ("verify", "--checks", "answer", "--solver-samples", "1")
LABEL = ("label", "--samples", "2")
VERBS = {"generate": GENERATE, "verify": VERIFY, "label": LABEL}


def _error(status: int, message: str, **more: Any) -> Reply:
    return json_reply({"error": {"message": message, **more}}, status)


FOR_GOOD: dict[str, tuple[Reply, str]] = {
    "credit": (_error(402, "Insufficient Balance"), "http_402: .*add credit"),
    "key": (_error(401, "Incorrect API key provided"), "http_401: .*check the key"),
    "forbidden": (_error(403, "You are not allowed"), "http_403: .*what the key may use"),
    "model": (_error(404, "The model `m` does not exist"), "http_404: .*--model"),
    "quota": (_error(429, "No more.", type="insufficient_quota"), "http_429: .*add credit"),
    "Moonshot's balance": (
        _error(
            429, "Your account is suspended due to insufficient balance", type="exceeded_current_quota_error"
        ),
        "http_429: .*add credit",
    ),
    "credit, by 400": (
        _error(400, "Your credit balance is too low to access the API."),
        "http_400: .*add credit",
    ),
    "key, by 400": (
        _error(400, "API key not valid. Please pass a valid API key."),
        "http_400: .*check the key",
    ),
    "credit, inside 200": (
        json_reply({"error": {"message": "Insufficient credits", "code": 402}}),
        "http_402: .*add",
    ),
}


class Failing(Server):
    """Answers well but for the requests after the first so many, as long as it is told to fail."""

    def __init__(self, failure: Reply, after: int) -> None:
        super().__init__(self._reply)
        self.failure: Reply | None = failure
        self._after = after
        self._count = 0
        self._counting = threading.Lock()

    def _reply(self, request: dict[str, Any]) -> Reply:
        with self._counting:
            self._count += 1
            failing = self.failure is not None and self._count > self._after
        if failing and self.failure:
            return self.failure
        if "response_format" not in request:
            return RIGHT
        number = json.dumps(request["messages"])
        return completion(json.dumps({"rewordings": [f"{WORDING} {len(number)}?"]}))


def _run(diva: Diva, store: VariantStore, verb: tuple[str, ...], served: Endpoint, **options: Any) -> Any:
    values = {"concurrency": 1, "max-retries": 0, "model": "m", "base-url": served.url, "store": store.root}
    flags = [part for name, value in (values | options).items() for part in (f"--{name}", value)]
    return diva(*verb, *flags)


def _plant(store: VariantStore) -> None:
    for number in range(4):
        plant(store, number, f"{WORDING} ({number})")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", FOR_GOOD)
def test_failure_that_cannot_pass_ends_the_run(diva: Diva, store: VariantStore, kind: str, verb: str) -> None:
    failure, said = FOR_GOOD[kind]
    _plant(store)
    with serving(Failing(failure, after=2)) as endpoint:
        ended = _run(diva, store, VERBS[verb], endpoint)
        assert ended.code == 1
        assert len(endpoint.requests) == 3, "nothing is sent after the first"
        [line] = ended.err.splitlines()[-1:]
        assert re.search(said, line), line
        assert store.query("SELECT outcome FROM runs") == [("failed",)]
        endpoint.failure = None
        again = _run(diva, store, VERBS[verb], endpoint)
    assert again.code == 0, again.err
    wanted = {"generate": 5, "verify": 4, "label": 10}[verb]
    assert len(endpoint.requests) == wanted + 1, "each that was answered is asked once"


@pytest.mark.parametrize("failure", [Reply(drop=True), Reply(b"", 503)], ids=["network", "503"])
@pytest.mark.parametrize("verb", VERBS)
def test_failures_on_the_way_are_no_success_and_are_asked_again(
    diva: Diva, store: VariantStore, verb: str, failure: Reply
) -> None:
    _plant(store)
    with serving(Failing(failure, after=2)) as endpoint:
        ended = _run(diva, store, VERBS[verb], endpoint)
        assert ended.code == 1
        assert "requests failed" in ended.err
        assert "run the same command again" in ended.err
        assert store.query("SELECT outcome FROM runs") == [("failed",)]
        sent = len(endpoint.requests)
        endpoint.failure = None
        again = _run(diva, store, VERBS[verb], endpoint)
    assert again.code == 0, again.err
    assert len(endpoint.requests) == sent + {"generate": 3, "verify": 2, "label": 8}[verb]


def test_curate_ends_too_and_goes_on(diva: Diva, store: VariantStore) -> None:
    with serving(Failing(FOR_GOOD["credit"][0], after=7)) as endpoint:
        ended = _run(diva, store, CURATE, endpoint)
        assert ended.code == 1
        assert len(endpoint.requests) == 8
        assert "add credit" in ended.err
        assert store.query("SELECT outcome FROM runs") == [("failed",)]
        endpoint.failure = None
        assert _run(diva, store, CURATE, endpoint).code == 0


def test_other_routes_go_on_without_the_one_that_has_no_credit(store: VariantStore) -> None:
    from diva_grpo.schemas.config import Route, TeacherConfig
    from tests.support.sessions import generate

    with (
        serving(Endpoint(FOR_GOOD["credit"][0])) as poor,
        serving(Endpoint(completion(json.dumps({"rewordings": [WORDING]})))) as rich,
    ):
        routes = (Route(base_url=poor.url, weight=3), Route(base_url=rich.url))
        config = TeacherConfig(model="m", endpoint="both", routes=routes, concurrency=1)
        counts = generate(store, config, GenerateConfig(kinds=(Kind.REWORD,), rewordings=1))
    assert counts == {"candidate": 5}
    assert len(poor.requests) == 1


def test_nothing_to_do_says_what_was_passed_over(diva: Diva, store: VariantStore) -> None:
    with serving(Endpoint(completion(None, refusal="no"))) as endpoint:
        assert _run(diva, store, GENERATE, endpoint).code == 1
        again = _run(diva, store, GENERATE, endpoint)
    assert (
        again.out
        == "variants: nothing to do, passed over: 5 that failed before (5 refusal); --retry-failed asks again\n"
    )


def test_endless_429s_say_what_is_waited_for(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from diva_grpo.pipeline.teacher.meter import Meter, state_line
    from diva_grpo.pipeline.teacher.wire import live
    from diva_grpo.schemas.config import TeacherConfig
    from tests.support.sessions import generate

    monkeypatch.setattr(live, "_SAID_AFTER_S", 0.3)  # five seconds
    lines: list[str] = []
    meter = Meter("requests")

    def note(request: dict[str, Any]) -> Reply:
        lines.append(state_line(meter.state()))
        return _error(429, "slow down")

    with serving(Server(note)) as endpoint:
        config = TeacherConfig(model="m", base_url=endpoint.url, concurrency=1, patience_s=2)
        generate(store, config, GenerateConfig(kinds=(Kind.REWORD,)), meter, limit=1)
    assert any("waits since" in line and "http_429: " in line and "gives up" in line for line in lines[1:]), (
        lines
    )
    assert meter.sent == len(endpoint.requests)


PASSING: dict[str, Reply] = {
    "network": Reply(drop=True),
    "cut": Reply(b"{", cut=True),
    "503": Reply(b"", 503),
    "502": Reply(b"<html>", 502),
    "429s without end": _error(429, "slow down"),
    "500 inside 200": json_reply({"error": {"message": "upstream", "code": 500}}),
}
CURATE = ("curate", *GENERATE[1:], *VERIFY[1:], *LABEL[1:])


@pytest.mark.slow
@pytest.mark.parametrize("verb", [*VERBS, "curate"])
@pytest.mark.parametrize("kind", [*PASSING, "credit", "key", "model", "quota"])
def test_outage_at_any_moment(diva: Diva, store: VariantStore, kind: str, verb: str) -> None:
    failure = PASSING[kind] if kind in PASSING else FOR_GOOD[kind][0]
    arguments = {**VERBS, "curate": CURATE}[verb]
    _plant(store)
    after = random.Random(f"{kind} {verb}").randint(0, 3)  # fewer than any verb sends
    options = {"concurrency": 4, "max-retries": 1, "patience-s": 1}
    with serving(Failing(failure, after)) as endpoint:
        ended = _run(diva, store, arguments, endpoint, **options)
        assert ended.code == 1, ended.err
        assert store.query("SELECT outcome FROM runs") == [("failed",)]
        if kind not in PASSING:
            assert len(endpoint.requests) <= after + 4, "only what was in flight"
        endpoint.failure = None
        again = _run(diva, store, arguments, endpoint, **options)
        assert again.code == 0, again.err
        sent = len(endpoint.requests)
        assert _run(diva, store, arguments, endpoint, **options).code == 0
        assert len(endpoint.requests) == sent, "nothing is left to do"
