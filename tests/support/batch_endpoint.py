"""OpenAI's Batch API on loopback: files, batches, and what can go wrong with them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.endpoints import body, listening

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]
"""The response to a request of a batch, as (part of) its line; None leaves it out of both files."""


def right(request: dict[str, Any]) -> dict[str, Any] | None:
    """Everything is seven."""
    return {"response": {"status_code": 200, "body": body("so \\boxed{7}")}, "error": None}


def failing(status: int, message: str = "no", **error: Any) -> dict[str, Any]:
    return {
        "response": {"status_code": status, "body": {"error": {"message": message, **error}}},
        "error": None,
    }


@dataclass
class Batches:
    """What was asked, and how it is answered.

    Attributes:
        answer: of one request.
        polls: questions after a batch until it has ended.
        end: status and error code of the batch that is made next, instead of `completed`.
        create: what making a batch does: "ok", "drop" (taken, and the connection closed), "lose" (not taken, and
            closed), or an HTTP status.
        cuts: how many of the next files are cut on their way.
        on: told of every step by name, before it is answered.
    """

    answer: Answer = right
    polls: int = 2
    end: list[tuple[str, str]] = field(default_factory=list)
    create: list[str] = field(default_factory=list)
    cuts: int = 0
    on: Callable[[str], None] = lambda step: None
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    live: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def requests(self) -> list[str]:
        """The custom ids of all requests in batches that were taken and run: what is paid for."""
        return [line["custom_id"] for batch in self.batches.values() for line in batch["ran"]]

    def make(self, asked: dict[str, Any]) -> dict[str, Any]:
        status, code = self.end.pop(0) if self.end else ("completed", "")
        name = f"batch_{len(self.batches)}"
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert len(lines) <= 50_000
        assert len({line["custom_id"] for line in lines}) == len(lines)
        batch = {
            "id": name, "object": "batch", "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"],
            "completion_window": "24h", "status": "validating", "created_at": int(time.time()),
            "metadata": asked.get("metadata"),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        self.batches[name] = {
            "public": batch,
            "lines": lines,
            "left": self.polls,
            "end": status,
            "code": code,
            "ran": [],
        }
        return batch

    def poll(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        public: dict[str, Any] = batch["public"]
        if public["status"] in ("validating", "in_progress"):
            batch["left"] -= 1
            public["status"] = "in_progress"
            if batch["left"] < 0:
                self._finish(batch)
        return public

    def _finish(self, batch: dict[str, Any]) -> None:
        public, lines = batch["public"], batch["lines"]
        public["status"] = batch["end"]
        if batch["end"] == "failed":
            public["errors"] = {
                "object": "list",
                "data": [{"code": batch["code"], "message": f"said {batch['code']}"}],
            }
            return
        half = len(lines) if batch["end"] == "completed" else len(lines) // 2
        batch["ran"] = lines[:half]
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        for line in lines[:half]:
            answered = self.answer(line["body"])
            if answered is not None:
                ok = (answered.get("response") or {}).get("status_code") == 200
                (good if ok else bad).append({"id": "r", "custom_id": line["custom_id"], **answered})
        code = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(batch["end"])
        bad += [
            {
                "id": "r",
                "custom_id": line["custom_id"],
                "response": None,
                "error": {"code": code, "message": "late"},
            }
            for line in lines[half:]
        ]
        for kind, rows in (("output", good), ("error", bad)):
            if rows:
                file_id = f"file_{kind}_{public['id']}"
                # In any order, and with signs that some take for the ends of lines.
                rows.reverse()
                self.files[file_id] = b"".join(
                    json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows
                )
                public[f"{kind}_file_id"] = file_id
        public["request_counts"] |= {"completed": len(good), "failed": len(bad)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    batches: Batches

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        state, path = self.server.batches, self.path.partition("?")[0].removeprefix("/v1/")
        if path.startswith("files/"):
            state.on("content")
            state.cuts, cut = max(0, state.cuts - 1), state.cuts > 0
            self._reply(state.files[path.split("/")[1]], cut=cut)
        elif path == "batches":
            state.on("list")
            newest = [batch["public"] for batch in reversed(state.batches.values())]
            self._reply({"object": "list", "data": newest, "has_more": False})
        else:
            state.on("poll")
            name = path.split("/")[1]
            if name not in state.batches:
                self._reply({"error": {"message": f"No batch found with id '{name}'."}}, 404)
                return
            with state.lock:
                answer = json.dumps(state.poll(name)).encode()
            self._reply(answer)

    def do_POST(self) -> None:
        state = self.server.batches
        content = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.removeprefix("/v1/")
        if path == "files":
            state.on("upload")
            boundary = re.search("boundary=([^;]+)", self.headers["Content-Type"])
            assert boundary
            parts = content.split(b"--" + boundary[1].strip('"').encode())
            [data] = [part.partition(b"\r\n\r\n")[2][:-2] for part in parts if b'name="file"' in part]
            with state.lock:
                file_id = f"file_{len(state.files)}"
                state.files[file_id] = data
            self._reply(
                {
                    "id": file_id,
                    "object": "file",
                    "bytes": len(data),
                    "created_at": 0,
                    "filename": "b",
                    "purpose": "batch",
                    "status": "processed",
                }
            )
        elif path == "batches":
            how = state.create.pop(0) if state.create else "ok"
            if how.isdigit():
                self._reply({"error": {"message": f"no: {how}"}}, int(how))
                return
            with state.lock:
                batch = state.make(json.loads(content)) if how != "lose" else {}
            state.on("create")
            if how == "ok":
                self._reply(batch)
            else:
                self.close_connection = True
        else:
            with state.lock:
                state.live += 1
            state.on("live")
            self._reply(body("so \\boxed{7}"))

    def _reply(self, value: object, status: int = 200, *, cut: bool = False) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def serving_batches(batches: Batches) -> Iterator[Batches]:
    """Serve while the context is open; the URL is in `batches.url`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.batches = batches
    with listening(server) as batches.url:
        yield batches
