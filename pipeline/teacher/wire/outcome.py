"""The outcome of an exchange with an endpoint, and the interface of exchanges (live requests, or the Batch API)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import TeacherConfig

OUTAGE = re.compile(r"network|timeout|http_(?:40[123489]|429|5\d\d)")
"""Outcomes of requests that failed because of credit, key, model or network, whatever the request contained."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one exchange with an endpoint, before it becomes an entry of the journal.

    Attributes:
        content: the text of the answer. If `outcome` is not `ok`, it is kept for inspection only.
        outcome: `ok`, or the type of the failure, see `pipeline.teacher.journal.Entry`.
        detail: message of the failure, on one line.
        prompt_tokens: prompt tokens that the endpoint counted; None if it did not.
        completion_tokens: completion tokens that the endpoint counted; None if it did not.
        attempts: how often the request was sent.
        parameter: the parameter of the request that the endpoint named as the cause of a refusal.
        cost_usd: dollars that were counted for it in the budget of the run; None if they were not counted or are
            unknown.
        price_share: fraction of the price in the price table that is charged; 0.5 for a batch.
        receipt: id of the outcome for the exchange that keeps it until the journal has it, see `Exchange.forget`;
            None if the exchange does not keep it.
        reasoning_tokens: how many of the `completion_tokens` were thoughts; None if the endpoint does not tell.
        said: code and type that an error named, and its body. It is not written to the journal.
        to_do: what the user must do, if every further request would fail in the same way; None otherwise.
    """

    content: str | None
    outcome: str
    detail: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1
    parameter: str | None = None
    cost_usd: float | None = None
    price_share: float = 1.0
    receipt: str | None = None
    reasoning_tokens: int | None = None
    said: str = ""
    to_do: str | None = None

    @property
    def answered(self) -> bool:
        """Whether the model returned an answer, even one that cannot be used.

        False after a network error, a timeout or an HTTP error.
        """
        return self.outcome not in ("network", "timeout") and not self.outcome.startswith("http_")

    @property
    def is_outage(self) -> bool:
        """Whether it failed because of credit, key, model or network, and not because of the content of the request."""
        return OUTAGE.fullmatch(self.outcome) is not None


class Exchange(Protocol):
    """Sends requests to an endpoint and returns their outcomes."""

    @property
    def concurrency(self) -> int:
        """Largest number of requests that should wait in `send` at once. Each is in memory with its images."""
        ...

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        """Send one request and return its outcome. A failed request is an outcome too, not an exception.

        Args:
            parameters: the body of a chat completion request.
            key: a hash of these parameters and the sample number, the same in every run. It is not the key of the
                journal, because one request may take several exchanges.
        """
        ...

    def forget(self, receipt: str) -> None:
        """Discard the outcome with this receipt, because it is safely in the journal."""
        ...

    def finish(self) -> int:
        """Send no further request; returns the number of requests in flight.

        `send` does not return for a request that has not been sent.
        """
        ...

    async def close(self) -> None:
        """Release connections and files."""
        ...


Connect = Callable[[TeacherConfig, VariantStore], Exchange]
"""Makes the exchange for an endpoint, from its settings and the store."""


def one_line(message: object) -> str:
    """Shorten a message to one line of at most 300 characters, without invalid Unicode characters.

    A server may send a whole page as its message, and unpaired surrogates, which cannot be written to a file.
    """
    text = str(message).encode("utf-8", "replace").decode()
    return textwrap.shorten(text, 300, placeholder=" ...") or type(message).__name__


def fault(error: ValidationError) -> tuple[str, str]:
    """Type and message (one line) of the first error that pydantic found."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return first["type"], one_line(f"{where}: {first['msg']}" if where else first["msg"])
