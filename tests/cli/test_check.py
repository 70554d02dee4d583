"""`diva check`: an endpoint that answers, one that knows less, none; a store, a server of Prefect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.flows.checks import Check, disk, extras
from diva_grpo.pipeline.store import VariantStore
from tests.conftest import Diva, Outcome
from tests.support.endpoints import Endpoint, Reply, completion, json_reply, serving

STEPS = completion(json.dumps({"steps": ["2 + 2 = 4"], "answer": "4"}))


def found(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(outcome.out)}


def test_an_endpoint_that_answers(diva: Diva) -> None:
    with serving(Endpoint(completion("4"), STEPS, STEPS)) as endpoint:
        done = diva("check", "--base-url", endpoint.url, "--model", "gpt-4.1-mini", "--json")
        assert len(endpoint.requests) == 3
    checks = found(done)
    assert done.code == 0
    assert checks["endpoint"]["said"] == f"{endpoint.url} answers, and knows gpt-4.1-mini"
    assert checks["output"]["said"] == "modes: text, json_object, json_schema"
    assert checks["latency"]["said"].endswith("s for a short answer, 20 tokens")
    assert checks["price"]["said"] == "$0.4 and $1.6 per million tokens sent and answered"


def test_modes_that_an_endpoint_refuses_or_ignores_are_not_named(diva: Diva) -> None:
    refused = json_reply(
        {"error": {"message": "response_format is not supported", "param": "response_format"}}, 400
    )
    with serving(Endpoint(completion("4"), completion("It is 4."), refused)) as endpoint:
        done = diva("check", "--base-url", endpoint.url, "--model", "mine", "--json")
    checks = found(done)
    assert checks["output"]["said"] == "modes: text"
    assert (
        checks["price"]["passed"],
        "add the line `mine: [PROMPT, COMPLETION]`" in checks["price"]["said"],
    ) == (
        None,
        True,
    )
    assert done.code == 0


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (json_reply({"error": {"message": "no such model", "code": "model_not_found"}}, 404), "http_404: "),
        (json_reply({"error": {"message": "bad key"}}, 401), "http_401: "),
        (Reply(drop=True), "network: "),
    ],
)
def test_what_fails_is_one_line_and_one_request(diva: Diva, reply: Reply, words: str) -> None:
    with serving(Endpoint(reply)) as endpoint:
        done = diva("check", "--base-url", endpoint.url, "--model", "m")
        assert len(endpoint.requests) == 1
    [line] = [line for line in done.out.splitlines() if "FAILED" in line]
    assert line.startswith("endpoint ")
    assert words in line
    assert done.code == 1


def test_store_and_disk(diva: Diva, store: VariantStore, tmp_path: Path) -> None:
    done = diva("check", "--store", store.root)
    assert done.code == 0
    assert "5 problems, 0 accepted variants, 0 labels" in done.out
    done = diva("check", "--store", tmp_path / "none")
    assert done.code == 1
    assert "no store at" in done.out
    assert disk(tmp_path / "a" / "b").said.endswith(f"GB free at {tmp_path}")


def test_a_server_of_prefect_that_does_not_answer(diva: Diva, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        done = diva("check")
    assert done.code == 1
    assert "PREFECT_API_URL=http://127.0.0.1:9/api does not answer" in done.out


def test_extras_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diva_grpo.flows.checks._installed", lambda name: name != "torch")
    checks = {one.name: one for one in extras()}
    assert checks["extra train"] == Check(
        "extra train", None, "missing: torch; pip install 'diva-grpo[train]'"
    )
    assert checks["extra curate"] == Check("extra curate", True, "installed")
