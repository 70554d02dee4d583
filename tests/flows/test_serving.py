"""`diva serve`: its file, and what Prefect is told of it."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from diva_grpo.flows.runs.deployments import (
    FLOWS,
    configured,
    deployment,
    entrypoint_now,
    flow_named,
    full_name,
    key_hosts,
    moved_deployments,
    read_serving,
)
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import CurateConfig
from diva_grpo.schemas.serving import ServedFlow
from tests.conftest import Diva

ROOT = Path(__file__).parents[2]


def _served(store: VariantStore, **changes: Any) -> ServedFlow:
    teacher = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    fields = {"name": "often", "flow": "curate", "parameters": {"store": str(store.root), "teacher": teacher}}
    return ServedFlow.model_validate(fields | changes)


@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_takes_one_configuration(name: str) -> None:
    assert list(flow_named(name).parameters.properties) == ["config"]


def test_shipped_example_is_whole() -> None:
    file = read_serving(ROOT / "data" / "serve.yaml")
    assert [(s.name, s.cron, s.interval, s.paused) for s in file.deployments] == [
        ("nightly", "0 3 * * *", None, False),
        ("beside-training", None, timedelta(minutes=30), True),
    ]
    for served in file.deployments:
        assert flow_named(served.flow).validate_parameters({"config": served.parameters})


@pytest.mark.parametrize(
    ("text", "duration"),
    [("90s", timedelta(seconds=90)), ("10m", timedelta(minutes=10)), ("1d", timedelta(days=1))],
)
def test_intervals_as_people_write_them(store: VariantStore, text: str, duration: timedelta) -> None:
    made = deployment(_served(store, interval=text), active=True)
    [schedule] = made.schedules or []
    assert isinstance(schedule.schedule, IntervalSchedule)
    assert (schedule.schedule.interval, schedule.active) == (duration, True)


def test_what_prefect_is_told(store: VariantStore) -> None:
    served = _served(store, cron="0 3 * * *", timezone="Europe/Berlin", overlap="wait")
    made = deployment(served, active=False)
    assert made.schedules
    [schedule] = made.schedules
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")
    assert schedule.active is False
    assert made.entrypoint == "diva_grpo.flows.runs.curate.curate", "found from any folder"
    assert made.concurrency_limit == 1
    assert made.concurrency_options
    assert made.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.ENQUEUE
    assert CurateConfig.model_validate(made.parameters["config"]) == configured(served)
    assert full_name(served) == "curate/often"


def test_keys_go_where_the_file_says(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://of-environment.example/v1")
    routes = [{"base_url": f"https://route-{i}.example/v1", "key_env": f"KEY_{i}"} for i in range(2)]
    parameters = {
        "store": str(store.root),
        "teacher": {"model": "m", "endpoint": "e", "routes": routes},
        "solver": {"model": "m"},
        "verify": {"checks": ["judge"], "judge_base_url": "http://127.0.0.1:9/v1"},
    }
    assert key_hosts(configured(_served(store, flow="top_up", parameters=parameters))) == {
        "KEY_0=https://route-0.example",
        "KEY_1=https://route-1.example",
        "OPENAI_API_KEY=https://of-environment.example",
        "OPENAI_API_KEY=http://127.0.0.1:9",
    }


def test_runs_that_overlap_are_left_out_by_default(store: VariantStore) -> None:
    made = deployment(_served(store), active=True)
    assert made.concurrency_options
    assert made.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.CANCEL_NEW
    assert made.schedules == []


def _file(tmp_path: Path, store: VariantStore, **changes: Any) -> Path:
    served = _served(store).model_dump(mode="json", exclude_defaults=True) | changes
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"deployments": [served]}))
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cron": "0 3 * * *", "interval": "1h"}, "deployments.0: give cron or interval, not both"),
        ({"interval": "1s"}, "deployments.0.interval: give at least 10s"),
        ({"interval": "soon"}, "deployments.0.interval: Input should be a valid timedelta"),
        ({"schedule": "daily"}, "deployments.0: there is no setting 'schedule'"),
        ({"flow": "tidy"}, "there is no flow 'tidy': choose from curate"),
        ({"cron": "every day"}, "often: "),
        ({"parameters": {}}, "often: parameters.store: Field required"),
    ],
)
def test_bad_file_is_one_line(
    tmp_path: Path, store: VariantStore, diva: Diva, changes: dict[str, Any], message: str
) -> None:
    outcome = diva("serve", _file(tmp_path, store, **changes))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deployments: [", "cannot be read"),
        ("- 1", "Input should be a valid dictionary"),
        ("", "deployments: Field required"),
        ("deployments: []", "deployments: Tuple should have at least 1 item"),
    ],
)
def test_file_of_another_kind_is_one_line(tmp_path: Path, diva: Diva, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    outcome = diva("serve", tmp_path / "bad.yaml")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err


def test_two_of_one_name(tmp_path: Path, store: VariantStore, diva: Diva) -> None:
    served = _served(store).model_dump(mode="json", exclude_defaults=True)
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"deployments": [served, served]}))
    assert "two deployments are named 'often'" in diva("serve", file).err


def test_secrets_do_not_reach_the_server(tmp_path: Path, store: VariantStore, diva: Diva) -> None:
    teacher = {"model": "m", "base_url": "http://user:hush@127.0.0.1:9/v1"}
    file = _file(tmp_path, store, parameters={"store": str(store.root), "teacher": teacher})
    outcome = diva("serve", file)
    assert outcome.code == 2
    assert "key_env" in outcome.err
    assert "hush" not in outcome.err


def test_store_and_endpoint_must_be_there(tmp_path: Path, store: VariantStore, diva: Diva) -> None:
    bare = {"store": str(store.root), "teacher": {"model": "m"}}
    assert "no endpoint" in diva("serve", _file(tmp_path, store, parameters=bare)).err
    lost = {"store": str(tmp_path / "none"), "teacher": {"model": "m", "base_url": "http://127.0.0.1:9/v1"}}
    outcome = diva("serve", _file(tmp_path, store, parameters=lost))
    assert outcome.code == 1
    assert str(tmp_path / "none") in outcome.err


def test_flags_that_do_not_fit(tmp_path: Path, store: VariantStore, diva: Diva) -> None:
    file = _file(tmp_path, store)
    assert "--only nightly: " in diva("serve", file, "--only", "nightly").err
    assert "not both" in diva("serve", file, "--pause", "--resume").err
    assert "give one of them" in diva("serve", file, "--interval", "soon").err
    assert "give one of them" in diva("serve", file, "--interval", "1h", "--cron", "0 3 * * *").err


def test_pause_without_a_server_is_one_line(
    tmp_path: Path, store: VariantStore, diva: Diva, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    outcome = diva("serve", _file(tmp_path, store), "--pause", "--port", 9)
    assert outcome.code == 1
    assert "is `diva serve` running on port 9?" in outcome.err


def test_taken_port_is_one_line(
    tmp_path: Path, store: VariantStore, diva: Diva, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        outcome = diva("serve", _file(tmp_path, store), "--port", port)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert f"port {port} is taken: choose another by --port" in outcome.err


@pytest.mark.parametrize(
    ("entrypoint", "now"),
    [
        ("flows.curate.curate", "diva_grpo.flows.runs.curate.curate"),
        ("flows.stages.verify", "diva_grpo.flows.runs.stages.verify"),
        ("flows.nightly.main", None),
        ("diva_grpo.flows.runs.curate.curate", None),
        ("", None),
    ],
)
def test_entry_points_of_before(entrypoint: str, now: str | None) -> None:
    assert entrypoint_now(entrypoint) == now


@pytest.mark.slow
def test_deployments_of_before_are_named(store: VariantStore) -> None:
    served = _served(store, name="process")
    from prefect.testing.utilities import prefect_test_harness  # loads all of the server

    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        flow_id = client.create_flow(flow_named("curate"))
        for number in range(205):  # more than a page
            client.create_deployment(flow_id, f"of-mine-{number}", entrypoint="flows.mine.flow")
        for name in ("process", "docker"):
            client.create_deployment(flow_id, name, entrypoint="flows.curate.curate")
        [line] = moved_deployments({full_name(served)})
    assert line.startswith(
        "deployment curate/docker: flows.curate.curate is now diva_grpo.flows.runs.curate.curate: "
    )
    assert "prefect deploy --name docker" in line
