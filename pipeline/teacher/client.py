"""The LLM client: any OpenAI-compatible endpoint, behind the journal.

A failed answer is data, not an exception: `Teacher.ask` returns an `Answer` whose failure has a type by
where it arose. How requests reach the endpoint is the matter of an `Exchange`.
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
from diva_grpo.pipeline.teacher.wire.live import LiveExchange, endpoint_name, outage, speaks_openai
from diva_grpo.pipeline.teacher.wire.outcome import OUTAGE, Exchange, Outcome
from diva_grpo.pipeline.teacher.wire.refusal import names_mode, names_role
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.replies import Answer, Reply

T = TypeVar("T", bound=Reply)


GIVE_UP_AFTER = 16
"""Requests in a row without any answer after which an endpoint is given up."""

UNENFORCED_AFTER = 3
"""Structured answers, none of them of the asked shape, after which `auto` takes an output mode for ignored."""

_REFUSED = frozenset({"http_400", "http_404", "http_415", "http_422"})
"""Failures by which endpoints say that they do not know a parameter."""

_PAID = frozenset({"refusal", "length", "no_answer", "parse", "schema"})
"""Failures of answers that were paid for: without `retry_failed` they are not asked for again."""

_LOG = logging.getLogger(__name__)


class Teacher:
    """Asks one endpoint: renders a request, looks into the journal, else makes an exchange and keeps it.

    Use within one event loop.

    Args:
        config: endpoint, model and sampling parameters.
        journal: where every answer is committed before it is used.
        exchange: how requests reach the endpoint, closed with the teacher; by default live.
        meter: of the run, counts what the journal had and what failed.
        prices: of models; by default the table of the configuration.

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
        """Answers in the present output mode that had not the asked shape; None as soon as one had."""
        self._since = now_text() if config.fresh else ""
        self._has_answered, self._unanswered = False, 0
        """Whether there was an answer; and requests that failed since the last one."""
        self._keeping = 0
        """Entries on their way into the journal."""

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
        """One answer, from the journal where it is there, else from the endpoint.

        Args:
            prompt: the prompt's file.
            values: what goes into its user message.
            purpose: named in the ledger.
            problem_id: named in the ledger.
            shape: the model of a structured answer; None for plain text.
            images: what the problem shows; each image stands behind its placeholder, or first.
            sample: number of the answer among independent ones to the same question.

        Raises:
            OutageError: the endpoint refuses every request.
            TeacherError: `GIVE_UP_AFTER` requests in a row were not answered.
            StoreError: an image is missing or damaged, or an answer could not be kept.
        """
        render = partial(self.request, prompt, values, shape=shape, images=images, sample=sample)
        request = await asyncio.to_thread(render) if images else render()
        entry, value = self.kept(request), None
        if entry is None:
            async with self._journal.claim(request.key):
                # Another task or process may have been first.
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

    def request(
        self,
        prompt: Prompt,
        values: dict[str, object],
        *,
        shape: type[Reply] | None = None,
        images: Shown = NOTHING_SHOWN,
        sample: int = 0,
    ) -> Request:
        """The request that `ask` makes of the same arguments; its key finds the answer in the journal."""
        return Request(
            endpoint=self.endpoint,
            model=self.config.model,
            system=prompt.system,
            content=content_parts(prompt.fill(**values), replace(images, max_pixels=self.config.max_pixels)),
            shape=shape,
            output_mode=self.config.output_mode,
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            reasoning_effort=self.config.reasoning_effort,
            more=self.config.request_fields,
            sample=sample,
        )

    def kept(self, request: Request) -> Entry | None:
        """What the journal has in the place of sending a request.

        That is its answer, or without `retry_failed` also one that was paid for and of no use.
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
        """The endpoint's answer, in another dialect where it refuses one; asked once more for the right shape."""
        dialect: Dialect | None = self._dialect
        while dialect:
            asked = _Asked(request, dialect, purpose, problem_id)
            started, outcome = time.monotonic(), await self._send(asked)
            checked, value = _checked(outcome, shape)
            dialect = self._other_dialect(dialect, outcome)
            # What was refused, cut short or has no text is beyond repair.
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
        outcome = await self._exchange.send(
            parameters, request_hash({"key": asked.request.key, **parameters})
        )
        self._keeping += 1  # until it is kept: an interruption waits for it
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
        """As learnt by an earlier run, else by the configuration."""
        mode = self.config.output_mode
        learnt = {} if self.config.fresh else self._journal.learnt(self.endpoint, self.config.model)
        if "dialect" in learnt:
            dialect = Dialect.from_json(learnt["dialect"])
            return dialect if mode == "auto" else replace(dialect, output_mode=mode)
        return Dialect(
            output_mode="json_schema" if mode == "auto" else mode,
            limit="max_completion_tokens" if speaks_openai(self.config) else "max_tokens",
        )

    def _other_dialect(self, dialect: Dialect, outcome: Outcome) -> Dialect | None:
        if not self._is_refusal(outcome):
            return None
        cause = outcome.parameter or outcome.detail or ""
        return dialect.after_refusal(cause, may_change_mode=self.config.output_mode == "auto")

    def _is_refusal(self, outcome: Outcome) -> bool:
        """Whether an endpoint may have refused how it was asked; some do so by a fault of their own."""
        words = outcome.detail or ""
        return outcome.outcome in _REFUSED or (
            outcome.outcome.startswith("http_5") and (names_mode(words) or names_role(words))
        )

    def _learn(self, dialect: Dialect) -> None:
        """An endpoint has answered in a dialect: this and later runs use it from the start."""
        if dialect == self._dialect:
            return
        for name in dialect.omitted - self._dialect.omitted:
            _LOG.warning("%s refuses %s for %s: it is left out", self.endpoint, name, self.config.model)
        self._dialect, self._unshaped = dialect, 0
        self._journal.learn(self.endpoint, self.config.model, "dialect", dialect.to_json())

    def _note_shape(self, dialect: Dialect, *, shaped: bool) -> None:
        """An endpoint that ignores an output mode shows it by answers of another shape from the first on."""
        if self._unshaped is None or dialect.output_mode != self._dialect.output_mode:
            return
        self._unshaped = None if shaped else self._unshaped + 1
        if self._unshaped == UNENFORCED_AFTER and self.config.output_mode == "auto":
            self._learn(self._dialect.simpler() or self._dialect)

    # --- the end of the work

    def finish(self) -> int:
        """Let no further request go; returns how many are in flight."""
        return self._exchange.finish()

    @property
    def is_busy(self) -> bool:
        """Once no further request goes: whether there are requests in flight, or answers that are not kept yet."""
        return self._keeping > 0 or self._exchange.finish() > 0

    def _give_up_in_time(self, entry: Entry) -> None:
        """Else a wrong URL or key would cost hours: each request waits for all of its retries."""
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
    """A request as it goes to the endpoint.

    Attributes:
        unshaped: the answer before, of the wrong shape, where this asks for it once more.
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
    """The outcome, with another type in the place of `ok` where the text has not the asked shape; and what it says.

    What was mended in the text is the outcome's detail.
    """
    if shape is None or outcome.outcome != "ok":
        return outcome, None
    try:
        value, mended = read_mended(outcome.content or "", shape)
    except ShapeError as error:
        return replace(outcome, outcome=error.kind, detail=str(error)), None
    return replace(outcome, detail=mended or outcome.detail), value
