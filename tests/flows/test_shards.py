"""Shards of the flows on several task runners: the same store, one budget, and limits that several share."""

from __future__ import annotations

import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.task_runners import ProcessPoolTaskRunner

from diva_grpo.flows.runs.curate import curate
from diva_grpo.flows.runs.shards import Order, Run, endpoint_tag, shared, worked
from diva_grpo.flows.runs.stages import generate, label, verify
from diva_grpo.pipeline.session.references import References
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Stages, curate_shard
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import (
    CurateConfig,
    GenerateConfig,
    GenerateFlowConfig,
    LabelConfig,
    LabelFlowConfig,
    TeacherConfig,
    VerifyConfig,
    VerifyFlowConfig,
)
from diva_grpo.schemas.exceptions import BudgetError, ConfigError
from diva_grpo.schemas.records import Kind
from tests.conftest import Diva
from tests.support.endpoints import Endpoint, completion, serving
from tests.support.planted_variants import plant, teacher_of

REWORD = GenerateConfig(kinds=(Kind.REWORD,), rewordings=1)


def _content(store: VariantStore) -> dict[str, list[Any]]:
    """What a store holds, without times, latencies and names of runs."""
    return {
        "variants": store.query("SELECT * EXCLUDE (created_at) FROM variants ORDER BY variant_id"),
        "verdicts": store.query("SELECT * EXCLUDE (created_at) FROM verdicts ORDER BY ALL"),
        "labels": store.query("SELECT * EXCLUDE (created_at) FROM labels ORDER BY ALL"),
        "shortages": store.query("SELECT * EXCLUDE (created_at) FROM shortages ORDER BY ALL"),
        "settings": store.query("SELECT * FROM settings ORDER BY ALL"),
        "calls": store.query("SELECT request_hash, purpose, problem_id, outcome FROM calls ORDER BY ALL"),
        "runs": store.query("SELECT kind, model, outcome FROM runs ORDER BY ALL"),
    }


def _order(store: VariantStore, **values: Any) -> Order:
    ids = tuple(problem.problem_id for problem in store.problems())
    defaults: dict[str, Any] = {"number": 1, "problem_ids": ids, "run_id": "r", "began_ns": time.time_ns()}
    return Order(**(defaults | values))


def _generate_config(store: VariantStore, endpoint: TeacherConfig, **values: Any) -> GenerateFlowConfig:
    defaults: dict[str, Any] = {"store": store.root, "teacher": endpoint, "generate": REWORD}
    return GenerateFlowConfig(**(defaults | values))


# --- without Prefect's server


def test_tasks_at_once_share_the_limits_of_an_endpoint() -> None:
    teacher = TeacherConfig(model="m", concurrency=10, requests_per_minute=90)
    of_four = shared(teacher, 4)
    assert (of_four.concurrency, of_four.requests_per_minute, of_four.tokens_per_minute) == (2, 22.5, None)
    assert shared(teacher, 20).concurrency == 1
    assert shared(teacher, 1) == teacher


@pytest.mark.parametrize(
    ("settings", "tag"),
    [
        ({"endpoint": "ours"}, "endpoint:ours"),
        ({"base_url": "http://me:secret@gpu-1:8000/v1?key=1"}, "endpoint:gpu-1:8000"),
    ],
)
def test_runs_that_share_an_endpoint_share_a_tag(settings: dict[str, Any], tag: str) -> None:
    assert endpoint_tag(TeacherConfig(model="m", **settings)) == tag


def test_batches_are_for_one_worker() -> None:
    with pytest.raises(ValueError, match="leave workers out"):
        CurateConfig(store=Path("s"), teacher=TeacherConfig(model="m"), batch=True, workers=2)


def test_time_of_a_task() -> None:
    config = CurateConfig(store=Path("s"), teacher=TeacherConfig(model="m"))
    assert config.timeout_s is None, "Prefect would warn that it cannot interrupt a thread"
    assert config.model_copy(update={"shard_timeout_s": 5.0}).timeout_s == 5
    assert config.model_copy(update={"runner": "ray", "workers": 2}).timeout_s == 6 * 3600


def test_what_a_task_is_told_can_be_sent(store: VariantStore, endpoint: TeacherConfig) -> None:
    sent = (_generate_config(store, endpoint), _order(store, allowance=0.5))
    assert pickle.loads(pickle.dumps(sent)) == sent
    of_two_hundred = Order(1, tuple(f"source/{i}" for i in range(200)), "r", time.time_ns())
    assert len(pickle.dumps(of_two_hundred)) < 10_000


def test_task_in_another_process_tells_what_it_sent(store: VariantStore, endpoint: TeacherConfig) -> None:
    config, order = _generate_config(store, endpoint), _order(store)
    done = worked(config, order)
    assert done.counts == {"generated": {"candidate": 5}}
    assert done.stopped is None
    assert done.usage
    assert (done.usage.sent, done.usage.failures, done.usage.spent) == (5, {}, 0.0)


def test_allowance_holds_through_retries_of_a_task(store: VariantStore, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: [0, 5000]\n")  # ten cents an answer of twenty tokens
    with serving(Endpoint(completion('{"rewordings": []}'))) as served:
        teacher = teacher_of(served, prices=prices)
        config, order = _generate_config(store, teacher), _order(store, allowance=0.3, run_id="budget")
        first, second = (worked(config, order) for _ in range(2))
    assert len(served.requests) == 3
    for done in (first, second):
        assert done.stopped
        assert done.stopped.startswith("--max-cost is reached: $0.3000 of $0.3")
        assert done.usage
        assert done.usage.spent == pytest.approx(0.3)


def test_shards_compare_with_what_was_there_when_the_run_began(store: VariantStore) -> None:
    text = "A farmer fills 5 boxes with 6 eggs each: how many eggs are that altogether, if none is broken?"
    began_ns = time.time_ns()
    before = store.variant_parts(began_ns)
    plant(store, 0, text, status="accepted", problem_id="w/1", variant_id="w/1:reword:0")
    checks = VerifyConfig()
    [problem] = [p.model_copy(update={"problem_id": "w/9"}) for p in store.problems(["w/1"])]
    then, now = (References.of(store, checks, variant_parts=parts).others for parts in (before, None))
    assert then is not None
    assert now is not None
    assert store.variant_parts(began_ns) == before
    assert (then.like(text, problem), now.like(text, problem)) == (None, "w/1")
    store.compact(grace_s=0)
    again = References.of(store, checks, variant_parts=store.variant_parts(began_ns)).others
    assert again is not None
    assert len(again) == len(then)


def test_what_passes_in_a_shard_is_known_to_it_alone(store: VariantStore) -> None:
    references = References.of(store, VerifyConfig())
    mine, other = references.layered(), references.layered()
    assert mine.others is not None
    assert other.others is not None
    [problem] = store.problems(["w/1"])
    text = "A farmer fills 5 boxes with 6 eggs each: how many eggs are that altogether, if none is broken?"
    mine.others.add([(problem, text)])
    twin = problem.model_copy(update={"problem_id": "w/9"})
    assert (mine.others.like(text, twin), other.others.like(text, twin)) == ("w/1", None)
    assert mine.others.like(problem.text, twin) == "w/1", "what they have in common"
    assert len(mine.others) == len(other.others) + 1


# --- run by Prefect


def _curate_config(store: VariantStore, endpoint: TeacherConfig, **values: Any) -> CurateConfig:
    defaults: dict[str, Any] = {
        "store": store.root,
        "teacher": endpoint,
        "generate": GenerateConfig(rewordings=2),
        "label": LabelConfig(samples=2),
        "shard_size": 2,
    }
    return CurateConfig(**(defaults | values))


@pytest.mark.slow
def test_the_same_store_by_any_runner(
    store: VariantStore,
    endpoint: TeacherConfig,
    tmp_path: Path,
    prefect: None,
) -> None:
    threads, processes = (
        VariantStore(shutil.copytree(store.root, tmp_path / name)) for name in ("threads", "processes")
    )
    counts = curate(_curate_config(store, endpoint))
    expected = _content(store)
    assert len(expected["variants"]) == 19
    assert curate(_curate_config(threads, endpoint, workers=2)) == counts
    assert _content(threads) == expected
    runner: Any = ProcessPoolTaskRunner(max_workers=2)
    apart = curate.with_options(task_runner=runner)
    assert apart(_curate_config(processes, endpoint, workers=2)) == counts
    assert _content(processes) == expected


@pytest.mark.slow
def test_budget_of_a_run_in_several_processes(store: VariantStore, tmp_path: Path, prefect: None) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: [0, 5000]\n")
    processes: Any = ProcessPoolTaskRunner(max_workers=2)
    apart = generate.with_options(task_runner=processes)
    with serving(Endpoint(completion('{"rewordings": ["a"]}'))) as served:
        config = _generate_config(store, teacher_of(served, prices=prices), workers=2, shard_size=2)
        # The first two shards may spend fifteen cents each, which is one answer and a half, and is two.
        with pytest.raises(BudgetError, match="--max-cost"):
            apart(config.model_copy(update={"max_cost": 0.3}))
        assert 3 <= len(served.requests) <= 4
        apart(config.model_copy(update={"max_cost": 1.0}))
    assert len(served.requests) == 5, "one for each problem, in both runs together"


@pytest.mark.slow
def test_limit_of_an_endpoint_holds_across_tasks(store: VariantStore, tmp_path: Path, prefect: None) -> None:
    other = shutil.copytree(store.root, tmp_path / "other")
    reply = completion('{"rewordings": ["a"]}')
    slow = type(reply)(reply.body, delay_s=0.3)
    with serving(Endpoint(slow)) as served:
        teacher = teacher_of(served, concurrency=2)
        config = _generate_config(store, teacher, workers=2, shard_size=1)
        generate(config)
        assert served.most_at_once == 2
    with serving(Endpoint(slow)) as served, get_client(sync_client=True) as client:
        client.create_concurrency_limit(tag="endpoint:bounded", concurrency_limit=1)
        teacher = teacher_of(served, concurrency=2, endpoint="bounded")
        generate(config.model_copy(update={"teacher": teacher, "store": other}))
        assert (len(served.requests), served.most_at_once) == (5, 1)


@pytest.mark.slow
def test_task_that_takes_too_long_is_tried_again(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch, prefect: None
) -> None:
    from diva_grpo.flows.runs.stages import generate_shard

    monkeypatch.setattr(generate_shard, "retry_delay_seconds", [0, 0])
    reply = completion('{"rewordings": ["a"]}')
    stuck = type(reply)(reply.body, delay_s=30)
    with serving(Endpoint(reply, reply, stuck, reply)) as served:
        config = _generate_config(store, teacher_of(served), shard_timeout_s=3.0)
        assert generate(config) == {"generated": {"candidate": 5}}
    assert len(served.requests) == 6, "what was answered is not asked again"


@pytest.mark.slow
def test_stages_alone_come_to_what_curate_does(
    store: VariantStore, endpoint: TeacherConfig, tmp_path: Path, prefect: None
) -> None:
    whole = VariantStore(shutil.copytree(store.root, tmp_path / "whole"))
    curated = curate(_curate_config(whole, endpoint))
    common: dict[str, Any] = {"store": store.root, "teacher": endpoint, "shard_size": 2}
    counts = generate(GenerateFlowConfig(**common, generate=GenerateConfig(rewordings=2)))
    counts |= verify(VerifyFlowConfig(**common))
    counts |= label(LabelFlowConfig(**common, label=LabelConfig(samples=2)))
    assert counts == curated
    expected, found = _content(whole), _content(store)
    assert {**found, "runs": None} == {**expected, "runs": None}
    assert [kind for kind, _, _ in found["runs"]] == ["generate", "label", "verify"]


@pytest.mark.slow
def test_generate_alone_supplies_until_there_are_enough(
    store: VariantStore, endpoint: TeacherConfig, prefect: None
) -> None:
    supplied = REWORD.model_copy(update={"accepted": 2, "tries": 2})
    counts = generate(_generate_config(store, endpoint, generate=supplied))
    assert counts["short"] == {"reword": 1}, "w/4 has no solution"
    assert counts["verified"]["accepted"] == 8


def test_batches_and_workers_are_one_line(store: VariantStore, diva: Diva) -> None:
    outcome = diva("curate", "--store", store.root, "--model", "m", "--batch", "--workers", 2)
    assert (outcome.code, outcome.err) == (
        2,
        "diva: one task at a time uses batches: leave workers out\n",
    )


def test_what_is_finished_comes_last_in_one_shard(store: VariantStore, endpoint: TeacherConfig) -> None:
    config = _curate_config(store, endpoint)
    ids = store.problem_ids()[:4]
    with Session(store, endpoint) as session:
        run = Run(config, "r", session, time.time_ns())
        assert [order.problem_ids for order in run.orders_of(ids)] == [(*ids[:2],), (*ids[2:],)]
        curate_shard(session, Stages.of(config), ids[:3])
        orders = run.orders_of(ids)
        assert [(order.number, order.problem_ids) for order in orders] == [(1, (*ids[3:],)), (2, (*ids[:3],))]
        curate_shard(session, Stages.of(config), ids[3:])
        assert [order.problem_ids for order in run.orders_of(ids)] == [(*ids,)]


def test_wrong_filter_is_one_line(store: VariantStore, endpoint: TeacherConfig) -> None:
    from diva_grpo.flows.runs.shards import over_problems
    from diva_grpo.flows.runs.stages import generate_shard

    config = _generate_config(store, endpoint, problem_filter="no such column")
    with pytest.raises(ConfigError, match="problem filter"):
        over_problems("generate", config, generate_shard, "generated")
