"""Flows that run by themselves, and what kills leave: nothing lost, nothing paid twice, no process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from pipeline.store import VariantStore
from schemas.records import Problem
from tests.kept_running import Counted, counted_teacher, processes_of, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to find processes"),
]

CONCURRENCY = 2
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Prefect's with its database, which takes ten seconds to make."""
    home = tmp_path_factory.mktemp("prefect")
    code = "from flows.server import prefect_api; prefect_api()"
    subprocess.run([sys.executable, "-c", code], env=_environment(home), check=True, timeout=180)
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it for one test; no process of the test outlives it."""
    yield Path(shutil.copytree(made_home, tmp_path / "prefect"))
    for process in processes_of(tmp_path / "prefect"):
        process.kill()


def _environment(home: Path) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    settings = {"PREFECT_HOME": str(home), "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    return environment | settings | {"PYTHONPATH": str(Path(__file__).parent.parent)}


@contextmanager
def _diva(home: Path, log: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "from flows.cli import main; main()", *map(str, arguments)]
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=_environment(home), stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _problems(source: str, numbers: range) -> list[Problem]:
    return [
        Problem(
            problem_id=f"{source}/{i}",
            source=source,
            split="train",
            text=f"Tom has {i} red and {2 * i + 1} blue marbles. How many has he?",
            answer=str(3 * i + 1),
            solution_steps=[f"{i} red ones.", f"{i} + {2 * i + 1} = {3 * i + 1}"],
        )
        for i in numbers
    ]


FIRST, LATER = _problems("first", range(3, 5)), _problems("later", range(11, 19))


@pytest.fixture
def teacher() -> Iterator[Counted]:
    with counted_teacher([*FIRST, *LATER], delay_s=0.1) as counted:
        yield counted


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _accepted(store: VariantStore) -> dict[str, int]:
    return dict(
        store.query("SELECT problem_id, count(*) FROM variants WHERE status = 'accepted' GROUP BY ALL")
    )


def _labelled(store: VariantStore) -> int:
    return len(store.query("SELECT subject_id FROM labels"))


def _runs(port: int, state: str) -> list[dict[str, Any]]:
    body = {"flow_runs": {"state": {"type": {"any_": [state]}}}}
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/api/flow_runs/filter", json=body, timeout=20)
    except httpx.TransportError:
        return []
    return list(answer.raise_for_status().json())


def _flow_process(home: Path) -> psutil.Process:
    [process] = [p for p in processes_of(home) if "prefect.engine" in " ".join(p.cmdline())]
    return process


def _server_process(home: Path) -> psutil.Process:
    [process] = [p for p in processes_of(home) if "server.py" in " ".join(p.cmdline())]
    return process


@pytest.mark.timeout(400)
def test_schedule_goes_on_over_killed_runs_and_a_killed_server(
    tmp_path: Path, home: Path, teacher: Counted
) -> None:
    store, port = VariantStore(tmp_path / "store", create=True), _free_port()
    store.append(FIRST)
    parameters = {
        "store": str(store.root),
        "teacher": {
            "model": "scripted-teacher",
            "base_url": teacher.url,
            "endpoint": "test",
            "concurrency": CONCURRENCY,
        },
        "label": {"samples": 2},
        "shard_size": 4,
    }
    served = {"name": "often", "flow": "curate", "interval": "20s", "parameters": parameters}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"deployments": [served]}))
    with _diva(home, tmp_path / "log", "serve", file, "--port", port) as process:
        # The first run does all there is.
        until(lambda: _runs(port, "COMPLETED"), 120, "the first run ends")
        done = _accepted(store)
        assert set(done) == {problem.problem_id for problem in FIRST}
        assert teacher.twice == 0
        before = teacher.asked.total()

        # The second is killed in mid-shard.
        store.append(LATER)
        until(lambda: teacher.asked.total() > before + 20, 60, "the second run asks")
        _flow_process(home).kill()
        until(lambda: _runs(port, "CRASHED"), 60, "the second run is seen to be dead")
        assert set(_accepted(store)) == set(done), "killed before its first shard was done"
        lost = teacher.asked.total()

        # The third goes on, over the death of the server.
        until(lambda: teacher.asked.total() > lost + 20, 60, "the third run asks")
        assert teacher.twice <= CONCURRENCY, "what was in flight at the kill"
        paid_twice = teacher.twice
        _server_process(home).kill()
        until(lambda: len(_runs(port, "COMPLETED")) >= 2, 120, "the third run ends, and is known to have")
        assert teacher.twice == paid_twice

        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    accepted = _accepted(store)
    assert set(accepted) == {problem.problem_id for problem in [*FIRST, *LATER]}
    assert len(set(accepted.values())) == 1, accepted
    assert _labelled(store) == len(accepted) + sum(accepted.values())
    assert processes_of(home) == []


def test_killed_run_leaves_no_process(tmp_path: Path, home: Path, teacher: Counted) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    store.append(LATER)
    arguments = ["curate", "--store", store.root, "--base-url", teacher.url, "--model", "scripted-teacher"]
    arguments += ["--concurrency", CONCURRENCY, "--limit", 4]
    with _diva(home, tmp_path / "log", *arguments) as process:
        until(lambda: teacher.asked.total() > 20, 90, "the run asks")
        assert len(processes_of(home)) == 2, "the run and its server"
    until(lambda: not processes_of(home), 30, "the server has followed")
    with _diva(home, tmp_path / "log", *arguments) as process:
        assert process.wait(120) == 0, (tmp_path / "log").read_text()
    assert processes_of(home) == []
    assert teacher.twice <= CONCURRENCY
    assert len(_accepted(store)) == 4
