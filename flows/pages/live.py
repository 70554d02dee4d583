"""Serve the page of a store during a run: a server on loopback, whose page requests new data.

Data are computed only when the page requests them and the store's parts have changed.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from diva_grpo.flows.loopback import refusal
from diva_grpo.flows.pages.json_text import as_json
from diva_grpo.flows.pages.page import page_html
from diva_grpo.flows.pages.problems import Pictures, details, index
from diva_grpo.flows.pages.summary import summary, training_runs
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError, DivaError, ServerError
from diva_grpo.schemas.records import RECORDS

RENEW_S = 2.0
"""Minimum seconds between two computations of the page's data."""

REST = 9.0
"""After a computation that took T seconds, the next one starts at least `REST` * T seconds later.

This leaves the machine to the training run, which may be on the same one.
"""


class Live:
    """The page's data, computed again when the store has changed. It is safe to use from several threads.

    Args:
        store: the store.
        run_ids: training runs, see `training_runs`; empty: the last one at each computation.
        renew_s: see `RENEW_S`.
        rest: see `REST`.

    Raises:
        ConfigError: the store has no such training run.
    """

    def __init__(
        self,
        store: VariantStore,
        run_ids: Sequence[str] = (),
        *,
        renew_s: float = RENEW_S,
        rest: float = REST,
    ) -> None:
        self._store, self._run_ids, self._renew_s, self._rest = store, [*run_ids], renew_s, rest
        self._lock = threading.Lock()
        self._runs = training_runs(store, run_ids)
        self._parts = ""
        self._due = 0.0
        self._texts: dict[str, bytes] = {}

    def text(self, name: str) -> bytes:
        """The page's `summary` or `index` as JSON.

        Args:
            name: `summary` or `index`.

        Raises:
            StoreError: a part file is damaged.
        """
        with self._lock:
            if time.monotonic() >= self._due and (parts := self._state()) != self._parts:
                began = time.monotonic()
                self._runs = training_runs(self._store, self._run_ids)
                head = summary(self._store, self._runs, tables=False)
                self._texts = {"summary": as_json(head), "index": as_json(index(self._store, self._runs))}
                self._parts = parts
                ended = time.monotonic()
                self._due = ended + max(self._renew_s, self._rest * (ended - began))
            return self._texts[name]

    def problem(self, problem_id: str) -> bytes:
        """The present details of a problem as JSON, see `details`.

        Raises:
            ConfigError: there is no such problem.
            StoreError: a part or an image is damaged.
        """
        [found] = details(self._store, [problem_id], self._runs, Pictures(self._store))
        return as_json(found)

    def page(self) -> bytes:
        """The HTML page without data. The page fetches its data from this server."""
        return page_html(self._store).encode()

    def _state(self) -> str:
        return " ".join(part.name for record in RECORDS for part in self._store.catalogue.parts(record.table))


class LiveServer(ThreadingHTTPServer):
    """Serve a `Live` on 127.0.0.1 to clients that know its URL.

    Other users of the machine can reach the port, so all paths begin with a secret.

    Args:
        live: the data to serve.
        port: the port to listen on; 0 chooses a free port.

    Raises:
        ServerError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, live: Live, port: int = 0) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ServerError(f"port {port} is taken: choose another by --port") from error
        self.live = live
        self.path = f"/{secrets.token_urlsafe(24)}/"

    @property
    def url(self) -> str:
        """The URL of the page."""
        return f"http://127.0.0.1:{self.server_port}{self.path}"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        reason = refusal(self.headers.get_all("Host", []), self.headers.get_all("Origin", []))
        asked = urlsplit(self.path)
        if reason is not None:
            return self._answer(403, reason.encode())
        if not secrets.compare_digest(
            asked.path[: len(self.server.path)].encode(), self.server.path.encode()
        ):
            return self._answer(404, b"open the address that `diva watch` has printed")
        name, live = asked.path.removeprefix(self.server.path), self.server.live
        try:
            if not name:
                return self._answer(200, live.page(), "text/html")
            if name in ("summary", "index"):
                return self._answer(200, live.text(name), "application/json")
            if name == "problem":
                ids = parse_qs(asked.query).get("id", [""])
                return self._answer(200, live.problem(ids[0]), "application/json")
        except ConfigError as error:
            return self._answer(404, str(error).encode())
        except DivaError as error:
            return self._answer(500, str(error).encode())
        return self._answer(404, b"there is no such page")

    def _answer(self, status: int, content: bytes, mime: str = "text/plain") -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if status == 200 and self.headers.get("If-None-Match") == tag:
            status, content = 304, b""
        self.send_response(status)
        headers = {"Content-Type": f"{mime}; charset=utf-8", "Content-Length": str(len(content)), "ETag": tag}
        headers |= {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for header, value in headers.items():
            self.send_header(header, value)
        with suppress(ConnectionError):  # the page was closed meanwhile
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, so that requests do not fill the terminal."""
