"""Runs that were lost, and runs that wait: what `diva serve` does about them, on a real server of Prefect's."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import State, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import AwaitingConcurrencySlot, Cancelling, Completed, Pending, Running

from diva_grpo.flows.runs import upkeep
from diva_grpo.flows.runs.upkeep import hold_waiting, keep_in_order, sole
from diva_grpo.schemas.exceptions import ServerError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect")]

NAME = "idle/often"


@flow
def idle() -> None:
    """Nothing."""


class Deployed:
    """A deployment with a schedule, and its runs."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client
        schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 1 1 *"), active=True)
        self.id = client.create_deployment(client.create_flow(idle), "often", schedules=[schedule])
        self.lost: list[UUID] = []

    def run(self, *states: State[Any], signed: str | None = None) -> FlowRun:
        run = self.client.create_flow_run_from_deployment(self.id)
        for state in states:
            self.client.set_flow_run_state(run.id, state, force=True)
        if signed:
            self.client.update_flow_run_labels(run.id, {"diva.process": signed})
        return run

    def keep(self, most: int = 1) -> None:
        keep_in_order(self.client, NAME, most, lambda name, run, state: self.lost.append(run.id))

    def state(self, run: FlowRun) -> State[Any]:
        state = self.client.read_flow_run(run.id).state
        assert state
        return state

    def schedule(self, *, active: bool) -> None:
        known = self.client.read_deployment(self.id)
        self.client.update_deployment_schedule(self.id, known.schedules[0].id, active=active)


@pytest.fixture
def deployed() -> Iterator[Deployed]:
    with get_client(sync_client=True) as client:
        found = Deployed(client)
        yield found
        client.delete_deployment(found.id)


@pytest.fixture
def dead() -> str:
    """How a process that has ended had signed a run that was begun once."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{socket.gethostname()}:{process.pid}:1"


def test_a_run_without_a_process_has_crashed(deployed: Deployed, dead: str) -> None:
    run = deployed.run(Pending(), Running(), signed=dead)
    cancelling = deployed.run(Pending(), Running(), Cancelling(), signed=dead)
    deployed.keep()
    assert deployed.state(run).is_crashed()
    assert "its process ended without a report" in str(deployed.state(run).message)
    assert deployed.state(cancelling).is_cancelled()
    assert set(deployed.lost) == {run.id, cancelling.id}
    deployed.keep()
    assert len(deployed.lost) == 2, "told once"


def test_runs_that_live_go_on(deployed: Deployed, dead: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        runs = [
            deployed.run(Pending(), Running(), signed=f"{socket.gethostname()}:{child.pid}:1"),
            deployed.run(Pending(), Running(), signed=f"another-host:{child.pid}:1"),
            deployed.run(Pending(), Running()),  # has not signed yet
            deployed.run(
                Pending(), Running(), Pending(), Running(), signed=dead
            ),  # has not, since it was retried
            deployed.run(Pending(), signed=dead),  # is about to be retried
        ]
        ended = deployed.run(Pending(), Running(), Completed(), signed=dead)
        before = [deployed.state(run).id for run in [*runs, ended]]
        deployed.keep()
        assert [deployed.state(run).id for run in [*runs, ended]] == before
        assert deployed.lost == []
        child.communicate(b"\n")


def test_no_run_stays_pending(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    pending, unsigned = deployed.run(Pending()), deployed.run(Pending(), Running())
    deployed.keep()
    assert deployed.lost == []
    monkeypatch.setattr(upkeep, "_START_S", 0.0)
    deployed.keep()
    assert deployed.state(pending).is_crashed()
    assert deployed.state(unsigned).is_crashed()


def _due(seconds: int) -> State[Any]:
    return AwaitingConcurrencySlot(scheduled_time=datetime.now(UTC) + timedelta(seconds=seconds))


def test_only_so_many_runs_wait(deployed: Deployed) -> None:
    runs = [deployed.run(_due(30)) for _ in range(4)]
    deployed.keep(most=2)
    assert [deployed.state(run).name for run in runs] == ["AwaitingConcurrencySlot"] * 2 + ["Cancelled"] * 2
    assert deployed.state(runs[3]).message == "left out: 2 waited already (max_waiting)"


def test_a_paused_schedule_holds_what_waits(deployed: Deployed) -> None:
    run = deployed.run(_due(1))
    deployed.schedule(active=False)
    hold_waiting(deployed.client, deployed.client.read_deployment(deployed.id))
    deployed.keep()
    assert deployed.state(run).name == "AwaitingConcurrencySlot"
    assert deployed.state(run).message == "held: its schedule is paused"
    soon = datetime.now(UTC) + timedelta(days=300)
    assert not deployed.client.get_scheduled_flow_runs_for_deployments([deployed.id], scheduled_before=soon)

    deployed.schedule(active=True)
    deployed.keep()
    now = datetime.now(UTC) + timedelta(seconds=1)
    [freed] = deployed.client.get_scheduled_flow_runs_for_deployments([deployed.id], scheduled_before=now)
    assert freed.id == run.id


def test_what_nobody_has_served_is_no_error(deployed: Deployed) -> None:
    keep_in_order(deployed.client, "idle/never", 1, lambda name, run, state: None)


def test_a_flow_is_served_by_one_process(tmp_path: Path) -> None:
    with sole(tmp_path, ["curate/often"]):
        with sole(tmp_path, ["curate/nightly"]):
            pass
        with (
            pytest.raises(ServerError, match="curate/often is served already"),
            sole(tmp_path, ["curate/often"]),
        ):
            pass
    with sole(tmp_path, ["curate/often"]):
        pass


_SERVE = """
import os, subprocess, sys
run = [sys.executable, "-c", "import diva_grpo.flows.runs.curate, time; print('loaded', flush=True); time.sleep(600)"]
child = subprocess.Popen(run, env=os.environ | {"DIVA_SERVE_PID": str(os.getpid())})
print(child.pid, flush=True)
child.wait()
"""


def test_a_run_that_has_just_loaded_its_flow_ends_with_its_serve() -> None:
    """Before the flow's first line: Prefect may be waiting for a server that is dead too."""
    with subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, text=True) as serve:
        assert serve.stdout
        run = psutil.Process(int(serve.stdout.readline()))
        assert serve.stdout.readline() == "loaded\n"
        assert run.is_running()
        serve.kill()
    try:
        run.wait(30)
    finally:
        if run.is_running():
            run.kill()
