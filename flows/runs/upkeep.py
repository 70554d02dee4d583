"""What `diva serve` does for its runs beside starting them: it ends those that are lost, and bounds those that wait.

A run ends with the `diva serve` that started it (`end_with_serve`), and says in a label which process it is
(`sign`). A run that its server takes for at work although that process is gone has been lost: by a SIGKILL of
`diva serve`, or by a full disk, which kept it from saying how it ended.
"""

from __future__ import annotations

import fcntl
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
"""Environment variable with the process id of the `diva serve` that a run belongs to."""

_PROCESS = "diva.process"
"""Label of a run: the host and the id of its process, and how often the run had been begun by then."""

_EVERY_S = 10.0
_PARENT_EVERY_S = 0.5
_START_S = 180.0
"""Longest time from a run's being taken up until it has signed: a busy machine loads Prefect and the flow in it."""

_HELD = timedelta(days=3650)
"""How far off a run is put while its schedule is paused."""


OnLost = Callable[[str, FlowRun, State[Any]], None]
"""Called for each lost run with the name of its deployment, the run, and its new state."""


# --- in the process of a run


def end_with_serve() -> None:
    """End this process at once when the `diva serve` that has started it is gone; nothing for other runs."""
    pid = os.environ.get(SERVE_PID)
    if pid:
        threading.Thread(target=_end_with, args=(int(pid),), name="ends with serve", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_EVERY_S)
    os._exit(1)


def sign() -> None:
    """Say on the server which process the run at work in this one is."""
    with get_client(sync_client=True) as client:
        process = f"{socket.gethostname()}:{os.getpid()}:{this_run.run_count}"
        client.update_flow_run_labels(UUID(this_run.id), {_PROCESS: process})


# --- in `diva serve`


@contextmanager
def upkeep(served: Sequence[tuple[str, int]], on_lost: OnLost) -> Iterator[None]:
    """Keep deployments in order in a thread while the context is open.

    Args:
        served: full names of the deployments, with the most runs of each that may wait.
        on_lost: called for each lost run, in a thread of its own.
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
    """End the lost runs of a deployment; hold the waiting ones where it is paused, else leave out all but `most`."""
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
    """Put off the runs of a deployment that wait for another to end while it is paused; let them go once it is not."""
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
    """Runs that wait for another to end, in the order in which they were due."""
    name = FlowRunFilterStateName(any_=["AwaitingConcurrencySlot"])
    found = _runs(client, known, FlowRunFilterState(name=name))
    return sorted(
        found, key=lambda run: (run.expected_start_time or run.created or datetime.now(UTC), run.id)
    )


def _is_lost(run: FlowRun, state: State[Any]) -> bool:
    """Whether a run that the server takes for at work has no process any more."""
    host, pid, count = (str(run.labels.get(_PROCESS) or "::")).rsplit(":", 2)
    if state.type == StateType.PENDING or count != str(run.run_count):  # not signed since it was taken up
        return datetime.now(UTC) - state.timestamp > timedelta(seconds=_START_S)
    return host == socket.gethostname() and not _is_child(int(pid))


def _is_child(pid: int) -> bool:
    """Whether a process is a child of this one that is still alive."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _ended(client: SyncPrefectClient, run: FlowRun, state: State[Any]) -> State[Any] | None:
    """The state that a lost run has got; None where it has ended meanwhile."""
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
    """Hold deployments for this process while the context is open.

    Args:
        home: PREFECT_HOME, in which the locks are.
        names: full names of the deployments.

    Raises:
        ServerError: another process of this machine holds one.
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
