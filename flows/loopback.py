"""HTTP servers on this machine that web pages of elsewhere cannot use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def refusal(hosts: list[str], origins: list[str]) -> str | None:
    """Why a request is refused; None where it comes from this machine and from no page of another origin.

    A page of another origin has a foreign `Origin`; one that has its own name resolve to this machine (DNS
    rebinding) has a foreign `Host`. A tunnel keeps a name of this machine, with a port of its own.

    Args:
        hosts: all `Host` headers.
        origins: all `Origin` headers: a browser sends one, other programs none.
    """
    if len(hosts) != 1 or _host_name(hosts[0]) not in _NAMES:
        return "the Host header names another machine: use http://127.0.0.1 or http://localhost"
    if any(origin != f"http://{hosts[0]}" for origin in origins):
        return "a page of another origin may not use this server"
    return None


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def guarded(app: App) -> App:
    """An ASGI application that refuses what `refusal` names: HTTP with 403, a WebSocket before it is accepted."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await app(scope, receive, send)
        named = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        reason = refusal(
            [value for name, value in named if name == b"host"],
            [value for name, value in named if name == b"origin"],
        )
        if reason is None:
            return await app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008, "reason": reason})
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    return guard
