"""A session holds what lives as long as a run: store, endpoints, journal, budget and meter, opened once.

One thread with one event loop sends the requests. The work between requests (reading, checking, grading, writing
records) is done in ordinary threads, one per shard of problems. The next shard starts as soon as the endpoint could
take more requests than are pending, so the endpoint never waits for the end of a shard or of a stage.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from diva_grpo.pipeline.session.paid import PaidExchange
from diva_grpo.pipeline.session.references import References
from diva_grpo.pipeline.session.window import Call, Job, Window
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.interrupt import Interrupt
from diva_grpo.pipeline.teacher.journal import Journal
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import PriceTable
from diva_grpo.pipeline.teacher.wire.batch import exchange as batches
from diva_grpo.pipeline.teacher.wire.live import LiveExchange
from diva_grpo.pipeline.teacher.wire.outcome import Connect, Exchange
from diva_grpo.schemas.config import TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError, DivaError
from diva_grpo.schemas.records import Variant

R = TypeVar("R")
S = TypeVar("S")

SHARD_SIZE = 200
"""Problems whose records are written together."""

MOST_OPEN = 64
"""Shards at work at once, however few requests each has."""

_LEDGER_EVERY_S = 10.0
"""Seconds between two updates of the store's `calls` during a run."""

_SHARD: ContextVar[int] = ContextVar("shard", default=0)
"""Number of the shard that a thread works on."""


def live(config: TeacherConfig, store: VariantStore) -> Exchange:
    """Requests that are answered at once; what is found of an endpoint's limits is kept for the next command."""
    return LiveExchange(config, store.root / "limits.json")


def shards(items: Sequence[S], size: int) -> Iterator[Sequence[S]]:
    """The items in slices of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Endpoint:
    """A model that a session asks: one journal's name, one client, one window of requests.

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
        """The endpoint's model."""
        return self.config.model

    def ask(
        self,
        jobs: Sequence[Callable[[Teacher], Awaitable[R]]],
        progress: Callable[[int], None] | None = None,
    ) -> list[R]:
        """Results of jobs, in their order; blocks until all are there. Threads may ask at the same time.

        Every answer is in the journal before a job sees it.

        Args:
            jobs: each asks a teacher.
            progress: called with 1 for every finished job.

        Raises:
            BudgetError: the run has spent what it may; what was in flight then has been answered and kept.
            OutageError: the endpoint refuses every request; what was in flight then has been answered and kept.
            TeacherError: the endpoint answers nothing at all.
            ConfigError: the endpoint's settings cannot work.
            StoreError: an image or the journal is missing or damaged.
        """
        return cast("list[R]", self.session.work_off(self, jobs, progress)) if jobs else []


class Session:
    """A run on a store: one journal, one exchange per endpoint, one budget, one meter.

    Opened lazily: where nothing is asked, there is no client and no journal. In the main thread, Ctrl-C lets the
    requests in flight finish and then raises KeyboardInterrupt; a second one does so at once.

    Args:
        store: of the run.
        teacher: the endpoint that writes; None where nothing is written by one.
        solver: the endpoint that verifies and labels; default the teacher's.
        meter: of the run, with its budget.
        batch: requests waited for at once by the Batch API; None asks live.
        connect: makes the exchange of an endpoint, in the place of these two.
        began_ns: when the run began, in nanoseconds since 1970: only what was accepted until then is what new
            variants are compared with, whichever shards ended since. None: whatever is accepted.

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
        self.shard_size = SHARD_SIZE if batch is None else batches.SHARD_SIZE
        self._connect = connect or (live if batch is None else batches.by_batch(self.meter, batch))
        self._endpoints: dict[str, Endpoint] = {}
        self._teacher = self.endpoint(teacher) if teacher else None
        self._solver = self.endpoint(solver) if solver else self._teacher
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
        """Number of the shard that has begun and not asked anything yet; 0 where there is none."""
        self._error: BaseException | None = None
        self._references: dict[str, References] = {}
        self._notes: list[Callable[[], str]] = []
        self._interrupt = Interrupt(self._finish)

    # --- what it has

    @property
    def teacher(self) -> Endpoint:
        """The endpoint that writes.

        Raises:
            ConfigError: there is none.
        """
        if self._teacher is None:
            raise ConfigError("texts are written by a teacher: name a model")
        return self._teacher

    @property
    def solver(self) -> Endpoint | None:
        """The endpoint that verifies and labels, if there is one."""
        return self._solver

    def endpoint(self, config: TeacherConfig) -> Endpoint:
        """Another endpoint of the run, such as a judge's: the same one for the same settings.

        Raises:
            ConfigError: the budget is limited and the price of its model is unknown.
        """
        key = config.model_dump_json()
        if key not in self._endpoints:
            self._endpoints[key] = Endpoint(self, config)
        return self._endpoints[key]

    def references(self, checks: VerifyConfig) -> References:
        """What variants are compared with, read when it is first needed; grows with what passes.

        In a run with `began_ns` a copy that is the caller's own.

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
        """Compare variants with references that others share."""
        self._references[checks.model_dump_json()] = references

    def decided(self, variants: list[Variant]) -> list[Variant]:
        """The variants of a shard as they are to be kept, once they are decided."""
        return variants

    @property
    def is_stopped(self) -> bool:
        """Whether the run ends, since a shard has failed or the user has interrupted it."""
        return self._error is not None

    # --- shards

    def over(self, pieces: Iterable[S], work: Callable[[S], R]) -> Iterator[R]:
        """Work on shards in threads, with enough of them open to keep the endpoint busy; yields the result of each.

        A shard starts when fewer requests are pending than two windows (twice the concurrency), and after the shard
        before it has made its first request. After a crash the records of the open shards are missing; the next run
        makes them again from the journal.

        Args:
            pieces: the shards.
            work: done for each.

        Raises:
            Exception: the first error of a shard. No other is begun then, requests in flight end as `Endpoint.ask`
                says, and all shards have ended when it is raised.
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
        """Whether another shard may begin."""
        return not self._opening and open_shards < MOST_OPEN and self._wants_more()

    def _wait_for_change(self, flying: Collection[Future[Any]], *, more: bool) -> None:
        """Wait until a shard has ended, or another may begin where there are more."""
        with self._changed:
            self._changed.wait_for(
                lambda: any(shard.done() for shard in flying) or (more and self._has_room(len(flying)))
            )

    def _wants_more(self) -> bool:
        """Whether less than two windows of requests are asked for."""
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
        """A shard has asked for something, or has ended."""
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
                # Not for ever: an error that another thread sets for this one, such as Prefect's timeout of a
                # task, is raised between two instructions.
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
        teacher = Teacher(endpoint.config, self._journal, exchange, self.meter, endpoint.prices)
        return Window(teacher, exchange.concurrency, self._job_ended)

    def _job_ended(self) -> None:
        if self._wants_more():
            self._notify()

    def stop(self, error: BaseException) -> None:
        """Begin no further request, as `Call.stop` says; who waits for some gets the error."""
        if self._error is None:
            self._error = error
        if self._loop:
            self._loop.call_soon_threadsafe(self._stop_windows, _as_said(self._error))

    def _stop_windows(self, error: DivaError) -> None:
        for window in self._windows.values():
            window.stop(error)

    # --- the event loop's life

    def __enter__(self) -> Self:
        self._interrupt.catch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pressed = self._interrupt.release()
        self.close()
        # Also where all were answered just then: after this work there would be other.
        if pressed and error is None:
            raise KeyboardInterrupt

    def close(self) -> None:
        """End what is under way, bring the store's `calls` up to date, and release connections and files."""
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
        """The event loop, with the journal; both are opened where they are not.

        Raises:
            StoreError: the journal is damaged.
        """
        with self._lock:
            if self._loop is None:
                self._journal = Journal.of_store(self.store)
                ready = threading.Event()
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._serve(ready)), name="session", daemon=True
                )
                self._thread.start()
                ready.wait()
            assert self._loop
            return self._loop

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await self._closing.wait()
        for window in self._windows.values():
            await window.teacher.close()

    def _finish(self) -> int | None:
        """Let no further request go; when those in flight are answered and kept, end the work."""
        if self._loop is None:
            return None
        self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._drain()))
        return sum(window.teacher.finish() for window in self._windows.values())

    async def _drain(self) -> None:
        while any(window.teacher.is_busy for window in self._windows.values()):
            await asyncio.sleep(0.02)
        self._interrupt.drained()


def _as_said(error: BaseException) -> DivaError:
    """The error that other shards get when one ends the run."""
    return error if isinstance(error, DivaError) else DivaError("the run has been stopped")
