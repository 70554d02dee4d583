"""Flows that run by themselves, and what kills leave: nothing lost, nothing paid twice, no process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from diva_grpo.pipeline.store import VariantStore
from tests.support.prefect_processes import (
    Counted,
    all_end,
    counted_teacher,
    free_port,
    hear_interrupts,
    home_with_database,
    marbles,
    of_home,
    processes_of,
    until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to find processes"),
]

CONCURRENCY = 2
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder of Prefect's for one test; no process of the test outlives it."""
    yield from home_with_database(tmp_path / "prefect")


@contextmanager
def _diva(home: Path, log: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "from diva_grpo.flows.cli import main; main()", *map(str, arguments)]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=of_home(home), stdout=file, stderr=file, preexec_fn=hear_interrupts
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


FIRST, LATER = marbles("first", range(3, 5)), marbles("later", range(11, 19))


@pytest.fixture
def teacher() -> Iterator[Counted]:
    with counted_teacher([*FIRST, *LATER], delay_s=0.1) as counted:
        yield counted


def _accepted(store: VariantStore) -> dict[str, int]:
    return dict(
        store.query("SELECT problem_id, count(*) FROM variants WHERE status = 'accepted' GROUP BY ALL")
    )


def _labelled(store: VariantStore) -> int:
    return len(store.query("SELECT subject_id FROM labels"))


@dataclass(frozen=True)
class _Api:
    """The server of a `diva serve`, asked by someone who may."""

    home: Path
    port: int

    def found(self, what: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """What a filter finds; nothing while the server is down."""
        file = self.home / f"diva-serve-{self.port}.auth"
        url = f"http://127.0.0.1:{self.port}/api/{what}/filter"
        try:
            answer, sent = None, ""
            # A new server may replace the file between its reading and the request.
            while answer is None or (answer.status_code == 401 and file.read_text() != sent):
                sent = file.read_text()
                user, _, password = sent.strip().partition(":")
                answer = httpx.post(url, json=body, timeout=20, auth=(user, password))
        except (httpx.TransportError, FileNotFoundError):
            return []
        return list(answer.raise_for_status().json())

    def runs(self, state: str) -> list[dict[str, Any]]:
        return self.found("flow_runs", {"flow_runs": {"state": {"type": {"any_": [state]}}}})

    def left_by(self, run: dict[str, Any]) -> set[str]:
        """Keys of the artifacts of a run."""
        return {str(it["key"]) for it in self.found("artifacts", {}) if it["flow_run_id"] == run["id"]}


def _flow_process(home: Path) -> psutil.Process:
    [process] = [p for p in processes_of(home) if "prefect.engine" in " ".join(p.cmdline())]
    return process


def _server_process(home: Path) -> psutil.Process:
    [process] = [p for p in processes_of(home) if "server.py" in " ".join(p.cmdline())]
    return process


@pytest.mark.timeout(1200)
def test_schedule_goes_on_over_killed_runs_and_a_killed_server(
    tmp_path: Path, home: Path, teacher: Counted
) -> None:
    store, port = VariantStore(tmp_path / "store", create=True), free_port()
    api = _Api(home, port)
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
        until(lambda: api.runs("COMPLETED"), 400, "the first run ends")
        done = _accepted(store)
        assert set(done) == {problem.problem_id for problem in FIRST}
        assert teacher.twice == 0
        before = teacher.asked.total()

        # The second is killed in mid-shard.
        store.append(LATER)
        until(lambda: teacher.asked.total() > before + 20, 400, "the second run asks")
        _flow_process(home).kill()
        until(lambda: api.runs("CRASHED"), 400, "the second run is seen to be dead")
        [crashed] = api.runs("CRASHED")
        until(lambda: "store-how-to-go-on" in api.left_by(crashed), 400, "the second run says how to go on")
        assert set(_accepted(store)) == set(done), "killed before its first shard was done"
        lost = teacher.asked.total()

        # The third goes on, over the death of the server.
        until(lambda: teacher.asked.total() > lost + 20, 400, "the third run asks")
        assert teacher.twice <= CONCURRENCY, "what was in flight at the kill"
        paid_twice = teacher.twice
        _server_process(home).kill()
        until(lambda: len(api.runs("COMPLETED")) >= 2, 400, "the third run ends, and is known to have")
        assert teacher.twice == paid_twice

        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    accepted = _accepted(store)
    assert set(accepted) == {problem.problem_id for problem in [*FIRST, *LATER]}
    assert len(set(accepted.values())) == 1, accepted
    assert _labelled(store) == len(accepted) + sum(accepted.values())
    assert processes_of(home) == []


@pytest.mark.timeout(1200)
def test_a_killed_serve_takes_its_run_along_and_the_next_one_tells_of_it(
    tmp_path: Path, home: Path, teacher: Counted
) -> None:
    store, port = VariantStore(tmp_path / "store", create=True), free_port()
    store.append(LATER)
    api = _Api(home, port)
    endpoint = {"model": "scripted-teacher", "base_url": teacher.url, "endpoint": "test"}
    parameters = {
        "store": str(store.root),
        "teacher": endpoint | {"concurrency": CONCURRENCY},
        "label": {"samples": 2},
        "shard_size": 4,
    }
    served = {"name": "often", "flow": "curate", "interval": "20s", "parameters": parameters}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"deployments": [served]}))
    with _diva(home, tmp_path / "log", "serve", file, "--port", port) as process:
        until(lambda: teacher.asked.total() > 20, 400, "the run asks")
        process.kill()
    all_end(home, "the run and the server have followed")
    asked = teacher.asked.total()
    time.sleep(2)
    assert teacher.asked.total() == asked, "nothing more is paid for"

    with _diva(home, tmp_path / "log", "serve", file, "--port", port) as process:
        until(lambda: api.runs("CRASHED"), 400, "the lost run is found")
        [lost] = api.runs("CRASHED")
        assert "its process ended without a report" in lost["state"]["message"]
        until(lambda: "store-how-to-go-on" in api.left_by(lost), 60, "it says how to go on")
        until(lambda: api.runs("COMPLETED"), 400, "another run has done the work")
        assert not [run for run in api.runs("RUNNING") if run["id"] == lost["id"]]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert teacher.twice <= CONCURRENCY, "what was in flight at the kill"
    assert set(_accepted(store)) == {problem.problem_id for problem in LATER}
    assert processes_of(home) == []


def test_killed_run_leaves_no_process(tmp_path: Path, home: Path, teacher: Counted) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    store.append(LATER)
    arguments = ["curate", "--store", store.root, "--base-url", teacher.url, "--model", "scripted-teacher"]
    arguments += ["--concurrency", CONCURRENCY, "--limit", 4]
    with _diva(home, tmp_path / "log", *arguments) as process:
        until(lambda: teacher.asked.total() > 20, 90, "the run asks")
        assert len(processes_of(home)) == 2, "the run and its server"
    all_end(home, "the server has followed")
    with _diva(home, tmp_path / "log", *arguments) as process:
        assert process.wait(120) == 0, (tmp_path / "log").read_text()
    assert processes_of(home) == []
    assert teacher.twice <= CONCURRENCY
    assert len(_accepted(store)) == 4


BOTH_RUNNERS = """
import sys
from pathlib import Path
from diva_grpo.flows.runs.server import prefect_api
prefect_api()
from diva_grpo.flows.runs.curate import curate
from diva_grpo.schemas.config import CurateConfig, LabelConfig, TeacherConfig
url, one, other = sys.argv[1:]
teacher = TeacherConfig(model="scripted-teacher", base_url=url, endpoint="test")
for store, how in ((one, {}), (other, {"workers": 2, "runner": "ray"})):
    size = {"limit": 4, "shard_size": 2}
    curate(CurateConfig(store=Path(store), teacher=teacher, label=LabelConfig(samples=2), **size, **how))
"""


def _checksums(store: VariantStore) -> dict[str, object]:
    """Those of `store.checksums()` for what a curation writes, apart from times."""
    times = {"calls": "created_at, latency_s", "problems": "ingested_at"}
    found: dict[str, object] = {}
    for view in ("problems", "variants", "verdicts", "labels", "calls", "shortages"):
        [without] = {times.get(view, "created_at")} if view != "shortages" else {None}
        columns = f"* EXCLUDE ({without})" if without else "*"
        found[view] = store.query(
            f"SELECT count(*), sum(hash(v)::HUGEINT)::VARCHAR FROM (SELECT {columns} FROM {view}) v"
        )
    return found


def test_ray_makes_the_same_store(tmp_path: Path, home: Path, teacher: Counted) -> None:
    pytest.importorskip("ray")
    stores = [VariantStore(tmp_path / name, create=True) for name in ("one", "other")]
    for store in stores:
        store.append(LATER)
    arguments = [sys.executable, "-c", BOTH_RUNNERS, teacher.url, *(str(store.root) for store in stores)]
    process = subprocess.run(arguments, env=of_home(home), capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr[-3000:]
    one, other = (_checksums(store) for store in stores)
    assert one == other
    assert one["variants"] != _checksums(VariantStore(tmp_path / "none", create=True))["variants"]
    assert "Ray" in process.stderr
    assert processes_of(home) == []


PAUSED = """
import sys
from pathlib import Path
from diva_grpo.flows.runs.server import prefect_api
prefect_api()
from diva_grpo.flows.runs import deployments as serving
[served] = serving.read_serving(Path(sys.argv[1])).deployments

def serve():
    active = serving.is_active(served)
    serving.deployment(served, active=active).apply()
    return active

assert serve() is False, "as the file says"
assert serving.is_active(served) is False
serving.set_active([served], active=True, port=0)
assert serve() is True, "as a person left it"
serving.set_active([served], active=False, port=0)
assert serve() is False
assert serving.is_active(served) is False
"""


def test_what_a_person_pauses_stays_paused(tmp_path: Path, home: Path) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    parameters = {"store": str(store.root), "teacher": {"model": "m", "base_url": "http://127.0.0.1:9/v1"}}
    served = {
        "name": "often",
        "flow": "curate",
        "cron": "0 3 * * *",
        "parameters": parameters,
        "paused": True,
    }
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"deployments": [served]}))
    arguments = [sys.executable, "-c", PAUSED, str(file)]
    process = subprocess.run(arguments, env=of_home(home), capture_output=True, text=True, timeout=180)
    assert process.returncode == 0, process.stderr[-3000:]
