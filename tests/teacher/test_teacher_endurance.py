"""The teacher under kills and faults, and with a server that others wrote. The benches give larger figures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.schemas.config import TeacherConfig
from tests.bench.kill_teacher import kill_and_compare
from tests.bench.rate_teacher import faults
from tests.support.sessions import ask


@pytest.mark.slow
def test_kills_lose_no_answer_and_change_no_table(tmp_path: Path) -> None:
    figures = kill_and_compare(100, 10, concurrency=8, seed=1, folder=tmp_path)
    assert figures["kills"] == 10
    assert figures["durable answers asked for again"] == 0
    assert figures["requests received"] <= figures["requests allowed"]
    assert figures["problems without a terminal status"] == 0
    assert figures["tables that differ"] == []


@pytest.mark.slow
def test_every_request_to_a_faulty_endpoint_has_its_outcome(tmp_path: Path) -> None:
    figures = faults(60, tmp_path, max_retries=1)
    assert figures["sum"] == 60
    assert figures["in the ledger"] == figures["outcomes"]
    assert set(figures["outcomes"]) <= {"ok", "timeout", "http_503", "refusal", "parse"}
    assert figures["faults"]["requests"] > 60
    assert figures["outcomes"]["ok"] >= 45


def test_a_server_that_others_wrote(store: VariantStore) -> None:
    testing = pytest.importorskip("llmock.testing")
    scenarios = pytest.importorskip("llmock.scenarios")

    async def one(word: str, teacher: Teacher) -> str | None:
        prompt = Prompt("test-1", "You help.", "Say $word.")
        return (await teacher.ask(prompt, {"word": word}, purpose="test", problem_id=word)).failure

    jobs = [partial(one, str(i)) for i in range(20)]
    with testing.LLMockServer() as server:
        for status in (429, 500, 503):
            server.state.scenarios.add(scenarios.Fail(status))
        config = TeacherConfig(model="gpt-4o", base_url=server.base_url("openai"), max_retries=3)
        assert ask(store, config, jobs) == [None] * 20
        assert ask(store, config, jobs) == [None] * 20  # none is sent again
    [(requests, attempts, tokens)] = store.query(
        "SELECT count(*), sum(attempts), min(prompt_tokens) FROM calls WHERE outcome = 'ok'"
    )
    assert (requests, attempts) == (20, 23)
    assert tokens > 0
