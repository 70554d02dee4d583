"""A session holds what lives as long as a run: store, endpoints, journal, budget and meter, opened once.

One thread with one event loop sends the requests. The work between requests (reading, checking, grading, writing
records) is done in ordinary threads, one per shard of problems. A new shard starts when fewer requests are pending
than twice the concurrency, so the endpoint never waits for the end of a shard or of a stage.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Self, TypeVar, cast

from diva_grpo.pipeline.session.references import References
from diva_grpo.pipeline.session.window import Call, Job, Window
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.interrupt import Interrupt
from diva_grpo.pipeline.teacher.journal import Journal
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.paid import PaidExchange
from diva_grpo.pipeline.teacher.prices import PriceTable
from diva_grpo.pipeline.teacher.wire.batch import exchange as batches
from diva_grpo.pipeline.teacher.wire.live import LiveExchange
from diva_grpo.pipeline.teacher.wire.outcome import Connect, Exchange
from diva_grpo.schemas.config import TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError, DivaError
from diva_grpo.schemas.records import Variant

R = TypeVar("R")
S = TypeVar("S")

LARGEST_SHARD, SMALLEST_SHARD, ENOUGH_SHARDS = 200, 50, 32
"""Problems of a shard at most and at least, and the number of shards from which on they are made larger.

A shard waits for the last answer of a stage, so few shards leave the endpoint idle: 263 problems of 19 requests each,
256 at once, kept it 75 % busy in shards of 200, and 96 % in shards of 50 (`tests/bench/stream_teacher.py`). But each
shard costs its queries and files."""

MOST_OPEN = 64
"""Largest number of shards that are worked on at the same time."""

_LEDGER_EVERY_S = 10.0
"""Smallest number of seconds between two updates of the store's table `calls` during a run."""

_SHARD: ContextVar[int] = ContextVar("shard", default=0)
"""Number of the shard that the thread works on, from 1; 0 outside of shards."""


def live(config: TeacherConfig, store: VariantStore) -> Exchange:
    """An exchange that sends live requests. It stores the rate limits that it finds, for the next command."""
    return LiveExchange(config, store.root / "limits.json")


def shards(items: Sequence[S], size: int) -> Iterator[Sequence[S]]:
    """Yield the items in slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Endpoint:
    """A model at an endpoint to which a session sends requests, with its own client and window of requests.

    Raises:
        ConfigError: the budget is limited and the model's price is unknown, or the price table is unreadable.
    """

    def __init__(self, session: Session, config: TeacherConfig) -> None:
        self.session, self.config = session, config
        self.prices = PriceTable.load(config.prices, config.base_url)
        if session.meter.budget.limit is not None and self.prices.of(config.model) is None:
            raise ConfigError(f"--max-cost: {self.prices.how_to_add(config.model)}")

    @property
    def model(self) -> str:
        """Name of the endpoint's model."""
        return self.config.model

    def ask(
        self,
        jobs: Sequence[Callable[[Teacher], Awaitable[R]]],
        progress: Callable[[int], None] | None = None,
    ) -> list[R]:
        """Run jobs and return their results in the same order. Blocks until all jobs have ended.

        Several threads may call it at the same time. Every answer is in the journal before a job gets it.

        Args:
            jobs: functions that send requests by the `Teacher` that they are called with.
            progress: called with 1 for every finished job.

        Raises:
            BudgetError: the budget of the run is spent. The requests in flight were still answered and kept.
            OutageError: the endpoint refuses every request. The requests in flight were still answered and kept.
            TeacherError: the endpoint has stopped answering (see `Teacher.ask`), or the Batch API refuses a batch.
            ConfigError: the settings of the endpoint are invalid.
            StoreError: an image is missing or damaged, or the journal is damaged or cannot be written.
        """
        return cast("list[R]", self.session.work_off(self, jobs, progress)) if jobs else []


class Session:
    """The resources of a run on a store: one journal, one exchange per endpoint, one budget, one meter.

    The journal and the clients are opened by the first request. In the main thread, the first Ctrl-C lets the requests
    in flight finish and then raises KeyboardInterrupt. A second one raises it at once.

    Args:
        store: the store of the run.
        teacher: settings of the endpoint that writes variants; None if the run needs no teacher.
        solver: settings of the endpoint that verifies and labels; by default those of the teacher.
        meter: counts of the run, and its budget.
        batch: use the Batch API, with this many requests pending at once. None sends live requests.
        connect: makes the exchange of an endpoint; overrides `batch`.
        began_ns: start of the run, in nanoseconds since 1970. If it is set, new variants are compared only with
            variants that were accepted before this moment, so the result does not depend on the order in which shards
            end. If None, they are compared with all accepted variants.

    Raises:
        ConfigError: the budget is limited and the price of a model is unknown, or a price table is unreadable.

    Example:
        >>> with Session(store, TeacherConfig(model="gpt-4.1-mini")) as session:
        ...     session.teacher.model
        'gpt-4.1-mini'
    """

    def __init__(
        self,
        store: VariantStore,
        teacher: TeacherConfig | None = None,
        *,
        solver: TeacherConfig | None = None,
        meter: Meter | None = None,
        batch: int | None = None,
        connect: Connect | None = None,
        began_ns: int | None = None,
    ) -> None:
        self.store, self.began_ns = store, began_ns
        self.meter = meter or Meter("requests")
        self._by_batch = batch is not None
        self._connect = connect or (live if batch is None else batches.by_batch(self.meter, batch))
        self._endpoints: dict[str, Endpoint] = {}
        self._teacher = self.endpoint(teacher) if teacher else None
        self.solver = self.endpoint(solver) if solver else self._teacher
        """The endpoint that verifies and labels; None if the session has none."""
        self._lock = threading.RLock()
        self._changed = threading.Condition()
        self._windows: dict[Endpoint, Window] = {}
        self._journal: Journal | None = None
        self._ledger_at = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event
        self._thread: threading.Thread | None = None
        self._calls = itertools.count()
        self._opening = 0
        """Number of the shard that has started but has not made a request yet; 0 if there is none."""
        self._error: BaseException | None = None
        self._references: dict[str, References] = {}
        self._notes: list[Callable[[], str]] = []
        self._interrupt = Interrupt(self._finish)

    # --- endpoints and references

    @property
    def teacher(self) -> Endpoint:
        """The endpoint that writes variants.

        Raises:
            ConfigError: the session has no teacher.
        """
        if self._teacher is None:
            raise ConfigError("texts are written by a teacher: name a model")
        return self._teacher

    def endpoint(self, config: TeacherConfig) -> Endpoint:
        """Return the endpoint with these settings, such as that of a judge. Equal settings give the same object.

        Raises:
            ConfigError: the budget is limited and the price of its model is unknown, or the price table is unreadable.
        """
        key = config.model_dump_json()
        if key not in self._endpoints:
            self._endpoints[key] = Endpoint(self, config)
        return self._endpoints[key]

    def references(self, checks: VerifyConfig) -> References:
        """The texts with which new variants are compared. They are read from the store at the first call.

        All callers share one object, to which variants that pass are added. In a session with `began_ns`, each call
        returns a new copy instead.

        Raises:
            SourceError: a held-out set cannot be read.
            ConfigError: a held-out set has no question.
        """
        with self._lock:
            key = checks.model_dump_json()
            if key not in self._references:
                until = self.began_ns
                parts = None if until is None else self.store.variant_parts(until)
                self._references[key] = References.of(self.store, checks, variant_parts=parts)
            found = self._references[key]
        return found if self.began_ns is None else found.layered()

    def use(self, checks: VerifyConfig, references: References) -> None:
        """Set the references that `references` returns for these checks, so that several sessions can share them."""
        self._references[checks.model_dump_json()] = references

    def decided(self, variants: list[Variant]) -> list[Variant]:
        """Return the decided variants of a shard as they are to be written; `Rehearsal` overrides this."""
        return variants

    @property
    def is_stopped(self) -> bool:
        """Whether the run is ending, because a shard has failed, the user interrupted it or the session is closed."""
        return self._error is not None

    # --- shards

    def shard_size(self, problems: int) -> int:
        """Number of problems in a shard, for a run that does not name it. The records of a shard are written together.

        The stages of a shard follow one another. So the endpoint is busy throughout only if several shards overlap.

        Args:
            problems: number of problems that have something left to do.
        """
        if self._by_batch:
            return batches.SHARD_SIZE
        return min(LARGEST_SHARD, max(SMALLEST_SHARD, math.ceil(problems / ENOUGH_SHARDS)))

    def over(self, pieces: Iterable[S], work: Callable[[S], R]) -> Iterator[R]:
        """Work on shards in parallel threads, and yield the result of each shard when it has ended.

        A shard starts when fewer requests are pending than twice the concurrency, but not before the previous shard
        has made its first request. After a crash, the records of unfinished shards are missing. The next run makes
        them again, with the answers from the journal.

        Args:
            pieces: the shards.
            work: called with each shard, in one of the threads.

        Raises:
            Exception: the first error of a shard. No further shard is started then, requests in flight end as
                described in `Endpoint.ask`, and all shards have ended when the error is raised.
        """
        numbered = enumerate(pieces, 1)
        following = next(numbered, None)
        flying: set[Future[R]] = set()
        pool = ThreadPoolExecutor(MOST_OPEN, "shard")
        try:
            while following or flying:
                if following and self._has_room(len(flying)):
                    self._opening = following[0]
                    shard = pool.submit(copy_context().run, partial(self._shard, work, *following))
                    shard.add_done_callback(lambda _: self._notify())
                    flying.add(shard)
                    following = next(numbered, None)
                    continue
                self._wait_for_change(flying, more=following is not None)
                for ended in [shard for shard in flying if shard.done()]:
                    flying.discard(ended)
                    yield ended.result()
        except BaseException as error:
            self.stop(error)
            raise
        finally:
            pool.shutdown()

    def _has_room(self, open_shards: int) -> bool:
        """Whether another shard may start."""
        return not self._opening and open_shards < MOST_OPEN and self._wants_more()

    def _wait_for_change(self, flying: Collection[Future[Any]], *, more: bool) -> None:
        """Wait until a shard has ended or, if there are more shards, until the next one may start."""
        with self._changed:
            self._changed.wait_for(
                lambda: any(shard.done() for shard in flying) or (more and self._has_room(len(flying)))
            )

    def _wants_more(self) -> bool:
        """Whether fewer requests are pending than twice the largest concurrency of an endpoint."""
        windows = tuple(self._windows.values())
        most = 2 * max((window.size for window in windows), default=1)
        return sum(window.left for window in windows) < most

    def _shard(self, work: Callable[[S], R], number: int, piece: S) -> R:
        _SHARD.set(number)
        try:
            done = work(piece)
            self._to_ledger(every_s=_LEDGER_EVERY_S)
            return done
        finally:
            self._opened(number)

    def _opened(self, number: int) -> None:
        """Note that a shard has made its first request or has ended, so that the next one may start."""
        if self._opening == number:
            self._opening = 0
            self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # --- requests

    def work_off(
        self, endpoint: Endpoint, jobs: Sequence[Job], progress: Callable[[int], None] | None
    ) -> list[Any]:
        """See `Endpoint.ask`."""
        call = Call((_SHARD.get(), next(self._calls)), jobs, progress)
        loop = self._opened_loop()
        asyncio.run_coroutine_threadsafe(self._add(endpoint, call), loop).result()
        self._opened(call.order[0])
        try:
            while not call.ended.done():
                # With a timeout, because Prefect's timeout of a task raises an error in this thread from another one,
                # and Python can raise it only between two instructions of this thread.
                wait((call.ended,), timeout=1.0)
        except BaseException as error:
            loop.call_soon_threadsafe(call.stop, error)
            raise
        return call.ended.result()

    async def _add(self, endpoint: Endpoint, call: Call) -> None:
        if self._error is not None:
            raise _as_said(self._error)
        if endpoint not in self._windows:
            self._windows[endpoint] = self._window(endpoint)
        self._windows[endpoint].add(call)

    def _window(self, endpoint: Endpoint) -> Window:
        assert self._journal
        inner = self._connect(endpoint.config, self.store)
        if isinstance(inner, LiveExchange):
            notes = self._notes
            notes.append(inner.note)
            self.meter.watch = lambda: next(filter(None, (note() for note in notes)), "")
        exchange = PaidExchange(inner, endpoint.config, endpoint.prices, self.meter)
        return Window(self._client(endpoint, exchange, self._journal), exchange.concurrency, self._job_ended)

    def _client(self, endpoint: Endpoint, exchange: Exchange, journal: Journal) -> Teacher:
        return Teacher(endpoint.config, journal, exchange, self.meter, endpoint.prices)

    def _job_ended(self) -> None:
        if self._wants_more():
            self._notify()

    def stop(self, error: BaseException) -> None:
        """Start no further request, see `Call.stop`. Threads that wait for requests get the error."""
        if self._error is None:
            self._error = error
        if self._loop:
            self._loop.call_soon_threadsafe(self._stop_windows, _as_said(self._error))

    def _stop_windows(self, error: DivaError) -> None:
        for window in self._windows.values():
            window.stop(error)

    # --- start and end of the event loop

    def __enter__(self) -> Self:
        self._interrupt.catch()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        pressed = self._interrupt.release()
        self.close()
        # Even if all requests were answered in the meantime: the caller would continue with other work.
        if pressed and error is None:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Stop all work, bring the store's table `calls` up to date, and release connections and files."""
        self.stop(DivaError("the session is closed"))
        if self._thread:
            assert self._loop
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
            self._thread = self._loop = None
        if self._journal:
            self._to_ledger()
            self._journal.close()
            self._journal = None

    def _to_ledger(self, every_s: float = 0.0) -> None:
        with self._lock:
            if self._journal and time.monotonic() - self._ledger_at >= every_s:
                self._journal.to_ledger(self.store)
                self._ledger_at = time.monotonic()

    def _opened_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop. The first call opens the journal and starts the loop in a thread.

        Raises:
            StoreError: the journal is damaged.
        """
        with self._lock:
            if self._loop is None:
                self._journal = self._open_journal()
                ready = threading.Event()
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._serve(ready)), name="session", daemon=True
                )
                self._thread.start()
                ready.wait()
            assert self._loop
            return self._loop

    def _open_journal(self) -> Journal:
        return Journal.of_store(self.store)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await self._closing.wait()
        for window in self._windows.values():
            await window.teacher.close()

    def _finish(self) -> int | None:
        """Send no further request, and interrupt the main thread when those in flight are answered and kept.

        Returns:
            Number of requests in flight. None if nothing was ever sent, so there is nothing to wait for.
        """
        if self._loop is None:
            return None
        self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._drain()))
        return sum(window.teacher.finish() for window in self._windows.values())

    async def _drain(self) -> None:
        while any(window.teacher.is_busy for window in self._windows.values()):
            await asyncio.sleep(0.02)
        self._interrupt.drained()


def _as_said(error: BaseException) -> DivaError:
    """The error that all other shards get when this error has stopped the run."""
    return error if isinstance(error, DivaError) else DivaError("the run has been stopped")
