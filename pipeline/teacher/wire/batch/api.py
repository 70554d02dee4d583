"""The calls of OpenAI's Batch API: submit a file as a batch, find a batch again, and read its results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import openai
from openai.types import Batch

from diva_grpo.pipeline.teacher.wire.batch.lines import ENDPOINT
from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_name, routes_of
from diva_grpo.pipeline.teacher.wire.http import http_client
from diva_grpo.pipeline.teacher.wire.keys import key_for
from diva_grpo.pipeline.teacher.wire.outcome import one_line
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import TeacherError
from diva_grpo.schemas.records import utc_now

_NAME = "diva_batch"
"""Key in the metadata of a batch under which our name of the batch is stored."""


class RefusedError(Exception):
    """The API refuses a file or a batch, so that nothing was created."""


class BatchApi:
    """The Batch API of one endpoint.

    Args:
        config: the endpoint.
        pause_s: unit of the delays before retries, in seconds.

    Raises:
        ConfigError: see `routes_of` and `http_client`.
    """

    def __init__(self, config: TeacherConfig, pause_s: float) -> None:
        self._endpoint, self._pause_s = endpoint_name(config), pause_s
        [route] = routes_of(config)
        self._client = openai.AsyncOpenAI(
            api_key=key_for(route.key_env, route.base_url) or "none",
            base_url=route.base_url,
            timeout=max(config.timeout_s, 600.0),  # the upload of a file of 200 MB takes long
            max_retries=config.max_retries,
            http_client=http_client(route.base_url),
        )

    async def create(self, name: str, path: Path) -> Batch:
        """Upload a file of requests, and create a batch from it.

        Args:
            name: our name of the batch, by which it can be found again.
            path: of the file.

        Raises:
            RefusedError: the API refuses the file or the batch.
            TeacherError: the API's response did not arrive, and the batch cannot be found.
        """
        try:
            with path.open("rb") as content:
                uploaded = await self._client.files.create(file=content, purpose="batch")
        except openai.APIError as error:
            raise RefusedError(f"{self._endpoint} takes no file for a batch: {message_of(error)}") from error
        return await self._created(name, uploaded.id)

    async def _created(self, name: str, file_id: str) -> Batch:
        failure: openai.APIError | None = None
        # Without the retries of the package: if only the response was lost, a retry would create a second paid batch.
        batches = self._client.with_options(max_retries=0).batches
        for times in (1.0, 4.0, 16.0):
            try:
                return await batches.create(
                    input_file_id=file_id,
                    endpoint=ENDPOINT,
                    completion_window="24h",
                    metadata={_NAME: name},
                )
            except openai.RateLimitError as error:  # the batch was not created
                failure = error
                await asyncio.sleep(times * self._pause_s)
            except openai.APIError as error:
                failure = error
                break
        assert failure
        if isinstance(failure, openai.APIStatusError) and failure.status_code < 500:
            raise RefusedError(f"{self._endpoint} takes no batch: {message_of(failure)}") from failure
        for times in (0.5, 2.0, 8.0):
            await asyncio.sleep(times * self._pause_s)
            with suppress(openai.APIError):
                if found := await self._named(name, utc_now()):
                    return found
        raise TeacherError(
            f"{self._endpoint} did not say whether it took a batch ({message_of(failure)}): run again, and it is "
            "looked for"
        ) from failure

    async def find(self, name: str, batch_id: str | None, made_at: datetime) -> Batch | None:
        """Find a batch of an earlier run; None if the API has none.

        Args:
            name: our name of the batch.
            batch_id: the API's id of it; None if its response did not arrive.
            made_at: when we created the batch (UTC). Batches from more than a day before are not searched.

        Raises:
            openai.APIError: the API cannot be read.
        """
        return await (self.retrieve(batch_id) if batch_id is not None else self._named(name, made_at))

    async def _named(self, name: str, made_at: datetime) -> Batch | None:
        """Find the batch with our name in its metadata."""
        oldest = (made_at - timedelta(days=1) - datetime(1970, 1, 1)).total_seconds()
        async for batch in self._client.batches.list(limit=100):
            if (batch.metadata or {}).get(_NAME) == name:
                return batch
            if batch.created_at < oldest:  # the API lists the newest first; the day is for clocks that differ
                break
        return None

    async def retrieve(self, batch_id: str) -> Batch:
        """The present state of a batch.

        Raises:
            openai.APIError: the API cannot be read.
        """
        return await self._client.batches.retrieve(batch_id)

    async def lines(self, file_id: str) -> AsyncIterator[bytes]:
        """Yield the lines of a result file, without their line breaks; the last one may be empty.

        Raises:
            openai.APIError: the API cannot be read.
            httpx2.HTTPError: the connection breaks during the download.
        """
        async with self._client.files.with_streaming_response.content(file_id) as content:
            rest = b""
            async for chunk in content.iter_bytes():
                # Not `iter_lines`: it also splits at characters that JSON strings may contain, such as U+2028.
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line
            yield rest

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def message_of(error: openai.APIError | httpx2.HTTPError) -> str:
    """What an error says, in one line. A failed connection says it in its cause."""
    unsaid = isinstance(error, openai.APIConnectionError) and error.__cause__
    return one_line(unsaid or error)
