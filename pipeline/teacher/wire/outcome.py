"""What comes of one exchange with an endpoint, and who makes it: live requests, or the Batch API."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError, field_validator

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import TeacherConfig


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
        price_share: share of the price table's price that is due: a half for a batch.
        receipt: names the outcome to the exchange that keeps it until the journal has it, see `Exchange.forget`.
    """

    content: str | None
    outcome: str
    detail: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1
    parameter: str | None = None
    price_share: float = 1.0
    receipt: str | None = None

    @property
    def answered(self) -> bool:
        """Whether a model has answered, well or not."""
        return self.outcome not in ("network", "timeout") and not self.outcome.startswith("http_")


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


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


_MOST_TOKENS = 10**9
"""A count beyond it, or below nothing, is none."""


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @field_validator("prompt_tokens", "completion_tokens")
    @classmethod
    def _plausible(cls, count: int | None) -> int | None:
        return count if count is not None and 0 <= count <= _MOST_TOKENS else None


class _Completion(BaseModel):
    """What is read of a chat completion; the `openai` package does not check a body's shape."""

    choices: list[_Choice]
    usage: _Usage | None = None


def read_completion(body: bytes, *, attempts: int = 1, price_share: float = 1.0) -> Outcome:
    """The outcome that the body of a response with status 200 tells.

    Args:
        body: as received; anything may be in it.
        attempts: see `Outcome`.
        price_share: see `Outcome`.
    """
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        evidence = body[:10_000].decode("utf-8", "replace")
        return Outcome(evidence, "parse", f"no chat completion: {fault(error)[1]}", attempts=attempts)
    content, outcome, detail = None, "ok", None
    if not completion.choices:
        outcome, detail = "parse", "the answer has no choices"
    else:
        choice = completion.choices[0]
        content = choice.message.content
        if choice.message.refusal or choice.finish_reason == "content_filter":
            outcome, detail = "refusal", one_line(choice.message.refusal or "content filter")
        elif choice.finish_reason == "length":
            outcome, detail = "length", "cut at the longest answer allowed: raise --max-tokens"
        elif content is None:
            outcome, detail = "parse", "the answer has no content"
    usage = completion.usage or _Usage()
    return Outcome(
        content,
        outcome,
        detail,
        usage.prompt_tokens,
        usage.completion_tokens,
        attempts,
        price_share=price_share,
    )


def one_line(message: object) -> str:
    """A message on one line; a server may send a whole page, and halves of surrogate pairs, which no file takes."""
    text = str(message).encode("utf-8", "replace").decode()
    return textwrap.shorten(text, 300, placeholder=" ...") or type(message).__name__


def fault(error: ValidationError) -> tuple[str, str]:
    """Type and message of the first fault that pydantic found."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return first["type"], one_line(f"{where}: {first['msg']}" if where else first["msg"])
