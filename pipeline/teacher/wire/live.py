"""Live requests to an OpenAI-compatible endpoint, through the `openai` package: routes, limits and retries.

The package makes the request and knows the servers' ways (Azure's URLs, headers, errors, `Retry-After`). Retries
are ours, since a 429 must hold back all requests and not use up the retries of one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import random
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from diva_grpo.pipeline.teacher.wire.completion import read_completion
from diva_grpo.pipeline.teacher.wire.keys import api_key, key_for
from diva_grpo.pipeline.teacher.wire.limits import Limits
from diva_grpo.pipeline.teacher.wire.outcome import Outcome, one_line
from diva_grpo.pipeline.teacher.wire.refusal import cannot_pass, moderated, names_mode, names_role, too_long
from diva_grpo.schemas.config import Route, TeacherConfig
from diva_grpo.schemas.exceptions import ConfigError, OutageError

_OPENAI = "https://api.openai.com/v1"
_RETRIED_STATUS = frozenset({408, 409, *range(500, 600)})
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 8.0
_POOL_CONNECTIONS = 32
_MEMORY_HOLDS_S = 600.0
_SAID_AFTER_S = 5.0
"""A wait that is longer is told."""
_IMAGE_TOKENS = 1_000
"""About what an image costs; corrected by what the endpoint counts."""


def endpoint_url(config: TeacherConfig) -> str | None:
    """The endpoint's URL by the configuration, else by OPENAI_BASE_URL; None for OpenAI's own.

    Raises:
        ConfigError: neither a URL nor an API key is set, or the URL is none.
    """
    url = config.base_url or os.environ.get("OPENAI_BASE_URL") or None
    if url is None and not api_key(config.key_env):
        raise ConfigError(
            f"no endpoint: set {config.key_env}, or give --base-url (try `diva demo` without one)"
        )
    if url is not None and not url.startswith(("http://", "https://")):
        raise ConfigError(f"base URL {url!r}: it must begin with http:// or https://")
    return url


def endpoint_name(config: TeacherConfig) -> str:
    """The endpoint's name in the journal: as configured, else its URL without user, password and query.

    Raises:
        ConfigError: as `endpoint_url`; or routes without a name.
    """
    if config.routes and not config.endpoint:
        raise ConfigError("routes need a name for the journal: give --endpoint NAME")
    if config.endpoint:
        return config.endpoint
    parts = urlsplit(endpoint_url(config) or _OPENAI)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def speaks_openai(config: TeacherConfig) -> bool:
    """Whether the endpoint is OpenAI's own or Azure's, and not a server that follows them."""
    urls = [route.base_url for route in routes_of(config)]
    hosts = {urlsplit(url).hostname or "" for url in urls}
    return config.api_version is not None or all(h.endswith((".openai.com", ".azure.com")) for h in hosts)


def routes_of(config: TeacherConfig) -> tuple[Route, ...]:
    """The URLs and keys of an endpoint; one pair if no routes are configured.

    Raises:
        ConfigError: as `endpoint_url`.
    """
    single = (
        Route(base_url=endpoint_url(config) or _OPENAI, key_env=config.key_env) if not config.routes else None
    )
    return (single,) if single else config.routes


_SHORTEST_SECRET = 12
"""Characters of a key that nobody guesses, and that no answer holds by chance where one of them is a digit."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One request and what came of it, with how long the endpoint asks to wait."""

    outcome: Outcome
    retry_after_s: float | None = None


class _Line:
    """One URL and key, with its own limits."""

    def __init__(self, config: TeacherConfig, route: Route, share: float) -> None:
        self.weight, self.sent = route.weight, 0
        self.is_over = False
        """Whether it refuses every request."""
        self._key = key_for(route.key_env, route.base_url)
        self._timeout_s = config.timeout_s
        requests, tokens = (
            rate and rate * share for rate in (config.requests_per_minute, config.tokens_per_minute)
        )
        most = max(1, round(config.concurrency * share))
        self.limits = Limits(most, requests, tokens)
        # The HTTP client looks at every connection of its pool for each request, which takes a third of the time
        # with hundreds of them: so there are several pools.
        number = math.ceil(most / _POOL_CONNECTIONS)
        self._clients = itertools.cycle([_client(config, route, self._key) for _ in range(number)])
        self._number = number

    async def attempt(self, parameters: dict[str, Any]) -> _Attempt:
        """Send a request once."""
        try:
            # The client's own timeout is of each read; this one is of the whole.
            async with asyncio.timeout(self._timeout_s):
                # `chat.completions.create` walks through all parameters and the answer, at twice the cost.
                response = await next(self._clients).post(
                    "/chat/completions", cast_to=httpx2.Response, body=parameters
                )
        except (TimeoutError, openai.APITimeoutError):
            return _Attempt(Outcome(None, "timeout", f"no answer within {self._timeout_s:g} s"))
        except openai.APIConnectionError as error:
            return _Attempt(Outcome(None, "network", self._clean(error.__cause__ or error)))
        except openai.APIStatusError as error:
            body = f"{error.code or ''} {error.type or ''} {error.response.text[:2_000]}"
            # Azure's content filter refuses a prompt by a status.
            is_refusal = moderated(error.status_code, body)
            failure = "refusal" if is_refusal else f"http_{error.status_code}"
            # The client's message omits whatever is not an `error` object, such as strict servers' lists of faults.
            said = isinstance(error.body, dict) and isinstance(error.body.get("message"), str)
            message = error.message if said else f"{error.message}: {error.response.text}"
            parameter = error.param if isinstance(error.param, str) else None  # the package does not check it
            detail = self._clean(message)
            if long := too_long(body):
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
        """The text without the key, which some servers send back.

        A local server's "none" or "EMPTY" is not a secret, and may occur in any answer.
        """
        is_secret = len(self._key) >= _SHORTEST_SECRET and any(sign.isdigit() for sign in self._key)
        return text.replace(self._key, "[key]") if is_secret else text

    async def close(self) -> None:
        for client in itertools.islice(self._clients, self._number):
            await client.close()


@cache
def _trust() -> ssl.SSLContext:
    """The system's certificates, which take 60 ms to read: once for all clients of the process."""
    return httpx2.create_ssl_context()


def _client(config: TeacherConfig, route: Route, key: str) -> openai.AsyncOpenAI:
    options: dict[str, Any] = {
        "api_key": key or "none",  # local servers take any, and the client wants one
        "max_retries": 0,
        "timeout": config.timeout_s,
        # No connection waits for another, and none is closed to be opened again for the next request.
        "http_client": openai.DefaultAsyncHttpxClient(
            verify=_trust(), limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        ),
    }
    if config.api_version is None:
        return openai.AsyncOpenAI(base_url=route.base_url, **options)
    return openai.AsyncAzureOpenAI(azure_endpoint=route.base_url, api_version=config.api_version, **options)


class LiveExchange:
    """One HTTP request an exchange, sent again where its failure may pass.

    | failure | sent again |
    | --- | --- |
    | 429 | until it is taken, or nothing but 429s has come for `patience_s` |
    | network, timeout, 408, 409, 5xx | `max_retries` times, after growing delays or `Retry-After` |
    | a 5xx that refuses the output mode, or says that the prompt is too long | never |
    | parse: a body that is not a chat completion | once |
    | any other status, refusal, length | never |

    Where every further request would fail likewise (no credit, wrong key, no such model, a quota that is used up)
    the route is not asked again; where it is the last, nothing is sent any more.

    Args:
        config: the endpoint.
        memory: file in which the limits found are kept for the next exchange, such as that of the next shard.

    Raises:
        ConfigError: no API key for an endpoint that needs one, no URL, or one to which the key may not go.
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
        """Since when (seconds since 1970) nothing but failures has come, and what the last one said."""
        self._completion_tokens = float(config.max_tokens)
        """Of a usual answer, as a running mean."""

    @property
    def concurrency(self) -> int:
        """As configured."""
        return self._config.concurrency

    def note(self) -> str:
        """What is waited for, since when, until when; empty where nothing has been for `_SAID_AFTER_S`."""
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
        """Send a request until it is answered, or its retries are used up.

        Raises:
            OutageError: not sent (again), since the endpoint refuses every request.
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
                line.limits.limited(sent_at, attempt.retry_after_s)
            elif outcome.outcome not in ("network", "timeout"):
                line.limits.accepted(sent_at)
                self._accepted_at = time.monotonic()
            if not outcome.is_outage:
                self._failing = None
            else:
                since = self._failing[0] if self._failing else time.time()
                self._failing = since, f"{outcome.outcome}: {outcome.detail}"
            delay = retries.delay_s(attempt, self._accepted_at)
            if to_do := self._to_do(attempt):
                line.is_over = True
                if not all(other.is_over for other in self._lines):
                    continue
                self._over = outage(self._name, outcome, to_do)
                self._changed.set()
                return replace(outcome, attempts=retries.sent, to_do=to_do)
            if delay is None:
                return replace(outcome, attempts=retries.sent)
            await asyncio.sleep(delay)

    def _to_do(self, attempt: _Attempt) -> str | None:
        """What to do where every further request would fail likewise."""
        wait = attempt.retry_after_s
        if attempt.outcome.outcome == "http_429" and wait and wait > max(60.0, self._config.patience_s):
            return (
                f"it asks to wait until {_clock(time.time() + wait)}: run again then, or raise --patience-s"
            )
        return cannot_pass(attempt.outcome, comes_back=wait is not None)

    async def _admitted(self, tokens: float, not_again: _Line | None) -> tuple[_Line, float]:
        """The line that a request may take, and when it was let in; another than that of a failure if possible."""
        async with self._turn:  # one waits for its moment, the others in line behind it
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
        """By endpoint, when and what was found of its limits; nothing where the file is missing or damaged."""
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

    def _remember(self) -> None:
        if self._memory is not None:
            found = {"at": time.time(), "lines": [line.limits.state() for line in self._lines]}
            new = self._memory.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(self._remembered() | {self._name: found}))
            new.replace(self._memory)

    def forget(self, receipt: str) -> None:
        """Live outcomes are kept by the journal alone."""

    def finish(self) -> int:
        """Let no further request go; returns how many are in flight."""
        self._finishing = True
        return self._in_flight

    async def close(self) -> None:
        """Close the connections, and remember the limits."""
        self._remember()
        for line in self._lines:
            await line.close()


class _Retries:
    """Of one request: how often it was sent, and whether it is sent again."""

    def __init__(self, config: TeacherConfig) -> None:
        self.sent = 0
        self._failed, self._garbled = config.max_retries, min(1, config.max_retries)
        self._patience_s, self._started = config.patience_s, time.monotonic()

    def delay_s(self, attempt: _Attempt, accepted_at: float) -> float | None:
        """Seconds until the next attempt; None where there is none.

        Args:
            attempt: the last one.
            accepted_at: when the endpoint last took any request.
        """
        self.sent += 1
        failure = attempt.outcome.outcome
        if failure == "http_429":
            waited = time.monotonic() - max(self._started, accepted_at)
            # The pause is that of all requests, in `Limits`.
            return None if waited + (attempt.retry_after_s or 0) > self._patience_s else 0.0
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
    """The error of an endpoint that refuses every request."""
    return OutageError(
        f"{name} refuses every request ({outcome.outcome}: {outcome.detail}): {to_do}; all answers are kept, "
        "and the same command continues from here"
    )


def _clock(at: float) -> str:
    """A moment in the near future or past as a user reads it, in local time."""
    moment = datetime.fromtimestamp(at).astimezone()
    return f"{moment:%H:%M:%S}" if abs(at - time.time()) < 12 * 3600 else f"{moment:%Y-%m-%d %H:%M}"


def _prompt_tokens(parameters: Mapping[str, Any]) -> float:
    """About how many tokens the messages have: four characters each."""
    count = 0.0
    for message in parameters["messages"]:
        content = message["content"]
        for part in [{"text": content}] if isinstance(content, str) else content:
            count += len(part["text"]) / 4 if "text" in part else _IMAGE_TOKENS
    return count


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds by `Retry-After` (a number or a date), by its precise variant, or until `X-RateLimit-Reset` where
    that is a moment; None where there is none."""
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
