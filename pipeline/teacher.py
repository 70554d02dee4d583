"""The LLM client: any OpenAI-compatible endpoint, through the `openai` package and the journal.

A failed answer is data, not an exception: `Teacher.ask` returns an `Answer` whose failure has a type by
where it arose. Retries with growing delays and `Retry-After` are the `openai` package's own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import openai
import yaml
from pydantic import BaseModel, ValidationError

from pipeline.journal import Entry, Journal, now_text, request_hash
from pipeline.prompts import Prompt
from schemas.config import TeacherConfig
from schemas.exceptions import ConfigError, TeacherError
from schemas.replies import Answer, Reply

T = TypeVar("T", bound=Reply)

_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}


GIVE_UP_AFTER = 16
"""Requests without any answer after which an endpoint that has never answered is given up."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(BaseModel):
    """What is read of a chat completion; the `openai` package does not check a body's shape."""

    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of one exchange with the endpoint, before it becomes an entry of the journal."""

    content: str | None
    outcome: str
    detail: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1


def image_part(path: Path) -> dict[str, Any]:
    """An image as a message part, as a base64 data URL."""
    mime = _MIME.get(path.suffix, "application/octet-stream")
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}}


def endpoint_url(config: TeacherConfig) -> str | None:
    """The endpoint's URL by the configuration, else by OPENAI_BASE_URL; None for OpenAI's own.

    Raises:
        ConfigError: neither a URL nor an API key is set, or the URL is none.
    """
    url = config.base_url or os.environ.get("OPENAI_BASE_URL") or None
    if url is None and not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError("no endpoint: set OPENAI_API_KEY, or give --base-url (try `diva demo` without one)")
    if url is not None and not url.startswith(("http://", "https://")):
        raise ConfigError(f"base URL {url!r}: it must begin with http:// or https://")
    return url


class Teacher:
    """Asks one endpoint, at most `config.concurrency` requests at once.

    Use as an asynchronous context manager within one event loop.

    Args:
        config: endpoint, model and sampling parameters.
        journal: where every answer is committed before it is used.

    Raises:
        ConfigError: no API key for an endpoint that needs one, no URL, or an unreadable price table.
    """

    def __init__(self, config: TeacherConfig, journal: Journal) -> None:
        self.config = config
        self._journal = journal
        base_url = endpoint_url(config)
        self.endpoint = config.endpoint or (base_url or "https://api.openai.com/v1").rstrip("/")
        self._client = openai.AsyncOpenAI(
            # Local servers take any key, and the client wants one.
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            base_url=base_url,
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )
        self._slots = asyncio.Semaphore(config.concurrency)
        self._prices = _prices(config.prices)
        self._unanswered: int | None = 0
        """Requests that failed before the first answer; None as soon as there was one."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(
        self,
        prompt: Prompt,
        values: dict[str, object],
        *,
        purpose: str,
        problem_id: str,
        shape: type[T] | None = None,
        images: Sequence[Path] = (),
        sample: int = 0,
    ) -> Answer[T]:
        """One answer, from the journal where it is there, else from the endpoint.

        Args:
            prompt: the prompt's file.
            values: what goes into its user message.
            purpose: named in the ledger.
            problem_id: named in the ledger.
            shape: the model of a structured answer; None for plain text.
            images: images in order, sent before the text.
            sample: number of the answer among independent ones to the same question.

        Raises:
            TeacherError: of the first `GIVE_UP_AFTER` requests none was answered.
        """
        # The slot comes first: a shard's images, all encoded at once, would fill the memory.
        async with self._slots:
            parameters = self._parameters(prompt, values, shape, images, sample)
            key = request_hash({"endpoint": self.endpoint, "sample": sample, **parameters})
            entry = self._journal.answer(key)
            if entry is None:
                started = time.monotonic()
                outcome = _checked(await self._exchange(parameters), shape)
                entry = Entry(
                    request_hash=key,
                    purpose=purpose,
                    endpoint=self.endpoint,
                    model=self.config.model,
                    problem_id=problem_id,
                    content=outcome.content,
                    outcome=outcome.outcome,
                    detail=outcome.detail,
                    prompt_tokens=outcome.prompt_tokens,
                    completion_tokens=outcome.completion_tokens,
                    cost_usd=self._cost(outcome),
                    latency_s=time.monotonic() - started,
                    attempts=outcome.attempts,
                    output_mode=self.config.output_mode if shape else "text",
                    created_at=now_text(),
                )
                self._journal.commit(entry)
                self._give_up_in_time(outcome)
        text = entry.content or ""
        if entry.outcome != "ok":
            return Answer(None, text, f"{entry.outcome}: {entry.detail or 'no detail'}")
        return Answer(shape.model_validate_json(_json_of(text)) if shape else None, text, None)

    def _parameters(
        self,
        prompt: Prompt,
        values: dict[str, object],
        shape: type[Reply] | None,
        images: Sequence[Path],
        sample: int,
    ) -> dict[str, Any]:
        """The body of the request: all of it determines the answer."""
        text = prompt.fill(**values)
        schema = shape.model_json_schema() if shape else None
        if schema and self.config.output_mode != "json_schema":
            text += f"\n\nAnswer with one JSON object of this schema and nothing else:\n{json.dumps(schema)}"
        content: Any = [*map(image_part, images), {"type": "text", "text": text}] if images else text
        parameters: dict[str, Any] = {
            "model": self.config.model,
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": content},
            ],
            "temperature": self.config.temperature,
            "max_completion_tokens": self.config.max_tokens,
            "seed": sample,
        }
        if shape and self.config.output_mode == "json_schema":
            wanted = {"name": shape.__name__, "schema": schema, "strict": True}
            parameters["response_format"] = {"type": "json_schema", "json_schema": wanted}
        elif shape and self.config.output_mode == "json_object":
            parameters["response_format"] = {"type": "json_object"}
        return parameters

    async def _exchange(self, parameters: dict[str, Any]) -> _Outcome:
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**parameters)
        except openai.APIConnectionError as error:  # or a timeout
            failure = "timeout" if isinstance(error, openai.APITimeoutError) else "network"
            return _Outcome(None, failure, _line(error.__cause__ or error), attempts=_attempts(error))
        except openai.APIStatusError as error:
            return _Outcome(
                None, f"http_{error.status_code}", _line(error.message), attempts=_attempts(error)
            )
        attempts = 1 + raw.retries_taken
        try:
            completion = _Completion.model_validate_json(raw.content)
        except ValidationError as error:
            body = raw.content[:10_000].decode("utf-8", "replace")
            return _Outcome(body, "parse", f"no chat completion: {_fault(error)[1]}", attempts=attempts)
        content, outcome, detail = None, "ok", None
        if not completion.choices:
            outcome, detail = "parse", "the answer has no choices"
        else:
            choice = completion.choices[0]
            content = choice.message.content
            if choice.message.refusal or choice.finish_reason == "content_filter":
                outcome, detail = "refusal", choice.message.refusal or "content filter"
            elif choice.finish_reason == "length":
                outcome, detail = "length", f"cut at {self.config.max_tokens} tokens: raise --max-tokens"
            elif content is None:
                outcome, detail = "parse", "the answer has no content"
        usage = completion.usage or _Usage()
        return _Outcome(content, outcome, detail, usage.prompt_tokens, usage.completion_tokens, attempts)

    def _give_up_in_time(self, outcome: _Outcome) -> None:
        """Else a wrong URL or key would cost hours: each request waits for all of its retries."""
        if self._unanswered is None:
            return
        if outcome.outcome not in ("network", "timeout") and not outcome.outcome.startswith("http_"):
            self._unanswered = None
            return
        self._unanswered += 1
        if self._unanswered >= GIVE_UP_AFTER:
            raise TeacherError(
                f"{self.endpoint} answered none of {self._unanswered} requests "
                f"({outcome.outcome}: {outcome.detail}): check the URL, the key and the model's name"
            )

    def _cost(self, outcome: _Outcome) -> float | None:
        price = self._prices.get(self.config.model)
        if price is None or outcome.prompt_tokens is None or outcome.completion_tokens is None:
            return None
        return (outcome.prompt_tokens * price[0] + outcome.completion_tokens * price[1]) / 1e6


def _prices(path: Path | None) -> dict[str, tuple[float, float]]:
    """Dollars a million tokens of prompt and of completion, by model."""
    try:
        text = path.read_text("utf-8") if path else (files("pipeline") / "prices.yaml").read_text("utf-8")
        return {str(name): (float(p), float(c)) for name, (p, c) in yaml.safe_load(text).items()}
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"price table {path}: {_line(error)}") from error


def _line(message: object) -> str:
    """A message on one line; a server may send a whole page."""
    return textwrap.shorten(str(message), 300, placeholder=" ...") or type(message).__name__


def _attempts(error: openai.APIError) -> int:
    """How often a request was sent, by the header in which the `openai` package counts its retries."""
    return 1 + int(error.request.headers.get("x-stainless-retry-count", 0))


def _fault(error: ValidationError) -> tuple[str, str]:
    """Type and message of the first fault that pydantic found."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return first["type"], _line(f"{where}: {first['msg']}" if where else first["msg"])


def _json_of(text: str) -> str:
    """The JSON object in an answer that may have a Markdown fence or words around it."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _checked(outcome: _Outcome, shape: type[Reply] | None) -> _Outcome:
    """The outcome with `parse` or `schema` in the place of `ok` where the text has not the asked shape."""
    if shape is None or outcome.outcome != "ok":
        return outcome
    try:
        shape.model_validate_json(_json_of(outcome.content or ""))
    except ValidationError as error:
        kind, detail = _fault(error)
        return replace(outcome, outcome="parse" if kind == "json_invalid" else "schema", detail=detail)
    return outcome
