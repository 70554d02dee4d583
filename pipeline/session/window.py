"""The requests to one endpoint: up to its concurrency at once, those of the earliest shard first."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.schemas.exceptions import BudgetError, OutageError, StoreError

Job = Callable[[Teacher], Awaitable[Any]]
"""A coroutine function that sends a request by the given teacher and returns a result made from the answer."""


class Call:
    """Jobs that one caller waits for together.

    Args:
        order: number of the shard, and number of the call. A window starts calls with smaller numbers first.
        jobs: the jobs, at least one.
        progress: called with 1 for every job that is done.

    Attributes:
        ended: gets the results in the order of the jobs, or the first error.
    """

    def __init__(
        self, order: tuple[int, int], jobs: Sequence[Job], progress: Callable[[int], None] | None
    ) -> None:
        self.order = order
        self.ended: Future[list[Any]] = Future()
        self._jobs, self._progress = jobs, progress
        self._results: list[Any] = [None] * len(jobs)
        self._begun = 0
        self._running: set[asyncio.Task[Any]] = set()
        self._error: BaseException | None = None

    def __lt__(self, other: Call) -> bool:
        return self.order < other.order

    @property
    def left(self) -> int:
        """Number of jobs that have not been started. It is 0 after an error, because no more jobs are started then."""
        return 0 if self._error else len(self._jobs) - self._begun

    def begin(self, teacher: Teacher, then: Callable[[], None]) -> None:
        """Start the next job.

        Args:
            teacher: passed to the job.
            then: called when the job has ended.
        """
        number, self._begun = self._begun, self._begun + 1

        async def work() -> Any:
            return await self._jobs[number](teacher)

        task = asyncio.create_task(work())
        self._running.add(task)
        task.add_done_callback(partial(self._end, number, then))

    def _end(self, number: int, then: Callable[[], None], task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            if error := task.exception():
                self.stop(error)
            else:
                self._results[number] = task.result()
                if self._progress:
                    self._progress(1)
        self._end_if_done()
        then()

    def stop(self, error: BaseException) -> None:
        """Start no further job, and set the error as the result, unless there was an error before.

        After a BudgetError, OutageError or StoreError the running jobs are awaited, because their requests are paid
        for. After any other error they are cancelled.
        """
        if self._error is None:
            self._error = error
            if not isinstance(error, BudgetError | OutageError | StoreError):
                for task in self._running:
                    task.cancel()
            self._end_if_done()

    def _end_if_done(self) -> None:
        if self._running or self.left or self.ended.done():
            return
        if self._error:
            self.ended.set_exception(self._error)
        else:
            self.ended.set_result(self._results)


class Window:
    """Runs at most `size` jobs at once. A task for every waiting job would take too much memory.

    Args:
        teacher: passed to the jobs.
        size: largest number of jobs that run at once.
        changed: called whenever a job has ended.
    """

    def __init__(self, teacher: Teacher, size: int, changed: Callable[[], None]) -> None:
        self.teacher, self.size, self._changed = teacher, size, changed
        self._waiting: list[Call] = []
        self._calls: set[Call] = set()
        self._running = 0

    @property
    def left(self) -> int:
        """Number of jobs that have not ended: running jobs, and jobs that have not been started.

        `Call.left` does not count running jobs.
        """
        return self._running + sum(call.left for call in tuple(self._waiting))

    def add(self, call: Call) -> None:
        """Run the jobs of a call, after those of calls with a smaller `order`."""
        self._calls.add(call)
        heapq.heappush(self._waiting, call)
        self._fill()

    def stop(self, error: BaseException) -> None:
        """Stop all calls, see `Call.stop`."""
        for call in tuple(self._calls):
            call.stop(error)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and self._running < self.size:
            call = self._waiting[0]
            if not call.left:
                heapq.heappop(self._waiting)
            else:
                self._running += 1
                call.begin(self.teacher, partial(self._end, call))

    def _end(self, call: Call) -> None:
        self._running -= 1
        if call.ended.done():
            self._calls.discard(call)
        self._fill()
        self._changed()
