"""An OpenAI-compatible endpoint that costs little: for rates that `tests/support/endpoints.py` cannot reach.

It answers after a set time, counts, limits requests a minute, and fails in a set share of them.

    python -m tests.bench.fast_endpoint --delay 0.2

prints its URL and serves until its standard input is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NUMBER = "NUMBER"
CONTENT = f'{{"rewordings": ["one {_NUMBER}", "two {_NUMBER}"]}}'
"""An answer; each has a number of its own, since the same text would be solved only once."""

FAULTS = {
    "429 with Retry-After": 0.1,
    "429 without": 0.1,
    "5xx": 0.05,
    "hang": 0.05,
    "cut JSON": 0.02,
    "refusal": 0.02,
    "garbage": 0.01,
}
"""Shares of requests, with `--faults`."""


def _body(content: str | None, **message: Any) -> bytes:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": content, **message},
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
                       "usage": usage}).encode()  # fmt: skip


class Behaviour:
    """What all connections share.

    Args:
        delay_s: until an answer.
        per_minute: requests that are let through in any minute; the others get 429.
        retry_after: whether a 429 says when to come back.
        faults: whether requests fail in the shares of `FAULTS`.
        seed: of the faults and the latencies.
        latency: how the delays are spread about their mean: constant, exponential, or log-normal with sigma 1.
    """

    def __init__(
        self,
        delay_s: float = 0.0,
        per_minute: int | None = None,
        retry_after: bool = False,
        faults: bool = False,
        seed: int = 0,
        latency: str = "constant",
    ) -> None:
        self.delay_s, self.per_minute, self.retry_after, self.faults = (
            delay_s,
            per_minute,
            retry_after,
            faults,
        )
        self.counts: Counter[str] = Counter()
        self.by_second: Counter[int] = Counter()
        self._let_through: deque[float] = deque()
        self._latency = latency
        self.spans: list[tuple[float, float]] = []
        """Of requests whose delays are drawn: when each came, in seconds, and how long it took."""
        self._luck = random.Random(seed)
        self._answer, self._solved = _body(CONTENT), _body("\\boxed{7}")
        self._started = time.monotonic()

    def _drawn_s(self, now: float) -> float:
        """Seconds until an answer."""
        if self._latency == "constant":
            delay = self.delay_s
        elif self._latency == "exponential":
            delay = self._luck.expovariate(1 / self.delay_s)
        else:
            delay = self._luck.lognormvariate(math.log(self.delay_s) - 0.5, 1.0)
        self.spans.append((now - self._started, delay))
        return delay

    def reply(self, request: bytes) -> tuple[int, bytes, dict[str, str], float]:
        """Status, body, headers and seconds until the next reply."""
        self.counts["requests"] += 1
        now = time.monotonic()
        if self.per_minute is not None:
            while self._let_through and self._let_through[0] <= now - 60:
                self._let_through.popleft()
            if len(self._let_through) >= self.per_minute:
                wait = self._let_through[0] + 60 - now
                return self._limited({"retry-after": f"{wait:.3f}"} if self.retry_after else {})
            self._let_through.append(now)
        if self.faults:
            fault = self._luck.choices([*FAULTS, "none"], [*FAULTS.values(), 1 - sum(FAULTS.values())])[0]
            self.counts[fault] += 1
            if fault.startswith("429"):
                return self._limited({"retry-after": "0.05"} if "with R" in fault else {})
            if fault == "5xx":
                return 503, b"oops", {}, self.delay_s
            if fault == "hang":
                return 200, self._answer, {}, 1e6
            if fault == "cut JSON":
                return 200, _body(CONTENT[:17]), {}, self.delay_s
            if fault == "refusal":
                return 200, _body(None, refusal="I cannot"), {}, self.delay_s
            if fault == "garbage":
                return 200, bytes(range(256)), {}, self.delay_s
        self.counts["answers"] += 1
        self.by_second[int(now - self._started)] += 1
        numbered = self._answer.replace(_NUMBER.encode(), b"%d" % self.counts["answers"])
        answer = numbered if b"json_schema" in request else self._solved
        return 200, answer, {}, self._drawn_s(now)

    def _limited(self, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str], float]:
        self.counts["429"] += 1
        return 429, b'{"error": {"message": "slow down"}}', headers, 0.0


class _Connection(asyncio.Protocol):
    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour, self._received = behaviour, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        line, *headers = head.decode("latin-1").split("\r\n")
        values = {name.lower(): value for name, _, value in (header.partition(": ") for header in headers)}
        if len(rest) < (length := int(values.get("content-length", 0))):
            return
        self._received = rest[length:]
        if line.startswith("GET"):
            counts: dict[str, object] = {**self._behaviour.counts, "by_second": self._behaviour.by_second}
            counts["spans"] = self._behaviour.spans
            self._send(200, json.dumps(counts).encode(), {})
            return
        status, body, more, delay_s = self._behaviour.reply(rest[:length])
        asyncio.get_running_loop().call_later(delay_s, self._send, status, body, more)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        if self._transport.is_closing():
            return
        lines = [f"HTTP/1.1 {status} -", "content-type: application/json", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)


async def _serve(behaviour: Behaviour) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(behaviour), "127.0.0.1", 0, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def fast_endpoint(*options: str) -> Iterator[str]:
    """Serve in a process of its own while the context is open; yields the URL."""
    command = [sys.executable, "-m", "tests.bench.fast_endpoint", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def counts_of(url: str) -> dict[str, Any]:
    """What an endpoint has counted."""
    with urllib.request.urlopen(url) as response:
        counts: dict[str, Any] = json.load(response)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delay", type=float, default=0.2, help="seconds until an answer")
    parser.add_argument("--per-minute", type=int, help="requests let through in any minute")
    parser.add_argument("--retry-after", action="store_true", help="429s say when to come back")
    parser.add_argument("--faults", action="store_true", help="fail in set shares of the requests")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and the latencies")
    parser.add_argument("--latency", default="constant", choices=["constant", "exponential", "lognormal"])
    given = parser.parse_args()
    behaviour = Behaviour(
        given.delay, given.per_minute, given.retry_after, given.faults, given.seed, given.latency
    )
    asyncio.run(_serve(behaviour))


if __name__ == "__main__":
    main()
