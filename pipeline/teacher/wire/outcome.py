"""What comes of one exchange with an endpoint, and who makes it: live requests, or the Batch API."""

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
"""Outcomes of requests that failed whatever they asked."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one exchange with the endpoint, before it becomes an entry of the journal.

    Attributes:
        content: the answer's text; evidence only, where `outcome` is not `ok`.
        outcome: `ok`, or the type of the failure, as `pipeline.teacher.journal.Entry` names them.
        detail: what the failure said, on one line.
        prompt_tokens: as the endpoint counted them; None where it did not.
        completion_tokens: likewise.
        attempts: how often the request was sent.
        parameter: the parameter of the request that the endpoint named as the cause of a refusal.
        cost_usd: dollars that the run's budget has counted for it; None where no budget has.
        price_share: share of the price table's price that is due: a half for a batch.
        receipt: names the outcome to the exchange that keeps it until the journal has it, see `Exchange.forget`.
        reasoning_tokens: those of `completion_tokens` that were thoughts, where the endpoint tells.
        said: code and type that an error named, and its body; not kept.
        to_do: what to do where every further request would fail likewise; None where it may pass.
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
        """Whether a model has answered, well or not."""
        return self.outcome not in ("network", "timeout") and not self.outcome.startswith("http_")

    @property
    def is_outage(self) -> bool:
        """Whether it failed for want of credit, key, model or network, and not for what the request holds."""
        return OUTAGE.fullmatch(self.outcome) is not None


class Exchange(Protocol):
    """Takes requests to an endpoint and brings back what came of them."""

    @property
    def concurrency(self) -> int:
        """How many requests may be rendered and waited for at once; each is in memory with its images."""
        ...

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        """Make one exchange. A failure is an outcome too, not an exception.

        Args:
            parameters: the body of a chat completion request.
            key: a hash that names just these parameters (and the sample), the same one on every run. It is not
                the journal's key: one request may take several exchanges.
        """
        ...

    def forget(self, receipt: str) -> None:
        """The journal has the outcome with that receipt durably."""
        ...

    def finish(self) -> int:
        """From now on let no request go (`send` waits for ever); returns how many are in flight still."""
        ...

    async def close(self) -> None:
        """Release connections and files."""
        ...


Connect = Callable[[TeacherConfig, VariantStore], Exchange]
"""Makes the exchange of a teacher."""


def one_line(message: object) -> str:
    """A message on one line; a server may send a whole page, and halves of surrogate pairs, which no file takes."""
    text = str(message).encode("utf-8", "replace").decode()
    return textwrap.shorten(text, 300, placeholder=" ...") or type(message).__name__


def fault(error: ValidationError) -> tuple[str, str]:
    """Type and message of the first fault that pydantic found."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return first["type"], one_line(f"{where}: {first['msg']}" if where else first["msg"])
