"""Protect HTTP servers on this machine against requests from web pages of another origin."""

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
    """The reason to refuse a request; None if it is allowed.

    A page of another origin sends a foreign `Origin`. A page whose own name resolves to this machine (DNS rebinding)
    sends a foreign `Host`. Requests through a tunnel are allowed: their `Host` is a name of this machine, with any
    port.

    Args:
        hosts: all `Host` headers of the request.
        origins: all `Origin` headers. A browser sends one; other programs send none.
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
    """Wrap an ASGI application so that it rejects requests for which `refusal` gives a reason.

    HTTP requests get status 403. WebSockets are closed before they are accepted.
    """

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
