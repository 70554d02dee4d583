"""A session: opened once a run, its window full over the ends of shards, its end in order."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Stages, curate, generate, in_shards
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher import client
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.journal import Journal
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.teacher.wire.live import LiveExchange
from diva_grpo.schemas.config import GenerateConfig, LabelConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError, DivaError
from diva_grpo.schemas.records import Kind, Problem
from tests.support.endpoints import Endpoint, Reply, completion, serving

REWORD = GenerateConfig(kinds=(Kind.REWORD,), rewordings=1)


@pytest.fixture
def forty(tmp_path: Path) -> VariantStore:
    """A store of 40 problems."""
    store = VariantStore(tmp_path / "forty", create=True)
    store.append(
        [
            Problem(problem_id=f"p/{i:02}", source="p", split="train", text=f"What is {i} + 1?", answer="7")
            for i in range(40)
        ]
    )
    return store


class Writing(Endpoint):
    """Writes one wording, and solves to 7. With a barrier it answers only when so many requests are there at once."""

    def __init__(self, at_once: int = 1) -> None:
        super().__init__()
        self._barrier = threading.Barrier(at_once)

    def next(self, request: dict[str, Any], key: str | None) -> Reply:
        super().next(request, key)
        self._barrier.wait(timeout=60)
        if "response_format" not in request:
            return completion("\\boxed{7}")
        number = re.findall(r"What is (\d+)", request["messages"][-1]["content"])[0]
        return completion(json.dumps({"rewordings": [f"Add one to {number}: what do you get?"]}))


def counted(
    monkeypatch: pytest.MonkeyPatch, counts: Counter[str], holder: Any, name: str, called: str
) -> None:
    """Count the calls of a function, which does what it did."""
    inner: Callable[..., Any] = getattr(holder, name)

    def wrapper(*arguments: Any, **values: Any) -> Any:
        counts[called] += 1
        return inner(*arguments, **values)

    monkeypatch.setattr(holder, name, wrapper)


def test_everything_is_opened_once_a_run(forty: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    counted(monkeypatch, counts, Journal, "__init__", "journals")
    counted(monkeypatch, counts, LiveExchange, "__init__", "exchanges")
    counted(monkeypatch, counts, openai.AsyncOpenAI, "__init__", "clients")
    counted(monkeypatch, counts, client, "read_mended", "parses")
    counted(monkeypatch, counts, client, "read_reply", "parses")
    with serving(Writing()) as served:
        teacher = TeacherConfig(model="m", base_url=served.url, concurrency=8)
        with Session(forty, teacher) as session:
            assert generate(session, REWORD, shard_size=4) == {"candidate": 40}
    assert len(served.requests) == 40
    assert counts == {"journals": 1, "exchanges": 1, "clients": 1, "parses": 40}
    assert forty.query("SELECT count(*) FROM calls") == [(40,)]


def test_nothing_is_opened_where_nothing_is_asked(forty: VariantStore) -> None:
    with Session(forty, TeacherConfig(model="m", base_url="http://127.0.0.1:9/v1")) as session:
        assert generate(session, GenerateConfig(kinds=(Kind.IMAGE,))) == {}
    assert not (forty.root / "journal.sqlite").exists()


def test_no_shard_waits_for_the_end_of_another(forty: VariantStore) -> None:
    with serving(Writing(at_once=8)) as served:  # eight shards' requests, or none is answered
        teacher = TeacherConfig(model="m", base_url=served.url, concurrency=8, timeout_s=60)
        with Session(forty, teacher) as session:
            assert generate(session, REWORD, shard_size=1) == {"candidate": 40}


@pytest.mark.parametrize(("problems", "size"), [(1, 50), (1_600, 50), (3_200, 100), (10**6, 200)])
def test_a_run_has_enough_shards_to_keep_the_endpoint_busy(
    store: VariantStore, problems: int, size: int
) -> None:
    with Session(store) as session:
        assert session.shard_size(problems) == size


def test_a_batch_takes_as_many_problems_as_it_can(store: VariantStore) -> None:
    with Session(store, batch=2) as session:
        assert session.shard_size(1) == 10_000


def test_without_a_size_the_work_is_divided_by_what_is_left(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "many", create=True)
    store.append(
        [
            Problem(problem_id=f"p/{i:03}", source="p", split="train", text=f"What is {i} + 1?", answer="7")
            for i in range(240)
        ]
    )
    with serving(Writing()) as served:
        teacher = TeacherConfig(model="m", base_url=served.url, endpoint="e")
        with Session(store, teacher) as session:
            generate(session, REWORD, problem_ids=[f"p/{i:03}" for i in range(40)])
            ids = store.problem_ids()
            shards = [len(shard) for shard in in_shards(session, Stages(generate=REWORD), ids)]
    assert shards == [50] * 4 + [40]


def test_stages_of_shards_overlap_and_end_as_one_after_the_other(forty: VariantStore, tmp_path: Path) -> None:
    stages = Stages(REWORD, VerifyConfig(checks=("answer",), solver_samples=2), LabelConfig(samples=2))
    results = []
    for number, (shard_size, at_once) in enumerate([(40, 1), (3, 8)]):
        store = VariantStore(tmp_path / str(number), create=True)
        store.append(forty.problems())
        with serving(Writing()) as served:
            teacher = TeacherConfig(model="m", base_url=served.url, endpoint="e", concurrency=at_once)
            with Session(store, teacher) as session:
                done = curate(session, stages, shard_size=shard_size)
        assert (done.generated, done.verified) == ({"candidate": 40}, {"accepted": 40})
        assert done.labelled == {"original": 40, "reword": 40}
        assert len(served.requests) == 40 * (1 + 2 + 2 * 2)
        tables = ("variants", "verdicts", "labels")
        results.append(
            [store.query(f"SELECT * EXCLUDE (created_at) FROM {table} ORDER BY ALL") for table in tables]
        )
    assert results[0] == results[1]


async def _say(number: int, teacher: Teacher) -> str:
    prompt = Prompt("test-1", "s", "Say $word.")
    return (await teacher.ask(prompt, {"word": number}, purpose="t", problem_id=str(number))).text


def test_the_first_error_ends_the_run_and_all_its_shards(forty: VariantStore) -> None:
    ended: list[int] = []

    def work(number: int) -> int:
        try:
            if number == 2:
                raise ConfigError("the third shard is wrong")
            session.teacher.ask([lambda teacher: _say(number, teacher)])
        finally:
            ended.append(number)
        return number

    with serving(Endpoint(completion("42"))) as served:
        teacher = TeacherConfig(model="m", base_url=served.url, concurrency=4)
        with Session(forty, teacher) as session:
            with pytest.raises(ConfigError, match="third shard"):
                list(session.over(range(100), work))
            begun = len(ended)
            with pytest.raises(DivaError, match="third shard"):
                session.teacher.ask([lambda teacher: _say(7, teacher)])
    assert 3 <= begun < 20
    assert len(ended) == begun


def test_a_session_works_within_an_event_loop(forty: VariantStore) -> None:
    """As in a notebook."""
    import asyncio

    async def cell(url: str) -> Counter[str]:
        with Session(forty, TeacherConfig(model="m", base_url=url)) as session:
            return generate(session, REWORD)

    with serving(Writing()) as served:
        assert asyncio.run(cell(served.url)) == {"candidate": 40}
