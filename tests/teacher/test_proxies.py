"""Proxies of the environment, and connections that fail: what is sent where, and how it is told."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx2
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.wire.http import AiohttpTransport, http_client
from tests.conftest import Diva
from tests.support.endpoints import Endpoint, Reply, completion, serving

PLAIN = ("generate", "--kinds", "reword", "--model", "m", "--max-retries", "0")
NOWHERE = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("proxy", [f"http://{NOWHERE}", f"socks5://{NOWHERE}", f"socks4://{NOWHERE}"])
def test_loopback_goes_around_every_proxy(
    diva: Diva, store: VariantStore, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with serving(Endpoint(completion('{"rewordings": ["What is the sum of 2 and 3?"]}'))) as endpoint:
        ended = diva(*PLAIN, "--base-url", endpoint.url, "--store", store.root)
    assert ended.code == 0, ended.err
    assert endpoint.requests


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        (f"socks5://{NOWHERE}", "pip install 'httpx2[socks]'"),
        (f"socks4://{NOWHERE}", "cannot be used: Unknown"),
    ],
)
def test_proxy_that_cannot_be_used_is_one_line(
    diva: Diva, store: VariantStore, monkeypatch: pytest.MonkeyPatch, proxy: str, said: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    ended = diva(*PLAIN, "--base-url", "http://llm.example/v1", "--store", store.root)
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1


def test_proxy_is_used_and_no_proxy_excludes_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def status(url: str) -> int | str:
        async with http_client(url) as client:
            try:
                return (await client.get(url)).status_code
            except httpx2.TransportError as error:
                return type(error).__name__

    with serving(Endpoint()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        assert asyncio.run(status("http://llm.invalid/v1")) == 501, "the test's server knows no GET"
        for hosts in ("llm.invalid", ".invalid", "*"):
            monkeypatch.setenv("NO_PROXY", hosts)
            assert asyncio.run(status("http://llm.invalid/v1")) == "ConnectError"


def _sent(url: str, **timeout: float) -> httpx2.Response:
    async def send() -> httpx2.Response:
        async with httpx2.AsyncClient(
            transport=AiohttpTransport(), timeout=httpx2.Timeout(5, **timeout)
        ) as client:
            return await client.post(url, json={"a": "é"})

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(drop=True), httpx2.ReadError),
        (Reply(b"{", cut=True), httpx2.ReadError),
        (Reply(b"{}", delay_s=0.5), httpx2.TimeoutException),
    ],
    ids=["closed", "cut", "slow"],
)
def test_connection_that_breaks_has_the_error_of_httpx(reply: Reply, error: type[Exception]) -> None:
    with serving(Endpoint(reply)) as endpoint, pytest.raises(error) as raised:
        _sent(endpoint.url, read=0.1)
    assert str(raised.value) or error is httpx2.TimeoutException


def test_refused_connection_names_host_and_port() -> None:
    with pytest.raises(httpx2.ConnectError, match=r"127\.0\.0\.1:9"):
        _sent(f"http://{NOWHERE}/v1")


def test_what_is_no_http_is_an_error_of_httpx() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"

        async def both() -> Any:
            async with httpx2.AsyncClient(transport=AiohttpTransport()) as client:
                sent = asyncio.create_task(client.post(url, json={}))
                connection, _ = await asyncio.to_thread(server.accept)
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9\r\n\r\n")
                    with pytest.raises(httpx2.TransportError):
                        await sent

        asyncio.run(both())


def test_user_and_password_of_a_url_are_sent_as_a_header() -> None:
    with serving(Endpoint(completion("2"))) as endpoint:
        _sent(endpoint.url.replace("http://", "http://me:secret@"))
    assert endpoint.headers[0]["authorization"].startswith("Basic ")
