"""How `diva serve` maintains its runs: it ends lost runs, and limits the number of waiting runs.

A run ends when the `diva serve` that started it ends (`end_with_serve`), and records its process in a label (`sign`).
A run is lost if the server lists it as running although its process is gone. Causes are a SIGKILL of `diva serve`, or
a full disk, because of which the run could not report its end.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect import State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runtime import flow_run as this_run
from prefect.states import AwaitingConcurrencySlot, Cancelled, Crashed

from diva_grpo.schemas.exceptions import ServerError

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse

_LOG = logging.getLogger(__name__)

SERVE_PID = "DIVA_SERVE_PID"
"""Environment variable with the process id of the `diva serve` that started a run."""

_PROCESS = "diva.process"
"""Label of a run: `HOST:PID:COUNT`, where COUNT is how often the run had been started when the label was set."""

_EVERY_S = 10.0
_PARENT_EVERY_S = 0.5
_START_S = 180.0
"""Seconds that a run may take from its start until it has set its label: loading Prefect and the flow takes time."""

_HELD = timedelta(days=3650)
"""How far into the future a waiting run is moved while its schedule is paused."""


OnLost = Callable[[str, FlowRun, State[Any]], None]
"""Called for each lost run with the name of its deployment, the run, and its new state."""


# --- in the process of a run


@functools.cache
def end_with_serve() -> None:
    """Start a thread, once a process, that ends this process when the `diva serve` that started it is gone.

    It does nothing in a process that `diva serve` did not start. `hooks.py` calls it as soon as a flow is loaded,
    because Prefect may retry requests to a dead server for a minute before it calls the flow.
    """
    pid = os.environ.get(SERVE_PID)
    if pid:
        threading.Thread(target=_end_with, args=(int(pid),), name="ends with serve", daemon=True).start()


def is_child_of_serve() -> bool:
    """Whether this process was started by a `diva serve` that still runs. False in processes that a run started."""
    return os.environ.get(SERVE_PID) == str(os.getppid())


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_EVERY_S)
    os._exit(1)


def sign() -> None:
    """Record on the server that this process executes the current run (label `diva.process`)."""
    with get_client(sync_client=True) as client:
        process = f"{socket.gethostname()}:{os.getpid()}:{this_run.run_count}"
        client.update_flow_run_labels(UUID(this_run.id), {_PROCESS: process})


# --- in `diva serve`


@contextmanager
def upkeep(served: Sequence[tuple[str, int]], on_lost: OnLost) -> Iterator[None]:
    """Maintain deployments in a thread while the context is open; see `keep_in_order`.

    Args:
        served: the full name of each deployment, and the maximum number of its runs that may wait.
        on_lost: called for each lost run, in a separate thread.
    """
    ended = threading.Event()

    def work() -> None:
        while True:
            for name, most in served:
                try:
                    with get_client(sync_client=True) as client:
                        keep_in_order(client, name, most, on_lost)
                except (
                    httpx.HTTPError,
                    PrefectException,
                ) as error:  # the server may be down, or its disk full
                    _LOG.info("%s is looked after later: %s", name, error)
            if ended.wait(_EVERY_S):
                return

    thread = threading.Thread(target=work, name="looks after runs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def keep_in_order(client: SyncPrefectClient, name: str, most: int, on_lost: OnLost) -> None:
    """End the lost runs of a deployment, and limit its waiting runs.

    If the deployment is paused, its waiting runs are held. Otherwise all waiting runs but the first `most` are
    cancelled. An unknown deployment is ignored.

    Args:
        client: client of the Prefect server.
        name: full name of the deployment.
        most: maximum number of waiting runs.
        on_lost: called for each lost run, in a separate thread.
    """
    try:
        known = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return
    types = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    for run in _runs(client, known, FlowRunFilterState(type=types)):
        if run.state and _is_lost(run, run.state) and (ended := _ended(client, run, run.state)):
            threading.Thread(target=on_lost, args=(name, run, ended), name="tells of a lost run").start()
    hold_waiting(client, known)
    if _is_paused(known):
        return
    for run in _waiting(client, known)[most:]:
        message = f"left out: {most} waited already (max_waiting)"
        client.set_flow_run_state(run.id, Cancelled(message=message), force=True)


def hold_waiting(client: SyncPrefectClient, known: DeploymentResponse) -> None:
    """Hold the waiting runs of a paused deployment, and release the held runs of one that is not paused.

    A waiting run is one that waits for another run of the deployment to end. A held run stays in that state, and its
    time is moved far into the future (`_HELD`).
    """
    now = datetime.now(UTC)
    for run in _waiting(client, known):
        at = run.state.state_details.scheduled_time if run.state else None
        is_held = at is not None and at > now + _HELD / 2
        if _is_paused(known) and not is_held:
            held: State[Any] = AwaitingConcurrencySlot(
                scheduled_time=now + _HELD, message="held: its schedule is paused"
            )
            client.set_flow_run_state(run.id, held, force=True)
        elif is_held and not _is_paused(known):
            client.set_flow_run_state(run.id, AwaitingConcurrencySlot(scheduled_time=now), force=True)


def _is_paused(known: DeploymentResponse) -> bool:
    return bool(known.schedules) and not any(schedule.active for schedule in known.schedules)


def _runs(client: SyncPrefectClient, known: DeploymentResponse, state: FlowRunFilterState) -> list[FlowRun]:
    deployment = FlowRunFilterDeploymentId(any_=[known.id])
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=deployment, state=state))


def _waiting(client: SyncPrefectClient, known: DeploymentResponse) -> list[FlowRun]:
    """The runs that wait for another run to end, in the order in which they were due."""
    name = FlowRunFilterStateName(any_=["AwaitingConcurrencySlot"])
    found = _runs(client, known, FlowRunFilterState(name=name))
    return sorted(
        found, key=lambda run: (run.expected_start_time or run.created or datetime.now(UTC), run.id)
    )


def _is_lost(run: FlowRun, state: State[Any]) -> bool:
    """Whether the process of a run that the server lists as running is gone."""
    host, pid, count = (str(run.labels.get(_PROCESS) or "::")).rsplit(":", 2)
    if state.type == StateType.PENDING or count != str(run.run_count):  # no label since its start
        return datetime.now(UTC) - state.timestamp > timedelta(seconds=_START_S)
    return host == socket.gethostname() and not _is_child(int(pid))


def _is_child(pid: int) -> bool:
    """Whether a process is a living child of this process."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _ended(client: SyncPrefectClient, run: FlowRun, state: State[Any]) -> State[Any] | None:
    """Set a lost run to crashed (or cancelled, if it was cancelling), and return its new state.

    Returns None if the run had meanwhile ended by itself.
    """
    message = (
        "its process ended without a report: `diva serve` was killed, or the server could not be reached"
    )
    new: State[Any] = (
        Cancelled(message=message) if state.type == StateType.CANCELLING else Crashed(message=message)
    )
    client.set_flow_run_state(run.id, new)
    now = client.read_flow_run(run.id).state
    return now if now and now.is_final() and now.message == message else None


@contextmanager
def sole(home: Path, names: Sequence[str]) -> Iterator[None]:
    """Lock deployments while the context is open, so that no other process on this machine serves them.

    Args:
        home: PREFECT_HOME, the folder of the lock files.
        names: full names of the deployments.

    Raises:
        ServerError: another process on this machine has locked one of them.
    """
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name in names:
            file = stack.enter_context((home / f"diva-serve-{name.replace('/', '-')}.lock").open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ServerError(
                    f"{name} is served already by another `diva serve`: end that one first"
                ) from None
        yield
