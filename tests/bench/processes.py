"""Jobs in processes of their own, a few at once: what the training testbeds share."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any


class FailedError(Exception):
    """Some runs came to nothing."""


def in_processes(
    work: Callable[..., None],
    jobs: Iterable[tuple[str, tuple[Any, ...]]],
    at_once: int,
    preload: str,
    ends: float = math.inf,
) -> None:
    """Do jobs in processes of their own, a few at once, and print how they go.

    Args:
        work: does one.
        jobs: a name and the arguments of each.
        at_once: how many processes.
        preload: module that is imported once, before the processes are forked.
        ends: by `time.monotonic`, when no further job is started.

    Raises:
        FailedError: a process ended with an error; the others were done all the same.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    waiting, all_jobs = list(jobs), 0
    all_jobs = len(waiting)
    running: dict[int, tuple[str, float, BaseProcess]] = {}
    failed: list[str] = []
    while waiting or running:
        if time.monotonic() > ends:
            waiting.clear()
        while waiting and len(running) < at_once:
            name, arguments = waiting.pop(0)
            process = context.Process(target=work, args=arguments, name=name)
            process.start()
            running[process.sentinel] = (name, time.monotonic(), process)
        for sentinel in wait(list(running)):
            assert isinstance(sentinel, int)
            name, began, ended = running.pop(sentinel)
            ended.join()
            outcome = "done" if ended.exitcode == 0 else f"failed with {ended.exitcode}"
            failed += [name] if ended.exitcode else []
            left = len(waiting) + len(running)
            print(f"{time.strftime('%H:%M:%S')} {name}: {outcome} in {time.monotonic() - began:.0f} s, "
                  f"{left} of {all_jobs} left", flush=True)  # fmt: skip
    if failed:
        raise FailedError(f"{len(failed)} failed: {', '.join(failed)}")
