"""Where API keys may go."""

from __future__ import annotations

import pytest

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.judge import Judge
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.wire.keys import KEY_HOSTS, key_for, key_host
from diva_grpo.schemas.config import VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Variant
from tests.support.endpoints import Endpoint, Reply, serving
from tests.support.planted_variants import REWORD, plant, teacher_of
from tests.support.sessions import generate

KEY = "sk-secret-1"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.delenv(KEY_HOSTS, raising=False)


def test_a_key_goes_anywhere_where_nothing_is_said() -> None:
    assert key_for("A_KEY", "http://anywhere.example/v1") == KEY


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example/v1",
        "https://API.example:443/other",
        "HTTPS://user:word@api.example:443/v1?x=1",
        "https://api.example",
    ],
)
def test_a_host_has_one_name(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(KEY_HOSTS, "OTHER_KEY=http://x A_KEY=https://api.example:443/v1")
    assert key_for("A_KEY", url) == KEY


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("A_KEY", "http://api.example/v1"),
        ("A_KEY", "https://api.example:444/v1"),
        ("A_KEY", "https://api.example.evil/v1"),
        ("A_KEY", "https://api.example@evil.example/v1"),
        ("A_KEY", "https://evil.example\\@api.example/v1/../"),
        ("A_KEY", "https://evil.example#@api.example"),
        ("OTHER_KEY", "https://api.example/v1"),
        ("A_KEY=https://api.example B", "https://api.example"),
    ],
)
def test_a_key_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(KEY_HOSTS, "OTHER_KEY=http://x A_KEY=https://api.example")
    if "\\@" in url:  # the HTTP client takes what comes after the @ for the host, and so do we
        assert key_host(name, url) == "A_KEY=https://api.example"
        return
    with pytest.raises(ConfigError, match="may not be sent to"):
        key_for(name, url)


def test_nothing_may_go_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_HOSTS, "")
    with pytest.raises(ConfigError, match="allows nothing"):
        key_for("A_KEY", "https://api.example")


@pytest.mark.parametrize("options", [{}, {"routes": True}, {"api_version": "2024-10-21"}])
def test_no_request_is_sent_to_a_host_that_is_not_allowed(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    monkeypatch.setenv(KEY_HOSTS, "A_KEY=http://127.0.0.1:9")
    with serving(Endpoint()) as thief:
        if options.pop("routes", None):
            options["routes"] = ({"base_url": thief.url, "key_env": "A_KEY"},)
        config = teacher_of(thief, key_env="A_KEY", **options)
        with pytest.raises(ConfigError, match="A_KEY may not be sent to"):
            generate(store, config, REWORD)
        assert thief.requests == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_takes_no_key_along(store: VariantStore, status: int) -> None:
    with serving(Endpoint()) as thief:
        there = Reply(status=status, headers={"Location": f"{thief.url}/chat/completions"})
        with serving(Endpoint(there)) as endpoint:
            generate(store, teacher_of(endpoint, key_env="A_KEY"), REWORD)
        assert f"Bearer {KEY}" in endpoint.keys
    assert not any(thief.keys)


def test_a_judge_elsewhere_gets_no_key(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_HOSTS, "A_KEY=http://127.0.0.1:9")
    plant(store, 0, "How many?")
    [variant], [problem] = store.read(Variant), store.problems(["w/0"])
    with serving(Endpoint()) as thief:
        checks = VerifyConfig(checks=("judge",), judge_base_url=thief.url)
        solver = teacher_of(thief, key_env="A_KEY", base_url="http://127.0.0.1:9/v1")
        session = Session(store, solver)
        judge = Judge.for_verify(session, checks)
        assert judge
        with session, pytest.raises(ConfigError, match="A_KEY may not be sent to"):
            judge.compare([(variant, problem)])
        assert thief.requests == []
