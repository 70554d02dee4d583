"""An OpenAI-compatible endpoint on loopback that does what a test tells it, faults included."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


@dataclass(frozen=True)
class Reply:
    """One reply. `cut` announces more bytes than are sent; `drop` closes the connection without any."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    drop: bool = False


def body(content: str | None, *, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion as a dictionary."""
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


def completion(content: str | None, **options: Any) -> Reply:
    return Reply(json.dumps(body(content, **options)).encode())


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(value).encode(), status, headers)


class Endpoint:
    """What it was asked, and what it answers next; the last reply is given again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.url = ""
        self.replies = list(replies) or [completion("42")]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def next(self, request: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.keys.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def done(self) -> None:
        with self._lock:
            self._at_once -= 1


class Server(Endpoint):
    """Replies to each request by what is in it."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply]) -> None:
        super().__init__()
        self._answer = answer

    def next(self, request: dict[str, Any], key: str | None) -> Reply:
        super().next(request, key)
        return self._answer(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    endpoint: Endpoint

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.endpoint.paths.append(self.path)
        self.server.endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
        reply = self.server.endpoint.next(asked, self.headers["Authorization"])
        time.sleep(reply.delay_s)
        self.server.endpoint.done()
        if reply.drop:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in ({"content-type": "application/json"} | reply.headers).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body) + 100 * reply.cut))
        self.end_headers()
        self.wfile.write(reply.body)
        self.close_connection = reply.cut

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def listening(server: ThreadingHTTPServer) -> Iterator[str]:
    """Serve in a thread while the context is open; yields the URL ending in /v1."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


AnEndpoint = TypeVar("AnEndpoint", bound=Endpoint)


@contextmanager
def serving(endpoint: AnEndpoint) -> Iterator[AnEndpoint]:
    """Serve while the context is open; the URL is in `endpoint.url`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.endpoint = endpoint
    with listening(server) as endpoint.url:
        yield endpoint
