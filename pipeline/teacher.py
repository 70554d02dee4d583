"""The LLM client: any OpenAI-compatible endpoint, through the `openai` package and the journal.

A failed answer is data, not an exception: `Teacher.ask` returns an `Answer` whose failure has a type by
where it arose. How requests reach the endpoint is the matter of an `Exchange`.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml
from pydantic import ValidationError

from pipeline.image_parts import content_parts
from pipeline.journal import Entry, Journal, now_text, request_hash
from pipeline.live import LiveExchange, endpoint_name
from pipeline.outcome import Exchange, Outcome, fault, one_line
from pipeline.prompts import Prompt
from pipeline.shown import NOTHING_SHOWN, Shown
from schemas.config import TeacherConfig
from schemas.exceptions import ConfigError, TeacherError
from schemas.replies import Answer, Reply

T = TypeVar("T", bound=Reply)

GIVE_UP_AFTER = 16
"""Requests without any answer after which an endpoint that has never answered is given up."""


class Teacher:
    """Asks one endpoint: renders a request, looks into the journal, else makes an exchange and keeps it.

    Use as an asynchronous context manager within one event loop.

    Args:
        config: endpoint, model and sampling parameters.
        journal: where every answer is committed before it is used.
        exchange: how requests reach the endpoint, closed with the teacher; by default live.

    Raises:
        ConfigError: no API key for an endpoint that needs one, no URL, or an unreadable price table.
    """

    def __init__(self, config: TeacherConfig, journal: Journal, exchange: Exchange | None = None) -> None:
        self.config = config
        self._journal = journal
        self.endpoint = endpoint_name(config)
        self._exchange = exchange or LiveExchange(config)
        self._slots = asyncio.Semaphore(self._exchange.concurrency)
        self._prices = _prices(config.prices)
        self._unanswered: int | None = 0
        """Requests that failed before the first answer; None as soon as there was one."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            TeacherError: of the first `GIVE_UP_AFTER` requests none was answered.
            StoreError: an image is missing or damaged.
        """
        # The slot comes first: a shard's images, all encoded at once, would fill the memory.
        async with self._slots:
            parameters = await asyncio.to_thread(self._parameters, prompt, values, shape, images, sample)
            key = request_hash({"endpoint": self.endpoint, "sample": sample, **parameters})
            entry = self._journal.answer(key)
            if entry is None:
                started = time.monotonic()
                outcome = _checked(await self._exchange.send(parameters, key), shape)
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
        images: Shown,
        sample: int,
    ) -> dict[str, Any]:
        """The body of the request: all of it determines the answer."""
        text = prompt.fill(**values)
        schema = shape.model_json_schema() if shape else None
        if schema and self.config.output_mode != "json_schema":
            text += f"\n\nAnswer with one JSON object of this schema and nothing else:\n{json.dumps(schema)}"
        content = content_parts(text, replace(images, max_pixels=self.config.max_pixels))
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

    def _give_up_in_time(self, outcome: Outcome) -> None:
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

    def _cost(self, outcome: Outcome) -> float | None:
        price = self._prices.get(self.config.model)
        if price is None or outcome.prompt_tokens is None or outcome.completion_tokens is None:
            return None
        dollars = (outcome.prompt_tokens * price[0] + outcome.completion_tokens * price[1]) / 1e6
        return dollars * outcome.price_share


def _prices(path: Path | None) -> dict[str, tuple[float, float]]:
    """Dollars a million tokens of prompt and of completion, by model."""
    try:
        text = path.read_text("utf-8") if path else (files("pipeline") / "prices.yaml").read_text("utf-8")
        return {str(name): (float(p), float(c)) for name, (p, c) in yaml.safe_load(text).items()}
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"price table {path}: {one_line(error)}") from error


def _json_of(text: str) -> str:
    """The JSON object in an answer that may have a Markdown fence or words around it."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _checked(outcome: Outcome, shape: type[Reply] | None) -> Outcome:
    """The outcome with `parse` or `schema` in the place of `ok` where the text has not the asked shape."""
    if shape is None or outcome.outcome != "ok":
        return outcome
    try:
        shape.model_validate_json(_json_of(outcome.content or ""))
    except ValidationError as error:
        kind, detail = fault(error)
        return replace(outcome, outcome="parse" if kind == "json_invalid" else "schema", detail=detail)
    return outcome
