"""Live requests to an OpenAI-compatible endpoint, through the `openai` package: routes, limits and retries.

The package makes the requests and handles the differences between servers (URLs of Azure, headers, errors). Retries are
implemented here, because a 429 must delay all requests and must not use up the retries of one request.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2
import openai

from diva_grpo.pipeline.teacher.wire.completion import read_completion
from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_name, routes_of
from diva_grpo.pipeline.teacher.wire.http import http_client
from diva_grpo.pipeline.teacher.wire.keys import key_for
from diva_grpo.pipeline.teacher.wire.limits import Limits
from diva_grpo.pipeline.teacher.wire.outcome import Outcome, one_line
from diva_grpo.pipeline.teacher.wire.refusal import (
    cannot_pass,
    moderated,
    names_mode,
    names_role,
    said_wait_s,
    too_long,
)
from diva_grpo.schemas.config import Route, TeacherConfig
from diva_grpo.schemas.exceptions import OutageError

_RETRIED_STATUS = frozenset({408, 409, *range(500, 600)})
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 8.0
_MEMORY_HOLDS_S = 600.0
_SAID_AFTER_S = 5.0
"""`LiveExchange.note` mentions a wait only if it is longer than this."""
_UNREACHED_AFTER = 3
"""A URL to which no connection was ever made is given up when it was tried so often for one request."""
_IMAGE_TOKENS = 1_000
"""Estimated tokens of an image. The estimate is corrected when the endpoint's count is known."""


_SHORTEST_SECRET = 12
"""Smallest length of a key that is removed from answers. A shorter one may be a word such as "none"."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The outcome of a request that was sent once.

    Attributes:
        outcome: the outcome.
        retry_after_s: seconds that the endpoint asks to wait; None for none.
        connected: whether there was a connection to the endpoint; None if unknown.
    """

    outcome: Outcome
    retry_after_s: float | None = None
    connected: bool | None = True

    @property
    def wait_s(self) -> float | None:
        """Seconds to wait after a 429: by the header, else by the text of the error; None if neither says it."""
        if self.retry_after_s is not None or self.outcome.outcome != "http_429":
            return self.retry_after_s
        return said_wait_s(f"{self.outcome.detail} {self.outcome.said}")


class _Line:
    """A route (one URL and key) with its own limits and connections.

    Args:
        config: the endpoint.
        route: the URL and key.
        share: fraction of the endpoint's limits that is for this route.
    """

    def __init__(self, config: TeacherConfig, route: Route, share: float) -> None:
        self.weight, self.sent = route.weight, 0
        self.is_over = False
        """Whether the route refuses every request."""
        self.was_reached = False
        """Whether there has been a connection to the endpoint."""
        self._key = key_for(route.key_env, route.base_url)
        self._timeout_s = config.timeout_s
        requests, tokens = (
            rate and rate * share for rate in (config.requests_per_minute, config.tokens_per_minute)
        )
        most = max(1, round(config.concurrency * share))
        self.limits = Limits(most, requests, tokens)
        self._client = _client(config, route, self._key)
        # Relative where the package makes the path of the deployment from it; else absolute, which is parsed faster.
        self._path = "/chat/completions" if config.api_version else f"{self._client.base_url}chat/completions"

    async def attempt(self, parameters: dict[str, Any]) -> _Attempt:
        """Send a request once."""
        attempt = await self._attempt(parameters)
        self.was_reached |= attempt.connected is True
        return attempt

    async def _attempt(self, parameters: dict[str, Any]) -> _Attempt:
        try:
            # The timeout of the client is for each read; this one is for the whole request.
            async with asyncio.timeout(self._timeout_s):
                # Not `chat.completions.create`: it validates all parameters and the answer, which doubles the time.
                response = await self._client.post(self._path, cast_to=httpx2.Response, body=parameters)
        except (TimeoutError, openai.APITimeoutError):
            outcome = Outcome(None, "timeout", f"no answer within {self._timeout_s:g} s")
            return _Attempt(outcome, connected=None)
        except openai.APIConnectionError as error:
            outcome = Outcome(None, "network", self._clean(error.__cause__ or error))
            return _Attempt(outcome, connected=not isinstance(error.__cause__, httpx2.ConnectError))
        except openai.APIStatusError as error:
            body = f"{error.code or ''} {error.type or ''} {error.response.text[:2_000]}"
            # Azure's content filter refuses a prompt with an HTTP status.
            failure = f"http_{error.status_code}"
            if moderated(error.status_code, body):
                failure = "refusal"
            elif error.code == "json_validate_failed":  # Groq's word for an answer that is no JSON
                failure = "parse"
            # The message of the client omits everything outside an `error` object, such as a list of validation errors.
            said = isinstance(error.body, dict) and isinstance(error.body.get("message"), str)
            message = error.message if said else f"{error.message}: {error.response.text}"
            parameter = error.param if isinstance(error.param, str) else None  # the package does not check it
            detail = self._clean(message)
            if error.status_code != 429 and (long := too_long(body)):
                detail = one_line(f"{long}: {detail}")
            outcome = Outcome(None, failure, detail, parameter=parameter, said=body)
            return _Attempt(outcome, _retry_after_s(error.response.headers))
        outcome = read_completion(response.content)
        content, said_of_it = outcome.content, outcome.detail
        clean = replace(
            outcome,
            content=content and self._without_key(content),
            detail=said_of_it and self._clean(said_of_it),
        )
        return _Attempt(clean)

    def _clean(self, message: object) -> str:
        return one_line(self._without_key(str(message)) or type(message).__name__)

    def _without_key(self, text: str) -> str:
        """The text with the API key replaced by `[key]`, because some servers send the key back.

        Short keys and keys without a digit are not replaced. The "none" or "EMPTY" for a local server is not a secret,
        and may occur in any answer.
        """
        is_secret = len(self._key) >= _SHORTEST_SECRET and any(sign.isdigit() for sign in self._key)
        return text.replace(self._key, "[key]") if is_secret else text

    async def close(self) -> None:
        await self._client.close()


def _client(config: TeacherConfig, route: Route, key: str) -> openai.AsyncOpenAI:
    options: dict[str, Any] = {
        "api_key": key or "none",  # the client needs a key, even for a local server that ignores it
        "max_retries": 0,
        "timeout": config.timeout_s,
        "http_client": http_client(route.base_url),
    }
    if config.api_version is None:
        return openai.AsyncOpenAI(base_url=route.base_url, **options)
    return openai.AsyncAzureOpenAI(azure_endpoint=route.base_url, api_version=config.api_version, **options)


class LiveExchange:
    """Sends each request by HTTP, and sends it again after a failure that may be temporary.

    | failure | sent again |
    | --- | --- |
    | 429 | until it is accepted, or there have been only 429s for `patience_s` |
    | network, timeout, 408, 409, 5xx | up to `max_retries` times, after growing delays or `Retry-After` |
    | a 5xx that refuses the output mode or the system message, or says that the prompt is too long | never |
    | parse: a body that is not a chat completion | once |
    | any other status, refusal, length | never |

    If every further request would fail in the same way (no credit, wrong key, unknown model, used-up quota, a URL where
    nothing listens), the route is not used again. After the last route nothing is sent any more.

    Args:
        config: the endpoint.
        memory: file that stores the limits that were found, so that the next exchange starts with them. None stores
            nothing.

    Raises:
        ConfigError: no API key for an endpoint that needs one, no URL, or a URL to which the key may not be sent.
    """

    def __init__(self, config: TeacherConfig, memory: Path | None = None) -> None:
        self._config, self._memory = config, memory
        self._name = endpoint_name(config)
        routes = routes_of(config)
        total = sum(route.weight for route in routes)
        self._lines = [_Line(config, route, route.weight / total) for route in routes]
        self._resume()
        self._turn, self._changed = asyncio.Lock(), asyncio.Event()
        self._in_flight, self._finishing = 0, False
        self._accepted_at = time.monotonic()
        self._over: OutageError | None = None
        self._failing: tuple[float, str] | None = None
        """Time (seconds since 1970) since which all requests have failed, and the last failure; None if none has."""
        self._completion_tokens = float(config.max_tokens)
        """Completion tokens of a usual answer, as a running mean."""

    @property
    def concurrency(self) -> int:
        """The configured concurrency."""
        return self._config.concurrency

    def note(self) -> str:
        """A text that says what the exchange is waiting for, since when and until when.

        Empty if it waits for nothing, or has waited for less than `_SAID_AFTER_S`.
        """
        now = time.time()
        wait = min((line.limits.paused_s() for line in self._lines if not line.is_over), default=0.0)
        if self._failing is None:
            return ""
        since, said = self._failing
        if max(now - since, wait) < _SAID_AFTER_S:
            return ""
        retry = f", next try {_clock(now + wait)}" if wait > 0 else ""
        gives_up = self._accepted_at + self._config.patience_s - time.monotonic() + now
        until = f", gives up {_clock(gives_up)}" if said.startswith("http_429") else ""
        return f"waits since {_clock(since)} ({said[:80]}){retry}{until}"

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        """Send a request until it is answered or its retries are used up, and return the last outcome.

        Raises:
            OutageError: the request was not sent (again), because the endpoint refuses every request.
        """
        retries = _Retries(self._config)
        line: _Line | None = None
        while True:
            tokens = _prompt_tokens(parameters) + self._completion_tokens
            line, sent_at = await self._admitted(tokens, line)
            over = 0.0
            self._in_flight += 1
            try:
                attempt = await line.attempt(parameters)
                outcome = attempt.outcome
                if outcome.prompt_tokens is not None and outcome.completion_tokens is not None:
                    self._completion_tokens += 0.1 * (outcome.completion_tokens - self._completion_tokens)
                    over = outcome.prompt_tokens + outcome.completion_tokens - tokens
            finally:
                self._in_flight -= 1
                line.limits.leave(over)
                self._changed.set()
            if outcome.outcome == "http_429":
                line.limits.limited(sent_at, attempt.wait_s)
            elif outcome.outcome not in ("network", "timeout"):
                line.limits.accepted(sent_at)
                self._accepted_at = time.monotonic()
            if not outcome.is_outage:
                self._failing = None
            else:
                since = self._failing[0] if self._failing else time.time()
                self._failing = since, f"{outcome.outcome}: {outcome.detail}"
            delay = retries.delay_s(attempt, self._accepted_at)
            if to_do := self._to_do(line, attempt, retries.sent):
                line.is_over = True
                if not all(other.is_over for other in self._lines):
                    continue
                self._over = outage(self._name, outcome, to_do)
                self._changed.set()
                return replace(outcome, attempts=retries.sent, to_do=to_do)
            if delay is None:
                return replace(outcome, attempts=retries.sent)
            await asyncio.sleep(delay)

    def _to_do(self, line: _Line, attempt: _Attempt, sent: int) -> str | None:
        """What the user must do if every further request would fail in the same way; None if it would not.

        Args:
            line: the route.
            attempt: the last attempt.
            sent: how often the request was sent.
        """
        if attempt.connected is False and not line.was_reached and sent >= _UNREACHED_AFTER:
            return "check --base-url (most end in /v1), and that a server listens there"
        wait = attempt.wait_s
        if attempt.outcome.outcome == "http_429" and wait and wait > max(60.0, self._config.patience_s):
            return (
                f"it asks to wait until {_clock(time.time() + wait)}: run again then, or raise --patience-s"
            )
        return cannot_pass(attempt.outcome, comes_back=attempt.retry_after_s is not None)

    async def _admitted(self, tokens: float, not_again: _Line | None) -> tuple[_Line, float]:
        """Wait until a request may be sent.

        Args:
            tokens: estimated number of tokens of the request.
            not_again: the route where the request has failed before; used again only if no other is free.

        Returns:
            The route for the request, and the time at which it may be sent.

        Raises:
            OutageError: the endpoint refuses every request.
        """
        async with self._turn:  # one request waits for the limits, the others for this lock
            while True:
                if self._over:
                    raise self._over
                lines = [line for line in self._lines if not line.is_over]
                waits = [line.limits.wait(tokens) for line in lines]
                ready = [line for line, wait in zip(lines, waits, strict=True) if wait <= 0]
                if ready and not self._finishing:
                    line = min(ready, key=lambda line: (line is not_again, (line.sent + 1) / line.weight))
                    line.sent += 1
                    return line, line.limits.enter(tokens)
                self._changed.clear()
                shortest = math.inf if self._finishing else min(waits)
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if shortest == math.inf else shortest):
                        await self._changed.wait()

    def _remembered(self) -> dict[str, Any]:
        """The stored limits by endpoint, each with its time; empty if the file is missing or damaged."""
        if self._memory is None or not self._memory.exists():
            return {}
        with suppress(ValueError):
            found = json.loads(self._memory.read_bytes())
            return found if isinstance(found, dict) else {}
        return {}

    def _resume(self) -> None:
        found = self._remembered().get(self._name, {"at": 0.0, "lines": []})
        if time.time() - found["at"] < _MEMORY_HOLDS_S and len(found["lines"]) == len(self._lines):
            for line, state in zip(self._lines, found["lines"], strict=True):
                line.limits.resume(state)
                line.was_reached = True

    def _remember(self) -> None:
        if self._memory is not None and any(line.was_reached for line in self._lines):
            found = {"at": time.time(), "lines": [line.limits.state() for line in self._lines]}
            new = self._memory.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(self._remembered() | {self._name: found}))
            new.replace(self._memory)

    def forget(self, receipt: str) -> None:
        """Do nothing: a live exchange does not keep outcomes."""

    def finish(self) -> int:
        """Send no further request; returns the number of requests in flight."""
        self._finishing = True
        return self._in_flight

    async def close(self) -> None:
        """Store the limits that were found, and close the connections."""
        self._remember()
        for line in self._lines:
            await line.close()


class _Retries:
    """Counts how often one request was sent, and decides whether it is sent again."""

    def __init__(self, config: TeacherConfig) -> None:
        self.sent = 0
        self._failed, self._garbled = config.max_retries, min(1, config.max_retries)
        self._patience_s, self._started = config.patience_s, time.monotonic()

    def delay_s(self, attempt: _Attempt, accepted_at: float) -> float | None:
        """Seconds until the request is sent again; None if it is not.

        Args:
            attempt: the last attempt.
            accepted_at: when the endpoint last accepted any request, by `time.monotonic`.
        """
        self.sent += 1
        failure = attempt.outcome.outcome
        if failure == "http_429":
            waited = time.monotonic() - max(self._started, accepted_at)
            # No delay here, because `Limits` makes all requests pause.
            return None if waited + (attempt.wait_s or 0) > self._patience_s else 0.0
        if failure == "parse":
            self._garbled -= 1
            return 0.0 if self._garbled >= 0 else None
        words = attempt.outcome.detail or ""
        if failure.startswith("http_") and (names_mode(words) or names_role(words) or too_long(words)):
            return None
        status = failure.removeprefix("http_")
        if failure not in ("network", "timeout") and not (
            status.isdigit() and int(status) in _RETRIED_STATUS
        ):
            return None
        self._failed -= 1
        if self._failed < 0:
            return None
        delay = min(_FIRST_DELAY_S * 2 ** (self.sent - 1), _LONGEST_DELAY_S) * random.uniform(0.75, 1.0)
        return delay if attempt.retry_after_s is None else min(attempt.retry_after_s, 60.0)


def outage(name: str, outcome: Outcome, to_do: str) -> OutageError:
    """The error for an endpoint that refuses every request.

    Args:
        name: name of the endpoint.
        outcome: the failure.
        to_do: what the user must do.
    """
    return OutageError(
        f"{name} refuses every request ({outcome.outcome}: {outcome.detail}): {to_do}; all answers are kept, "
        "and the same command continues from here"
    )


def _clock(at: float) -> str:
    """A time (seconds since 1970) as local time; with the date if it is more than 12 hours away."""
    moment = datetime.fromtimestamp(at).astimezone()
    return f"{moment:%H:%M:%S}" if abs(at - time.time()) < 12 * 3600 else f"{moment:%Y-%m-%d %H:%M}"


def _prompt_tokens(parameters: Mapping[str, Any]) -> float:
    """Estimated tokens of the messages: one for four characters, and `_IMAGE_TOKENS` for an image."""
    count = 0.0
    for message in parameters["messages"]:
        content = message["content"]
        for part in [{"text": content}] if isinstance(content, str) else content:
            count += len(part["text"]) / 4 if "text" in part else _IMAGE_TOKENS
    return count


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the headers of a response ask to wait; None if they do not say.

    The first of these headers that is present and valid counts: `retry-after-ms`; `Retry-After` (a number or a date);
    `X-RateLimit-Reset`, if it is a time.
    """
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit_s)
        except ValueError:
            with suppress(ValueError):
                return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    reset = headers.get("x-ratelimit-reset", "")
    if reset.isdigit() and len(reset) in (10, 13):  # seconds or milliseconds since 1970
        return max(0.0, int(reset) / (1e3 if len(reset) == 13 else 1.0) - time.time())
    return None
