"""The LLM client for any OpenAI-compatible endpoint. It looks into the journal before it sends a request.

A failed request is data, not an exception: `Teacher.ask` returns an `Answer` whose `failure` begins with the type of
the failure. An `Exchange` sends the requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from diva_grpo.pipeline.images.encoding import content_parts
from diva_grpo.pipeline.images.shown import NOTHING_SHOWN, Shown
from diva_grpo.pipeline.teacher.journal import Entry, Journal, now_text, request_hash
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import PriceTable
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.teacher.request import Dialect, Request
from diva_grpo.pipeline.teacher.structured import ShapeError, read_mended, read_reply
from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_name
from diva_grpo.pipeline.teacher.wire.live import LiveExchange, outage
from diva_grpo.pipeline.teacher.wire.outcome import OUTAGE, Exchange, Outcome
from diva_grpo.pipeline.teacher.wire.refusal import FORM_REFUSED, names_mode, names_role
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.replies import Answer, Reply

T = TypeVar("T", bound=Reply)


GIVE_UP_AFTER = 16
"""Number of consecutive requests without an answer after which `Teacher.ask` raises TeacherError."""

UNENFORCED_AFTER = 3
"""Number of structured answers after which the output mode `auto` uses a simpler mode, if none had the asked shape."""

_PAID = frozenset({"refusal", "length", "no_answer", "parse", "schema"})
"""Failures of requests that were paid for. Without `retry_failed` they are not sent again."""

_LOG = logging.getLogger(__name__)


class Teacher:
    """Client of one endpoint. It renders a request, and sends it if the journal has no answer to it.

    All calls must be made in one event loop.

    Args:
        config: endpoint, model and sampling parameters.
        journal: every answer is committed to it before it is used.
        exchange: sends the requests; closed with the teacher. By default a `LiveExchange`.
        meter: the meter of the run. It counts reused answers and failures.
        prices: prices of the models; by default the price table of the configuration.

    Raises:
        ConfigError: no API key for an endpoint that needs one, no URL, or an unreadable price table.
    """

    def __init__(
        self,
        config: TeacherConfig,
        journal: Journal,
        exchange: Exchange | None = None,
        meter: Meter | None = None,
        prices: PriceTable | None = None,
    ) -> None:
        self.config = config
        self._journal = journal
        self.endpoint = endpoint_name(config)
        self._exchange = exchange or LiveExchange(config)
        self._meter = meter or Meter("requests")
        self._prices = prices or PriceTable.load(config.prices, config.base_url)
        self._dialect = self._first_dialect()
        self._unshaped: int | None = 0
        """Number of answers in the present output mode without the asked shape; None as soon as one has the shape."""
        self._since = now_text() if config.fresh else ""
        self._has_answered, self._unanswered = False, 0
        """Whether the endpoint has ever answered, and the number of requests that failed since its last answer."""
        self._keeping = 0
        """Number of outcomes that have arrived but are not in the journal yet."""

    async def close(self) -> None:
        """Release connections and files."""
        await self._exchange.close()

    async def ask(
        self,
        prompt: Prompt,
        values: dict[str, object],
        *,
        purpose: str,
        problem_id: str,
        shape: type[T] | None = None,
        images: Shown = NOTHING_SHOWN,
        sample: int = 0,
    ) -> Answer[T]:
        """Return one answer: from the journal if it is there, else from the endpoint.

        Args:
            prompt: the prompt.
            values: values for the placeholders of its user message.
            purpose: recorded in the ledger.
            problem_id: recorded in the ledger.
            shape: pydantic model of a structured answer; None for plain text.
            images: images of the problem. An image is inserted after its placeholder in the text, or before the text
                if it has none.
            sample: number of the sample. Requests that differ only in it get independent answers.

        Returns:
            The answer. If the request failed, its `failure` is set and its `value` is None.

        Raises:
            BudgetError: the budget of the run does not allow the request.
            OutageError: the endpoint refuses every request.
            TeacherError: `GIVE_UP_AFTER` requests in a row were not answered.
            StoreError: an image is missing or damaged, or an answer could not be kept.
        """
        render = partial(self.request, prompt, values, shape=shape, images=images, sample=sample)
        request = await asyncio.to_thread(render) if images else render()
        self._note_request(request, purpose, problem_id)
        entry, value = self.kept(request), None
        if entry is None:
            async with self._journal.claim(request.key):
                # Another task or process may have got the answer in the meantime.
                entry = self.kept(request)
                if entry is None:
                    entry, value = await self._obtained(request, shape, purpose, problem_id)
                    self._give_up_in_time(entry)
                else:
                    self._meter.reused += 1
        else:
            self._meter.reused += 1
        text = entry.content or ""
        if entry.outcome != "ok":
            return Answer(None, text, f"{entry.outcome}: {entry.detail or 'no detail'}")
        return Answer(value or read_reply(text, shape) if shape else None, text, None)

    def _note_request(self, request: Request, purpose: str, problem_id: str) -> None:
        """Called with each request before it is looked up in the journal; `Preview` notes them."""

    def request(
        self,
        prompt: Prompt,
        values: dict[str, object],
        *,
        shape: type[Reply] | None = None,
        images: Shown = NOTHING_SHOWN,
        sample: int = 0,
    ) -> Request:
        """The request that `ask` would send for the same arguments. Its `key` is the key of the journal."""
        content = content_parts(prompt.fill(**values), replace(images, max_pixels=self.config.max_pixels))
        return Request.of(self.config, prompt.system, content, shape, sample)

    def kept(self, request: Request) -> Entry | None:
        """The journal's entry for a request; None if the request must be sent.

        An entry of a failure counts only if the request was paid for and `retry_failed` is off.
        """
        entry = self._journal.settled(request.key, self._since)
        if (
            entry is None
            or entry.outcome == "ok"
            or (entry.outcome in _PAID and not self.config.retry_failed)
        ):
            return entry
        return None

    async def _obtained(
        self, request: Request, shape: type[T] | None, purpose: str, problem_id: str
    ) -> tuple[Entry, T | None]:
        """Send a request and keep every outcome; returns the last entry, and the structured answer if there is one.

        If the endpoint refuses the form of the request, it is sent again in another dialect. If the answer does not
        have the asked shape, the endpoint is asked once to correct it.
        """
        dialect: Dialect | None = self._dialect
        while dialect:
            asked = _Asked(request, dialect, purpose, problem_id)
            started, outcome = time.monotonic(), await self._send(asked)
            checked, value = _checked(outcome, shape)
            dialect = self._other_dialect(dialect, outcome)
            # An answer that was refused, was truncated or has no text is not sent back for correction.
            mendable = outcome.outcome == "ok" and checked.outcome in ("parse", "schema")
            entry = await self._keep(asked, checked, started, settled=not dialect and not mendable)
            if outcome.to_do and not dialect:
                self._meter.outages[outcome.outcome] += 1
                raise outage(self.endpoint, outcome, outcome.to_do)
        if outcome.is_outage and not self._is_refusal(outcome):
            self._meter.outages[outcome.outcome] += 1
        if outcome.answered:
            self._learn(asked.dialect)
        if shape and outcome.outcome == "ok":
            self._note_shape(asked.dialect, shaped=not mendable)
        if mendable:
            asked = replace(asked, unshaped=checked)
            started, outcome = time.monotonic(), await self._send(asked)
            checked, value = _checked(outcome, shape)
            entry = await self._keep(asked, checked, started, settled=True)
        return entry, value

    async def _send(self, asked: _Asked) -> Outcome:
        parameters = asked.parameters()
        # With `fresh` in it, so that such a run does not get what a batch of an earlier, crashed run has brought.
        fresh = {"fresh": True} if self.config.fresh else {}
        outcome = await self._exchange.send(
            parameters, request_hash({"key": asked.request.key, **fresh, **parameters})
        )
        self._keeping += 1  # until the journal has it, because an interrupted run waits for that
        return outcome

    async def _keep(self, asked: _Asked, outcome: Outcome, started: float, *, settled: bool) -> Entry:
        request = asked.request
        entry = Entry(
            request_hash=request.key,
            purpose=asked.purpose,
            endpoint=self.endpoint,
            model=request.model,
            problem_id=asked.problem_id,
            content=outcome.content,
            outcome=outcome.outcome,
            detail=outcome.detail,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            cost_usd=self._prices.cost(request.model, outcome)
            if outcome.cost_usd is None
            else outcome.cost_usd,
            latency_s=time.monotonic() - started,
            attempts=outcome.attempts,
            output_mode=asked.dialect.output_mode if request.shape else "text",
            created_at=now_text(),
            settled=settled,
            fresh=self.config.fresh,
            reasoning_tokens=outcome.reasoning_tokens,
        )
        try:
            await self._journal.keep(entry)
            if outcome.receipt is not None:
                self._exchange.forget(outcome.receipt)
        finally:
            self._keeping -= 1
        return entry

    # --- the endpoint's dialect

    def _first_dialect(self) -> Dialect:
        """The dialect that an earlier run has learnt, else the one that the configuration implies."""
        mode = self.config.output_mode
        learnt = {} if self.config.fresh else self._journal.learnt(self.endpoint, self.config.model)
        if "dialect" in learnt:
            dialect = Dialect.from_json(learnt["dialect"])
            return dialect if mode == "auto" else replace(dialect, output_mode=mode)
        return Dialect.first(self.config, "json_schema" if mode == "auto" else mode)

    def _other_dialect(self, dialect: Dialect, outcome: Outcome) -> Dialect | None:
        if not self._is_refusal(outcome):
            return None
        may_change_mode = self.config.output_mode == "auto"
        causes = filter(None, (outcome.parameter, outcome.detail))
        found = (dialect.after_refusal(cause, may_change_mode=may_change_mode) for cause in causes)
        return next(filter(None, found), None)

    def _is_refusal(self, outcome: Outcome) -> bool:
        """Whether an endpoint may have refused the form of the request. Some answer with a status of 500 or more."""
        words = outcome.detail or ""
        return outcome.outcome in FORM_REFUSED or (
            outcome.outcome.startswith("http_5") and (names_mode(words) or names_role(words))
        )

    def _learn(self, dialect: Dialect) -> None:
        """Use this dialect for all further requests, in this run and in later ones. Log newly omitted parameters."""
        if dialect == self._dialect:
            return
        for name in dialect.omitted - self._dialect.omitted:
            _LOG.warning("%s refuses %s for %s: it is left out", self.endpoint, name, self.config.model)
        self._dialect, self._unshaped = dialect, 0
        self._journal.learn(self.endpoint, self.config.model, "dialect", dialect.to_json())

    def _note_shape(self, dialect: Dialect, *, shaped: bool) -> None:
        """Count answers without the asked shape, and change to a simpler output mode if the endpoint ignores this one.

        An endpoint is taken to ignore the mode if its first `UNENFORCED_AFTER` answers do not have the asked shape.
        """
        if self._unshaped is None or dialect.output_mode != self._dialect.output_mode:
            return
        self._unshaped = None if shaped else self._unshaped + 1
        if self._unshaped == UNENFORCED_AFTER and self.config.output_mode == "auto":
            self._learn(self._dialect.simpler() or self._dialect)

    # --- the end of the work

    def finish(self) -> int:
        """Send no further request; returns the number of requests in flight."""
        return self._exchange.finish()

    @property
    def is_busy(self) -> bool:
        """Whether requests are in flight, or answers are not in the journal yet. Only to be used after `finish`."""
        return self._keeping > 0 or self._exchange.finish() > 0

    def _give_up_in_time(self, entry: Entry) -> None:
        """Raise TeacherError after `GIVE_UP_AFTER` requests in a row without an answer.

        Otherwise a run with a wrong URL or key would take hours, because each request uses up all its retries.
        """
        unanswered = entry.outcome in ("network", "timeout") or entry.outcome.startswith("http_")
        if not unanswered or (self._has_answered and not OUTAGE.fullmatch(entry.outcome)):
            self._has_answered, self._unanswered = True, 0
            return
        self._unanswered += 1
        if self._unanswered >= GIVE_UP_AFTER:
            said = f"({entry.outcome}: {entry.detail})"
            raise TeacherError(
                f"{self.endpoint} answered none of the last {self._unanswered} requests {said}: run the same command "
                "again when it answers"
                if self._has_answered
                else f"{self.endpoint} answered none of {self._unanswered} requests {said}: check the URL, the key "
                "and the model's name"
            )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request in the form in which it is sent.

    `unshaped` is an answer without the asked shape, if the endpoint is asked to correct it.
    """

    request: Request
    dialect: Dialect
    purpose: str
    problem_id: str
    unshaped: Outcome | None = None

    def parameters(self) -> dict[str, Any]:
        if self.unshaped is None:
            return self.request.parameters(self.dialect)
        return self.request.repair(self.dialect, self.unshaped.content or "", self.unshaped.detail or "")


def _checked(outcome: Outcome, shape: type[T] | None) -> tuple[Outcome, T | None]:
    """Read the structured answer of an outcome.

    Returns:
        The outcome, and the structured answer. If the text does not have the asked shape, the outcome is a failure and
        the answer is None. If the text was corrected while reading, the outcome's `detail` says how.
    """
    if shape is None or outcome.outcome != "ok":
        return outcome, None
    try:
        value, mended = read_mended(outcome.content or "", shape)
    except ShapeError as error:
        return replace(outcome, outcome=error.kind, detail=str(error)), None
    return replace(outcome, detail=mended or outcome.detail), value
