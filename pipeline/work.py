"""Running many requests of a verb: shards of problems, one teacher at a time, the ledger at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipeline.journal import Journal
from pipeline.store import VariantStore
from pipeline.teacher import Teacher
from schemas.config import TeacherConfig

R = TypeVar("R")
T = TypeVar("T")
Progress = Callable[[int], None]
"""Told how many problems (or questions) are newly done."""

SHARD_SIZE = 200


def shards(items: Sequence[T], size: int = SHARD_SIZE) -> Iterator[Sequence[T]]:
    """The items in slices of at most `size`: what a crash can cost is the records of one slice."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def with_teacher(
    store: VariantStore,
    config: TeacherConfig,
    jobs: Sequence[Callable[[Teacher], Awaitable[R]]],
    progress: Progress | None = None,
) -> list[R]:
    """Run jobs that share a teacher; results in the order of the jobs.

    Every answer is in the journal before a job sees it, and in the store's `calls` when this returns or
    raises. Works inside of a running event loop too (a notebook's).

    Raises:
        TeacherError: the endpoint answers nothing at all.
        ConfigError: the teacher's settings cannot work.
        StoreError: an image or the journal is missing or damaged.
    """

    async def run() -> list[R]:
        with Journal.of_store(store) as journal:
            try:
                async with Teacher(config, journal) as teacher, asyncio.TaskGroup() as group:
                    tasks = [group.create_task(_told(job(teacher), progress)) for job in jobs]
                return [task.result() for task in tasks]
            except ExceptionGroup as errors:
                # The first says what to do; the others are of jobs that failed in the same moment.
                raise errors.exceptions[0] from errors
            finally:
                journal.to_ledger(store)

    if not jobs:
        return []
    if not _in_event_loop():
        return asyncio.run(run())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _told(job: Awaitable[R], progress: Progress | None) -> R:
    result = await job
    if progress:
        progress(1)
    return result
