"""Running many requests of a verb: shards of problems, one teacher at a time, the ledger at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar, cast

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.journal import Journal
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import PriceTable, Purse
from diva_grpo.pipeline.teacher.tokens import TokenCounter
from diva_grpo.pipeline.teacher.wire.live import LiveExchange, endpoint_name, outage
from diva_grpo.pipeline.teacher.wire.outcome import Connect, Exchange, Outcome
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import BudgetError, ConfigError, OutageError, StoreError

R = TypeVar("R")
T = TypeVar("T")
Progress = Callable[[int], None]
"""Told how many problems (or questions) are newly done."""

SHARD_SIZE = 200


def shards(items: Sequence[T], size: int = SHARD_SIZE) -> Iterator[Sequence[T]]:
    """The items in slices of at most `size`: what a crash can cost is the records of one slice."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def tell(progress: Progress | None, results: Mapping[str, int]) -> None:
    """Tell a progress that shows results (a `Meter`) what came of a shard."""
    if isinstance(progress, Meter):
        progress.results.update(results)


def one_of(every: int, progress: Progress | None) -> Progress | None:
    """A progress that passes on one of every so many: of answers, where questions are counted."""
    if progress is None:
        return None
    told, inner = 0, progress

    def tell_some(done: int) -> None:
        nonlocal told
        before, told = told, told + done
        inner(told // every - before // every)

    return tell_some


def live(config: TeacherConfig, store: VariantStore) -> Exchange:
    """Requests that are answered at once."""
    return LiveExchange(config, store.root / "limits.json")


class TeacherRun:
    """A teacher's settings with what all shards of one run share: purse, meter, and way to the endpoint.

    Wherever a verb takes a `TeacherConfig` it takes this too; a bare configuration has no limits.

    Args:
        config: the endpoint.
        meter: counts what is sent and what it costs, and holds the purse.
        connect: makes the exchange, by default a live one.

    Raises:
        ConfigError: the purse is limited and the model's price is unknown, or the price table is unreadable.
    """

    def __init__(self, config: TeacherConfig, meter: Meter | None = None, connect: Connect = live) -> None:
        self.config = config
        self.meter = meter or Meter("requests")
        self.prices = PriceTable.load(config.prices, config.base_url)
        self.connect = connect
        self.outage: OutageError | None = None
        """Why nothing is sent any more."""
        if self.meter.purse.limit is not None and self.prices.of(config.model) is None:
            raise ConfigError(f"--max-cost: {self.prices.how_to_add(config.model)}")

    @property
    def model(self) -> str:
        """The endpoint's model."""
        return self.config.model

    def other(self, config: TeacherConfig) -> TeacherRun:
        """Another teacher of the same run: one purse, one meter."""
        return TeacherRun(config, self.meter, self.connect)

    @property
    def purse(self) -> Purse:
        """What the run spends from."""
        return self.meter.purse


AnyTeacher = TeacherConfig | TeacherRun
"""What a verb takes as its teacher."""


class _Metered:
    """An exchange that is paid from the purse of a run: where that is empty, nothing is sent any more."""

    def __init__(self, inner: Exchange, run: TeacherRun) -> None:
        self._inner, self._run = inner, run
        self._in_flight = 0
        self._ended = asyncio.Event()

    @property
    def concurrency(self) -> int:
        return self._inner.concurrency

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        if self._run.outage:
            raise self._run.outage
        if not self._run.purse.strict:
            self._run.purse.admit()
            return await self._sent(parameters, key)
        most = self._most(parameters)
        while not self._run.purse.bind(most):
            if not self._in_flight:
                raise self._run.purse.exhausted(most)
            # What is under way costs less than it might: then there may be enough.
            await self._ended.wait()
        self._in_flight += 1
        try:
            return await self._sent(parameters, key)
        finally:
            self._run.purse.free(most)
            self._in_flight -= 1
            self._ended.set()
            self._ended = asyncio.Event()

    def _most(self, parameters: dict[str, Any]) -> float:
        """Dollars that a request can cost at most; prompt tokens by our own count."""
        price = self._run.prices.of(self._run.model)
        if price is None or self._run.purse.limit is None:
            return 0.0
        longest = parameters.get("max_completion_tokens") or parameters.get("max_tokens") or 0
        return price.cost(self._counter.request(parameters, price.images), longest)

    async def _sent(self, parameters: dict[str, Any], key: str) -> Outcome:
        outcome = await self._inner.send(parameters, key)
        if outcome.to_do:
            self._run.outage = outage(endpoint_name(self._run.config), outcome, outcome.to_do)
        cost = self._run.prices.cost(self._run.model, outcome)
        if cost is None and outcome.answered and self._run.purse.limit is not None:
            cost = self._counted(parameters, outcome)
        self._run.meter.exchanged(outcome, cost)
        return replace(outcome, cost_usd=cost)

    def _counted(self, parameters: dict[str, Any], outcome: Outcome) -> float:
        """Dollars by our own count, where an endpoint does not count: else it would never reach a limit."""
        price = self._run.prices.of(self._run.model)
        assert price  # `TeacherRun` takes no limit without
        prompt = self._counter.request(parameters, price.images)
        completion = self._counter.text(outcome.content or "") + price.thinks
        return price.cost(prompt, completion, outcome.price_share)

    @cached_property
    def _counter(self) -> TokenCounter:
        return TokenCounter(self._run.model)

    def forget(self, receipt: str) -> None:
        self._inner.forget(receipt)

    def finish(self) -> int:
        return self._inner.finish()

    async def close(self) -> None:
        await self._inner.close()


def with_teacher(
    store: VariantStore,
    teacher: AnyTeacher,
    jobs: Sequence[Callable[[Teacher], Awaitable[R]]],
    progress: Progress | None = None,
) -> list[R]:
    """Run jobs that share a teacher; results in the order of the jobs.

    Every answer is in the journal before a job sees it, and in the store's `calls` when this returns or
    raises. Works inside of a running event loop too (a notebook's).

    Raises:
        BudgetError: the run has spent what it may; what was in flight then has been answered and kept.
        OutageError: the endpoint refuses every request; what was in flight then has been answered and kept.
        TeacherError: the endpoint answers nothing at all.
        ConfigError: the teacher's settings cannot work.
        StoreError: an image or the journal is missing or damaged.
    """
    run = teacher if isinstance(teacher, TeacherRun) else TeacherRun(teacher)

    async def work() -> list[R]:
        with Journal.of_store(store) as journal:
            try:
                inner = run.connect(run.config, store)
                run.meter.watch = inner.note if isinstance(inner, LiveExchange) else None
                exchange = _Metered(inner, run)
                async with Teacher(run.config, journal, exchange) as asked:
                    try:
                        return await _worked_off(jobs, asked, exchange.concurrency, progress)
                    finally:
                        run.meter.reused += asked.reused
                        run.meter.outages.update(asked.outages)
            except ExceptionGroup as errors:
                # The first says what to do; the others are of jobs that failed in the same moment.
                raise errors.exceptions[0] from errors
            finally:
                journal.to_ledger(store)

    if not jobs:
        return []
    if not _in_event_loop():
        return asyncio.run(work())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work()).result()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _worked_off(
    jobs: Sequence[Callable[[Teacher], Awaitable[R]]],
    teacher: Teacher,
    concurrency: int,
    progress: Progress | None,
) -> list[R]:
    """Results of all jobs, of which just so many are begun at once as can be sent: a task for each would
    fill the memory.

    Raises:
        BudgetError: a job was refused for want of money; those begun before are finished, since their requests
            are paid for.
        OutageError: the endpoint refuses every request; likewise.
        StoreError: as above, where a job could not go on.
    """
    results: list[R | None] = [None] * len(jobs)
    todo = iter(enumerate(jobs))
    ends: list[BudgetError | StoreError | OutageError] = []

    async def worker() -> None:
        for number, job in todo:
            try:
                results[number] = await job(teacher)
            except (BudgetError, StoreError, OutageError) as error:
                ends.append(error)
            else:
                if progress:
                    progress(1)
            if ends:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(jobs))):
            group.create_task(worker())
    if ends:
        raise ends[0]
    return cast("list[R]", results)
