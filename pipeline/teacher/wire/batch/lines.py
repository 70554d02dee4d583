"""Write and read the lines of the Batch API's files: requests, with their largest possible cost, and outcomes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from diva_grpo.pipeline.teacher.prices import BATCH_SHARE, Budget, Price
from diva_grpo.pipeline.teacher.tokens import TokenCounter
from diva_grpo.pipeline.teacher.wire.completion import read_completion
from diva_grpo.pipeline.teacher.wire.outcome import Outcome, one_line

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
"""Path at the endpoint to which the requests of a batch go."""

_PASSING = frozenset({408, 409, 429, *range(500, 600)})

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Line:
    """A request to submit.

    Attributes:
        key: its key, see `Exchange.send`.
        text: its line in the file, without the line break.
        most: largest possible cost in dollars; 0 if the budget has no limit.
    """

    key: str
    text: str
    most: float = 0.0


@dataclass(slots=True)
class Allowance:
    """The budget of a run, of which each batch reserves its largest possible cost.

    Attributes:
        budget: budget of the run.
        price: price of the model; None if unknown.
        counter: counts the prompt tokens.
        bound: reserved cost in dollars of each unfinished batch, by name.
    """

    budget: Budget
    price: Price | None
    counter: TokenCounter
    bound: dict[str, float] = field(default_factory=dict)

    def most(self, parameters: dict[str, Any]) -> float:
        """Largest possible cost of a request in dollars; 0 if the budget has no limit or the price is unknown."""
        if self.budget.limit is None or self.price is None:
            return 0.0
        return self.counter.most(parameters, self.price, BATCH_SHARE)

    @property
    def left(self) -> float:
        """Dollars that are neither spent nor reserved; infinite without a limit."""
        return self.budget.left - sum(self.bound.values())


def request_line(key: str, parameters: Mapping[str, Any]) -> str:
    """A request as a line of an input file, without the line break."""
    return json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": parameters})


def read_line(text: bytes) -> tuple[str, Outcome, bool] | None:
    """Read a line of an output or error file.

    Returns:
        Key of the request, its outcome, and whether the failure may be temporary, so that the request should be sent
        again. None for an empty line and for a line that cannot be read.
    """
    if not text.strip():
        return None
    try:
        line = json.loads(text)
        return str(line["custom_id"]), *_outcome(line)
    except (ValueError, TypeError, KeyError, AttributeError):
        _LOG.warning(
            "a line of a batch's file is not an answer: %s", one_line(text[:1_000].decode("utf-8", "replace"))
        )
        return None


def _outcome(line: Mapping[str, Any]) -> tuple[Outcome, bool]:
    response, error = line.get("response") or {}, line.get("error") or {}
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        return read_completion(json.dumps(body).encode(), price_share=BATCH_SHARE), False
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        error = body["error"]
    said = one_line(error.get("message") or error.get("code") or "no reason given")
    if status is None:  # batch_expired, batch_cancelled
        return Outcome(None, "timeout", said), True
    failure = "refusal" if error.get("code") == "content_filter" else f"http_{status}"
    parameter = error.get("param")
    named = parameter if isinstance(parameter, str) else None
    return Outcome(None, failure, said, parameter=named), status in _PASSING
