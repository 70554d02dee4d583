"""How much of an endpoint's requests a minute the teacher uses, told of them or not; and what it makes of faults.

    python -m tests.bench.rate_teacher --per-minute 1200 --minutes 3
    python -m tests.bench.rate_teacher --per-minute 1200 --minutes 2 --told
    python -m tests.bench.rate_teacher --faults 300

The endpoint lets so many requests through in any 60 seconds and answers 429 to the others. Prints figures as JSON,
from the endpoint's own counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.replies import Rewordings
from tests.bench.fast_endpoint import counts_of, fast_endpoint
from tests.support.sessions import ask


async def _ask(number: int, teacher: Teacher) -> str:
    values: dict[str, object] = {"problem": f"What is {number} + 1?", "count": 2, "existing": ""}
    answer = await teacher.ask(
        load_prompt("reword"), values, purpose="bench", problem_id=str(number), shape=Rewordings
    )
    return "ok" if answer.failure is None else answer.failure.split(":")[0]


def outcomes(url: str, requests: int, folder: Path, **settings: Any) -> tuple[Counter[str], VariantStore]:
    """Ask so many requests; what came of them, and the store with the ledger."""
    store = VariantStore(folder / "store", create=True)
    config = TeacherConfig(model="m", base_url=url, **settings)
    return Counter(ask(store, config, [partial(_ask, i) for i in range(requests)])), store


def rate(
    per_minute: int, minutes: int, *, told: bool, retry_after: bool, delay: float, folder: Path
) -> dict[str, Any]:
    """Send `minutes` times what a minute allows."""
    options = ["--delay", str(delay), "--per-minute", str(per_minute)] + ["--retry-after"] * retry_after
    with fast_endpoint(*options) as url:
        known = {"requests_per_minute": per_minute} if told else {}
        started = time.monotonic()
        done, _ = outcomes(url, per_minute * minutes, folder, concurrency=64, **known)
        seconds = time.monotonic() - started
        counts = counts_of(url)
    by_second = Counter({int(second): n for second, n in counts["by_second"].items()})
    first, last = min(by_second), max(by_second)
    start = first if told else first + 60
    taken = sum(n for second, n in by_second.items() if start <= second < last)
    return {
        "allowed a minute": per_minute,
        "told": told,
        "Retry-After": retry_after,
        "seconds": round(seconds),
        "outcomes": done,
        "share used" + ("" if told else " after a minute"): round(
            taken / (last - start) / per_minute * 60, 3
        ),
        "share of 429s": round(counts.get("429", 0) / counts["requests"], 4),
    }


def faults(requests: int, folder: Path, **settings: Any) -> dict[str, Any]:
    """Ask an endpoint that fails in all ways."""
    with fast_endpoint("--delay", "0.05", "--faults") as url:
        started = time.monotonic()
        done, store = outcomes(url, requests, folder, **{"concurrency": 32, "timeout_s": 1.0} | settings)
        counts = counts_of(url) | {"by_second": None, "spans": None}
    ledger = store.query("SELECT outcome, count(*) FROM calls GROUP BY ALL")
    return {
        "requested": requests,
        "outcomes": done,
        "sum": done.total(),
        "in the ledger": dict(ledger),
        "faults": counts,
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--per-minute", type=int, default=1200)
    parser.add_argument("--minutes", type=int, default=3, help="of requests")
    parser.add_argument("--told", action="store_true", help="the teacher knows the rate")
    parser.add_argument("--retry-after", action="store_true", help="429s say when to come back")
    parser.add_argument("--delay", type=float, default=0.5, help="seconds until an answer")
    parser.add_argument(
        "--faults", type=int, metavar="REQUESTS", help="an endpoint that fails in all ways instead"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.faults:
            figures = faults(given.faults, Path(folder))
        else:
            figures = rate(
                given.per_minute,
                given.minutes,
                told=given.told,
                retry_after=given.retry_after,
                delay=given.delay,
                folder=Path(folder),
            )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
