"""The HTTP client that the `openai` package sends its requests with, and the proxies of the environment."""

from __future__ import annotations

import io
import ipaddress
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import openai
from yarl import URL

from diva_grpo.pipeline.teacher.wire.outcome import one_line
from diva_grpo.schemas.exceptions import ConfigError

_LARGE_BYTES = 2**20
"""Bodies from this size on are sent in pieces, so that the event loop is not blocked."""


def http_client(url: str) -> httpx2.AsyncClient:
    """The client for requests to a URL: over aiohttp, or through the proxy that the environment names for the URL.

    Requests to this machine never go through a proxy.

    Raises:
        ConfigError: the environment names a proxy that cannot be used.
    """
    if not _has_proxy(url):
        return _DirectClient(transport=AiohttpTransport())
    try:
        return openai.DefaultAsyncHttpxClient(
            # No limits: no request waits for a connection, and connections stay open for the next request.
            verify=_trust(),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )
    except ImportError as error:
        raise ConfigError(
            f"{url}: the environment (ALL_PROXY, HTTPS_PROXY) names a SOCKS proxy: `pip install 'httpx2[socks]'`, or "
            "exclude the host by NO_PROXY"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{url}: the environment names a proxy that cannot be used: {one_line(error)}"
        ) from error


class _DirectClient(openai.DefaultAsyncHttpxClient):
    """A client that parses each URL once; to parse one takes as long as to send a request."""

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """See `httpx2.AsyncClient.build_request`."""
        return super().build_request(method, _parsed(str(url)), **options)


@lru_cache(64)
def _parsed(url: str) -> httpx2.URL:
    return httpx2.URL(url)


def _has_proxy(url: str) -> bool:
    """Whether the environment may name a proxy for a URL. `httpx2` knows more forms of NO_PROXY, and decides then."""
    parts, proxies = urlsplit(url), getproxies()
    host = parts.hostname or ""
    return not (
        _is_loopback(host)
        or not (proxies.get(parts.scheme) or proxies.get("all"))
        or proxy_bypass(parts.netloc.rpartition("@")[2])
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@cache
def _trust() -> ssl.SSLContext:
    """The certificates of the system. Cached for all clients of the process, because reading them takes 60 ms."""
    return httpx2.create_ssl_context()


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends requests by aiohttp, which takes half of the CPU time of `httpx2`'s own transport.

    The transport in the `openai` package (`DefaultAioHttpClient`) is not used: it reports connections that are refused
    or closed as timeouts.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and read the whole response.

        Raises:
            httpx2.TransportError: there is no response.
        """
        content = await request.aread()
        limits = request.extensions.get("timeout", {})
        timeout = aiohttp.ClientTimeout(sock_connect=limits.get("connect"), sock_read=limits.get("read"))
        with _httpx_errors():
            async with self._opened().request(
                request.method,
                # `httpx2` has made a header of user and password.
                URL(str(request.url), encoded=True).with_user(None),
                headers=request.headers,
                data=content if len(content) < _LARGE_BYTES else io.BytesIO(content),
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                body = await response.read()
        return httpx2.Response(response.status, headers=response.raw_headers, stream=httpx2.ByteStream(body))

    def _opened(self) -> aiohttp.ClientSession:
        """The session. It is opened by the first request, because it belongs to the event loop of the requests."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=_trust()),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise errors of aiohttp as those of `httpx2`, which the `openai` package knows."""
    try:
        yield
    except aiohttp.ServerTimeoutError as error:
        raise httpx2.TimeoutException(str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx2.ConnectError(f"{_cause(error)}: {error.host}:{error.port}") from error
    except aiohttp.ClientError as error:
        raise httpx2.ReadError(str(error) or type(error).__name__) from error


def _cause(error: aiohttp.ClientConnectorError) -> str:
    """Why there is no connection, in the words of the system. Those of aiohttp begin with its own settings."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    cause = error.os_error
    if isinstance(cause, ssl.SSLError) or not isinstance(cause.errno, int) or cause.errno <= 0:
        return cause.strerror or str(cause)
    return os.strerror(cause.errno)
