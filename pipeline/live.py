"""Live requests to an OpenAI-compatible endpoint, through the `openai` package."""

from __future__ import annotations

import os
from typing import Any

import openai

from pipeline.outcome import Outcome, one_line, read_completion
from schemas.config import TeacherConfig
from schemas.exceptions import ConfigError


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


def endpoint_name(config: TeacherConfig) -> str:
    """The endpoint's name in the journal: as configured, else its URL.

    Raises:
        ConfigError: as `endpoint_url`.
    """
    url = endpoint_url(config)
    return config.endpoint or (url or "https://api.openai.com/v1").rstrip("/")


class LiveExchange:
    """One HTTP request an exchange; retries with growing delays and `Retry-After` are the `openai` package's.

    Args:
        config: the endpoint.

    Raises:
        ConfigError: no API key for an endpoint that needs one, or no URL.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config
        self._client = openai.AsyncOpenAI(
            # Local servers take any key, and the client wants one.
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            base_url=endpoint_url(config),
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )

    @property
    def concurrency(self) -> int:
        """As configured."""
        return self._config.concurrency

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        """Send a request until it is answered, or its retries are used up."""
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**parameters)
        except openai.APIConnectionError as error:  # or a timeout
            failure = "timeout" if isinstance(error, openai.APITimeoutError) else "network"
            return Outcome(None, failure, one_line(error.__cause__ or error), attempts=_attempts(error))
        except openai.APIStatusError as error:
            failure = f"http_{error.status_code}"
            return Outcome(None, failure, one_line(error.message), attempts=_attempts(error))
        return read_completion(raw.content, attempts=1 + raw.retries_taken)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _attempts(error: openai.APIError) -> int:
    """How often a request was sent, by the header in which the `openai` package counts its retries."""
    return 1 + int(error.request.headers.get("x-stainless-retry-count", 0))
