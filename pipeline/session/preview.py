"""Work on a few problems for real, on a copy of the store, and show what was sent and answered (`--preview`).

Requests are sent and paid for. The answers are kept in the journal of the store, so that the run that follows does not
send these requests again. Nothing else is kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from diva_grpo.pipeline.session.session import Endpoint, Session
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.journal import Entry, Journal
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.request import Request, WireMode
from diva_grpo.pipeline.teacher.wire.outcome import Exchange
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.replies import COST_NOTHING


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a preview, with its replies.

    Attributes:
        purpose: purpose of the request, as in the ledger.
        problem_id: id of the problem.
        model: name of the model.
        messages: the messages, in the form in which the endpoint gets them.
        replies: the exchanges of the preview for this request, in order; if `reused`, the kept answer. Empty if the run
            ended before there was a reply.
        reused: whether the journal had the answer.
    """

    purpose: str
    problem_id: str
    model: str
    messages: list[dict[str, Any]]
    replies: list[Entry]
    reused: bool


@dataclass(frozen=True, slots=True)
class Spent:
    """Requests, tokens and dollars of some exchanges.

    Attributes:
        requests: number of exchanges that were answered.
        prompt_tokens: prompt tokens; None if the endpoint did not count those of each exchange.
        completion_tokens: completion tokens; None likewise.
        usd: dollars; None if the cost of an exchange is unknown.
    """

    requests: int
    prompt_tokens: int | None
    completion_tokens: int | None
    usd: float | None

    @classmethod
    def of(cls, asked: Sequence[Asked]) -> Spent:
        """The sum over all answered exchanges of some requests. Those that cost nothing are left out."""
        paid = [reply for one in asked for reply in one.replies if not re.match(COST_NOTHING, reply.outcome)]
        return cls(
            len(paid),
            _sum([reply.prompt_tokens for reply in paid]),
            _sum([reply.completion_tokens for reply in paid]),
            _sum([reply.cost_usd for reply in paid]),
        )

    def times(self, factor: float, share: float = 1.0) -> Spent:
        """These numbers for `factor` times as many problems, at a share of the price."""
        return Spent(
            round(self.requests * factor),
            None if self.prompt_tokens is None else round(self.prompt_tokens * factor),
            None if self.completion_tokens is None else round(self.completion_tokens * factor),
            None if self.usd is None else self.usd * factor * share,
        )


N = TypeVar("N", int, float)


def _sum(numbers: Sequence[N | None]) -> N | None:
    known = [number for number in numbers if number is not None]
    return sum(known, start=type(known[0])()) if len(known) == len(numbers) and known else None


class Preview(Session):
    """A session that remembers what it asks. It works on a copy of a store, with the journal of the store.

    Args:
        copy: a copy of the store without the journal, see `copied`.
        store: the store; only its journal is written.
        teacher: see `Session`.
        solver: see `Session`.
        meter: see `Session`.
    """

    def __init__(
        self,
        copy: VariantStore,
        store: VariantStore,
        teacher: TeacherConfig | None,
        solver: TeacherConfig | None,
        meter: Meter,
    ) -> None:
        super().__init__(copy, teacher, solver=solver, meter=meter)
        self._origin = store
        self._before = 0
        self._heard: list[_Heard] = []

    def _open_journal(self) -> Journal:
        journal = Journal.of_store(self._origin)
        self._before = journal.last_id()
        return journal

    def _client(self, endpoint: Endpoint, exchange: Exchange, journal: Journal) -> Teacher:
        client = _Listening(endpoint.config, journal, exchange, self.meter, endpoint.prices)
        client.heard = self._heard
        return client

    def _to_ledger(self, every_s: float = 0.0) -> None:
        """Leave the ledger as it is: the next run brings it up to date with the journal."""

    def asked(self) -> list[Asked]:
        """The requests so far, in the order in which they were made, with their replies."""
        if not self._heard:
            return []
        with Journal.of_store(self._origin) as journal:
            return [self._with_replies(heard, journal) for heard in self._heard]

    def _with_replies(self, heard: _Heard, journal: Journal) -> Asked:
        request = heard.request
        replies = journal.exchanges(request.key, self._before)
        kept = None if replies else journal.settled(request.key)
        shown = replies or ([kept] if kept else [])
        messages = heard.client.messages(request, shown[-1].output_mode if shown else None)
        return Asked(heard.purpose, heard.problem_id, request.model, messages, shown, reused=kept is not None)


@dataclass(frozen=True, slots=True)
class _Heard:
    request: Request
    purpose: str
    problem_id: str
    client: _Listening


class _Listening(Teacher):
    """A client that notes its requests in `heard`."""

    heard: list[_Heard]

    def _note_request(self, request: Request, purpose: str, problem_id: str) -> None:
        self.heard.append(_Heard(request, purpose, problem_id, self))

    def messages(self, request: Request, output_mode: str | None) -> list[dict[str, Any]]:
        """The messages of a request in the present dialect of the endpoint, with the output mode of a reply to it."""
        dialect = self._dialect
        if request.shape and output_mode:
            dialect = replace(dialect, output_mode=cast("WireMode", output_mode))
        messages: list[dict[str, Any]] = request.parameters(dialect)["messages"]
        return messages


def by_purpose(asked: Sequence[Asked]) -> dict[str, Spent]:
    """What the requests of each purpose took, in the order in which the purposes first occur."""
    groups: defaultdict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        groups[one.purpose].append(one)
    return {purpose: Spent.of(of_purpose) for purpose, of_purpose in groups.items()}
