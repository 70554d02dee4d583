"""OpenAI's Batch API as an exchange: it costs half the price and answers within a day.

Requests are collected until no more arrive. They are then submitted as a file, and the status of the batch is polled
with growing delays. A request is never in two batches at once, even after a crash: the name of a batch is written to
disk before the batch is submitted and is part of its metadata, so a later run can find the batch by its name.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx2
import openai
from openai.types import Batch as ApiBatch

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import Budget, Price, PriceTable
from diva_grpo.pipeline.teacher.tokens import TokenCounter
from diva_grpo.pipeline.teacher.wire.batch.api import BatchApi, RefusedError, message_of
from diva_grpo.pipeline.teacher.wire.batch.book import BatchBook
from diva_grpo.pipeline.teacher.wire.batch.lines import Allowance, Line, read_line, request_line
from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_name
from diva_grpo.pipeline.teacher.wire.outcome import Connect, Exchange, Outcome, one_line
from diva_grpo.schemas.config import BATCH_SIZE, TeacherConfig
from diva_grpo.schemas.exceptions import BudgetError, ConfigError, TeacherError

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
"""Limits of the API for one file: number of requests, and bytes."""

SHARD_SIZE = 10_000
"""Number of problems in a shard. The shards of live requests are too small: each would be a batch of its own."""

MOST_TRIES = 3
"""How often a request is submitted at most, if it expires, is cancelled or fails with a temporary error."""

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_LOST_AFTER = 20
"""Number of consecutive failed polls of a batch after which the run fails. The batch itself continues at the API."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Delays, in seconds.

    Attributes:
        quiet: the collected requests are submitted when no further request has arrived for this time.
        first: time before the first poll of a batch. The delays of other retries are multiples of it.
        longest: longest time between two polls of a batch.
    """

    quiet: float = 1.0
    first: float = 1.0
    longest: float = 120.0


@dataclass(slots=True)
class _Waiting:
    """A request that is waited for: its future outcome, and how often it was submitted."""

    answer: asyncio.Future[Outcome]
    tries: int = 0


class BatchExchange:
    """Submits requests to the Batch API and waits for their outcomes.

    Args:
        config: the endpoint.
        book: the batches of the store; closed with the exchange.
        size: largest number of requests that are waited for at once, and in one file.
        budget: budget of the run; None for no limit.
        price: price of the model; None if unknown.
        pace: delays; by default those of `Pace`.
        say: called with a text that says what the exchange is waiting for.

    Raises:
        ConfigError: the endpoint has routes or an API version, which are not supported here; or see `routes_of`.
    """

    def __init__(
        self,
        config: TeacherConfig,
        book: BatchBook,
        *,
        size: int = BATCH_SIZE,
        budget: Budget | None = None,
        price: Price | None = None,
        pace: Pace | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if config.routes or config.api_version is not None:
            book.close()
            raise ConfigError("--batch goes to one URL of OpenAI's form: leave routes and --api-version out")
        self._config, self._book, self._say = config, book, say
        self._endpoint = endpoint_name(config)
        self._size, self._pace = min(size, MOST_REQUESTS), pace or Pace()
        self._limit = Allowance(budget or Budget(), price, TokenCounter(config.model))
        self._api = BatchApi(config, self._pace.first)
        self._waiting: dict[str, _Waiting] = {}
        self._collected: list[Line] = []
        self._last_at = 0.0
        self._work: set[asyncio.Task[None]] = set()
        self._collecting: asyncio.Task[None] | None = None
        self._found = asyncio.Lock()
        self._is_found = False
        self._kept: list[str] = []
        self._states: dict[str, str] = {}
        self._finishing = False

    @property
    def concurrency(self) -> int:
        """Largest number of requests in a batch, because all requests of a batch wait at once."""
        return self._size

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        """Return the outcome of a request from an earlier batch if there is one, else submit it in a batch.

        Raises:
            BudgetError: the largest possible cost of the request is more than what is left of the budget.
            TeacherError: the API refuses batches or this batch, cannot be reached, or the request is too large.
        """
        await self._find_earlier()
        if outcome := self._book.outcome(key):
            return replace(outcome, receipt=key)
        if key not in self._waiting:
            self._waiting[key] = _Waiting(asyncio.get_running_loop().create_future())
            if self._book.batch_of(key) is None:
                self._collect(Line(key, request_line(key, parameters), self._limit.most(parameters)))
        waiting = self._waiting[key].answer
        del parameters  # with the images of a whole batch they would take too much memory
        try:
            return replace(await waiting, receipt=key)
        finally:
            self._waiting.pop(key, None)

    def forget(self, receipt: str) -> None:
        """Delete an outcome, because the journal has it. Deletions are collected and written together."""
        self._kept.append(receipt)
        if len(self._kept) >= 1_000:
            self._forget_kept()

    def _forget_kept(self) -> None:
        self._book.forget(self._kept)
        self._kept = []

    def finish(self) -> int:
        """Submit no further batch; returns 0, because nothing needs to be waited for.

        Submitted batches continue at the API, and a later run finds them.
        """
        self._finishing = True
        return 0

    async def close(self) -> None:
        """Release connections and files."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        self._forget_kept()
        self._book.close()
        await self._api.close()

    # --- submission

    def _collect(self, line: Line) -> None:
        self._collected.append(line)
        self._last_at = time.monotonic()
        if self._collecting is None or self._collecting.done():
            self._collecting = self._start(self._hand_over_when_quiet())

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a background task. If it fails, all requests that are waited for fail."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._on_end)
        return task

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()):
            for key in list(self._waiting):
                self._fail(key, error)

    async def _hand_over_when_quiet(self) -> None:
        while self._collected and not self._finishing:
            if len(self._collected) < self._size:
                while (rest := self._last_at + self._pace.quiet - time.monotonic()) > 0:
                    await asyncio.sleep(rest)
            lines = self._next_file()
            if not lines:
                return  # continued by `_end` when a batch has ended and has not used up its reserved cost
            self._waiting_for(lines)
            await self._hand_over(lines)

    def _next_file(self) -> list[Line]:
        """Remove and return the first collected lines, as many as fit into one file and into the budget.

        If none fits and no batch is running, all collected requests fail.
        """
        count = size = 0
        cost, left = 0.0, self._limit.left
        for line in self._collected:
            size, cost = size + len(line.text.encode()) + 1, cost + line.most
            if count >= self._size or size > MOST_BYTES or cost > left + 1e-9:
                break
            count += 1
        if count == 0 and not self._limit.bound:
            self._refuse_collected()
        taken, self._collected = self._collected[:count], self._collected[count:]
        return taken

    def _refuse_collected(self) -> None:
        """Fail all collected requests, because the next one is too large for a file or for the budget.

        It is called only when no batch is running, so no reserved cost can become free again.
        """
        line, budget = self._collected[0], self._limit.budget
        if len(line.text) >= MOST_BYTES:
            error: Exception = TeacherError(
                "a request is larger than the 200 MB of a batch: scale its images down"
            )
        else:
            error = BudgetError(
                f"--max-cost: ${budget.spent:.4f} of ${budget.limit or 0:g} are spent in this run, and one more "
                f"request of a batch may cost ${line.most:.4f} (by --max-tokens); all answers are kept, and the "
                "same command continues from here"
            )
        for line in self._collected:
            self._fail(line.key, error)
        self._collected = []

    def _waiting_for(self, lines: list[Line]) -> None:
        for line in lines:
            if line.key in self._waiting:
                self._waiting[line.key].tries += 1

    async def _hand_over(self, lines: list[Line]) -> None:
        """Write requests to a file, upload it, and create a batch from it.

        Raises:
            TeacherError: the API refuses the file or the batch.
        """
        name = uuid.uuid4().hex
        path = self._book.file_of(name)
        with path.open("w", encoding="utf-8") as out:
            out.writelines(line.text + "\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
        self._book.open(name, self._endpoint, self._config.model, [line.key for line in lines])
        self._limit.bound[name] = sum(line.most for line in lines)
        try:
            batch = await self._api.create(name, path)
        except RefusedError as error:
            self._drop(name)
            raise TeacherError(str(error)) from error
        # After another error the batch stays in the book, so that the next run looks for it before it sends anything.
        self._watch(name, batch)

    # --- running batches

    async def _find_earlier(self) -> None:
        """Continue to wait for the batches of earlier runs. A batch that the API does not know was never submitted.

        Raises:
            TeacherError: the API cannot be read.
        """
        async with self._found:
            if self._is_found:
                return
            for batch in self._book.pending(self._endpoint):
                made_at = datetime.fromisoformat(batch.created_at)
                try:
                    found = await self._api.find(batch.name, batch.batch_id, made_at)
                except openai.APIError as error:
                    raise self._unread(batch.batch_id, error) from error
                if found is None:
                    self._end(batch.name)
                else:
                    self._watch(batch.name, found)
            known = {batch.name for batch in self._book.pending()}
            for path in self._book.folder.glob("*.jsonl"):
                if path.stem not in known:
                    path.unlink()  # left by a crash before the batch was in the book
            self._is_found = True

    def _watch(self, name: str, batch: ApiBatch) -> None:
        self._note(name, batch)
        self._start(self._watched(name, batch))

    def _note(self, name: str, batch: ApiBatch) -> None:
        counts = batch.request_counts
        done, failed = (counts.completed, counts.failed) if counts else (0, 0)
        self._book.update(name, batch.id, batch.status, done, failed)
        self._states[name] = batch.status
        states = Counter(self._states.values())
        self._say("batches: " + ", ".join(f"{count} {status}" for status, count in states.items()))

    async def _watched(self, name: str, batch: ApiBatch) -> None:
        """Poll a batch until it has ended, then read its outcomes.

        Raises:
            TeacherError: the batch cannot be read.
        """
        delay, unanswered = self._pace.first, 0
        while True:
            try:
                if batch.status in _ENDED:
                    await self._take_in(name, batch)
                    return
                await asyncio.sleep(delay)
                batch = await self._api.retrieve(batch.id)
                self._note(name, batch)
                unanswered = 0
            # If the connection breaks during a download, the error is one of the HTTP client, not of `openai`.
            except (openai.APIError, httpx2.HTTPError) as error:
                unanswered += 1
                _LOG.warning("batch %s: %s", batch.id, message_of(error))
                if unanswered >= _LOST_AFTER or isinstance(error, openai.NotFoundError):
                    raise self._unread(batch.id, error) from error
                if batch.status in _ENDED:
                    await asyncio.sleep(delay)
            delay = min(1.5 * delay, self._pace.longest)

    def _unread(self, batch_id: str | None, error: openai.APIError | httpx2.HTTPError) -> TeacherError:
        way_on = "run again to continue waiting for it"
        if isinstance(error, openai.NotFoundError):
            way_on = (
                f"was another key in use? If it is gone for good, delete {self._book.path}: all batches that "
                "are waited for are then forgotten, and their requests sent and paid for again"
            )
        return TeacherError(
            f"{self._endpoint}: batch {batch_id} cannot be read: {message_of(error)}; {way_on}"
        )

    async def _take_in(self, name: str, batch: ApiBatch) -> None:
        """Record all outcomes of a batch that has ended, and submit the requests without an outcome again."""
        if batch.status == "failed":
            await self._after_refusal(name, batch)
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                outcomes: dict[str, Outcome] = {}
                async for key, outcome in self._outcomes(file_id):
                    outcomes[key] = outcome
                    if len(outcomes) >= 1_000:
                        self._settle(outcomes)
                        outcomes = {}
                self._settle(outcomes)
        self._end(name)

    async def _after_refusal(self, name: str, batch: ApiBatch) -> None:
        """Handle a batch that the API refused as a whole. If the account's queue was full, use smaller batches.

        Raises:
            TeacherError: the batch was refused for another reason, or has only one request.
        """
        said = batch.errors.data if batch.errors and batch.errors.data else []
        count = sum(1 for _ in self._book.file_of(name).open("rb"))
        if count == 1 or not any(error.code == "token_limit_exceeded" for error in said):
            self._drop(name)
            message = one_line(said[0].message if said else "no reason given")
            raise TeacherError(f"{self._endpoint} refuses the batch: {message}")
        self._size = count // 2
        _LOG.warning("the queue for batches is full: %d requests a batch from here on", self._size)
        for waiting in self._waiting.values():
            waiting.tries = max(0, waiting.tries - 1)
        await asyncio.sleep(self._pace.longest)

    async def _outcomes(self, file_id: str) -> AsyncIterator[tuple[str, Outcome]]:
        """Yield the key and the outcome of each request in a result file.

        Requests that failed and may succeed if they are sent again are left out, until they were sent `MOST_TRIES`
        times.
        """
        async for line in self._api.lines(file_id):
            if told := self._told(line):
                yield told

    def _told(self, text: bytes) -> tuple[str, Outcome] | None:
        if (told := read_line(text)) is None:
            return None
        key, outcome, passing = told
        waiting = self._waiting.get(key)
        return (key, outcome) if not passing or (waiting and waiting.tries >= MOST_TRIES) else None

    def _settle(self, outcomes: dict[str, Outcome]) -> None:
        """Record outcomes, then return them to the calls of `send` that wait for them."""
        self._book.keep(outcomes)
        for key, outcome in outcomes.items():
            waiting = self._waiting.get(key)
            if waiting and not waiting.answer.done():
                waiting.answer.set_result(outcome)

    def _end(self, name: str) -> None:
        """Delete a batch that has ended, and collect its requests again that have no outcome and are waited for.

        A request that was already submitted `MOST_TRIES` times gets the outcome `timeout` instead.
        """
        missing = set(self._book.end(name)) & self._waiting.keys()
        self._limit.bound.pop(name, None)
        self._states.pop(name, None)
        path = self._book.file_of(name)
        if missing:
            with path.open(encoding="utf-8") as lines:
                for text in lines:
                    request = json.loads(text)
                    key = request["custom_id"]
                    if key not in missing:
                        continue
                    if self._waiting[key].tries >= MOST_TRIES:
                        failure = f"the batch ended {MOST_TRIES} times without an answer"
                        self._waiting[key].answer.set_result(Outcome(None, "timeout", failure))
                    else:
                        self._collect(Line(key, text.rstrip("\n"), self._limit.most(request["body"])))
        elif self._collected:
            self._collect(self._collected.pop())  # starts the submission again: the budget may suffice now
        path.unlink(missing_ok=True)

    def _drop(self, name: str) -> None:
        """Delete a batch that the API has refused, and that therefore costs nothing."""
        self._book.end(name)
        self._limit.bound.pop(name, None)
        self._states.pop(name, None)
        self._book.file_of(name).unlink(missing_ok=True)

    def _fail(self, key: str, error: BaseException) -> None:
        waiting = self._waiting.get(key)
        if waiting and not waiting.answer.done():
            waiting.answer.set_exception(error)


def by_batch(meter: Meter, size: int = BATCH_SIZE, pace: Pace | None = None) -> Connect:
    """A function for `connect` of a `Session` that makes the session use the Batch API.

    Args:
        meter: meter of the run. Its budget limits the batches; its `note` says what the exchange is waiting for.
        size: see `BatchExchange`.
        pace: see `BatchExchange`.
    """

    def connect(config: TeacherConfig, store: VariantStore) -> Exchange:
        def say(text: str) -> None:
            meter.note = text

        price = PriceTable.load(config.prices, config.base_url).of(config.model)
        book = BatchBook(store.root)
        return BatchExchange(config, book, size=size, budget=meter.budget, price=price, pace=pace, say=say)

    return connect
