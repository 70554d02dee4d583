"""What the tests of schedules and kills share: an endpoint that counts, and the processes of one Prefect."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import psutil
from fastapi import Request, Response

from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.flows.runs.server import GRACE_S
from diva_grpo.schemas.records import Problem


@dataclass
class Counted:
    """A scripted teacher that takes its time, and what it was asked."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)

    @property
    def twice(self) -> int:
        """Requests beyond the first of the same content."""
        return self.asked.total() - len(self.asked)


@contextmanager
def counted_teacher(problems: Sequence[Problem], delay_s: float) -> Iterator[Counted]:
    """Serve a teacher without slips that counts its requests by content."""
    app, counted = create_app(ScriptedTeacher(problems, wrong_share=0.0)), Counted()

    @app.middleware("http")
    async def count(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        counted.asked[hashlib.sha256(await request.body()).hexdigest()] += 1
        await asyncio.sleep(delay_s)
        return await go_on(request)

    with serve(app) as counted.url:
        yield counted


def marbles(source: str, numbers: range) -> list[Problem]:
    """Problems that the teacher can solve, all different."""
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


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def hear_interrupts() -> None:
    """For `preexec_fn`: a shell starts its background jobs deaf to Ctrl-C, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def of_home(home: Path) -> dict[str, str]:
    """The environment of a process whose Prefect lives in a folder, and knows of no server."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    settings = {"PREFECT_HOME": str(home), "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    return environment | settings | {"PYTHONPATH": str(Path(__file__).parents[2])}


@lru_cache(maxsize=1)
def _made_home() -> tempfile.TemporaryDirectory[str]:
    """A folder of Prefect's with its database, which takes ten seconds to make."""
    folder = tempfile.TemporaryDirectory()
    code = "from diva_grpo.flows.runs.server import prefect_api; prefect_api()"
    subprocess.run([sys.executable, "-c", code], env=of_home(Path(folder.name)), check=True, timeout=400)
    return folder


def home_with_database(home: Path) -> Iterator[Path]:
    """For a fixture: a folder of Prefect's for one test; no process of the test outlives it."""
    yield Path(shutil.copytree(_made_home().name, home))
    for process in processes_of(home):
        process.kill()


def processes_of(home: Path) -> list[psutil.Process]:
    """Live processes whose Prefect lives in a folder, this one apart."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("PREFECT_HOME") == str(home)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def until(happened: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def all_end(home: Path, what: str) -> None:
    """Wait until no process of a home is left.

    A server whose parent was killed may take `GRACE_S` seconds. A run that had not yet loaded its flow retries a dead
    server for about a minute, as Prefect does.
    """
    deadline = time.monotonic() + GRACE_S + 30
    while left := processes_of(home):
        if time.monotonic() > deadline:
            lines = [(p.pid, p.ppid(), " ".join(p.cmdline())) for p in left if p.is_running()]
            raise AssertionError(f"not within {GRACE_S + 30:.0f} s: {what}; left: {lines}")
        time.sleep(0.05)
