"""The teacher against the bare `openai` client, by turns on one endpoint; and its memory as a run grows.

    python -m tests.bench.bench_teacher --requests 2000 --rounds 3
    python -m tests.bench.bench_teacher --memory 1000 10000

The bare client sends the same requests and throws the answers away; the teacher commits each to the journal, and
writes the ledger. `--at-once` are the concurrencies that both try; the best of each is compared. Figures depend on
what else the machine does, so each round runs both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import openai

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.replies import Rewordings
from tests.bench.fast_endpoint import fast_endpoint
from tests.support.sessions import ask

QUESTION = "Tom has 3 apples. He buys 4 more, and gives each of his 7 friends one. How many has he now? "


async def _ask(number: int, teacher: Teacher) -> bool:
    values: dict[str, object] = {"problem": f"{QUESTION} ({number})", "count": 2, "existing": ""}
    answer = await teacher.ask(
        load_prompt("reword"), values, purpose="bench", problem_id=str(number), shape=Rewordings
    )
    return answer.failure is None


def ours(url: str, requests: int, at_once: int) -> float:
    """Requests a second through the teacher, journal and ledger included."""
    with tempfile.TemporaryDirectory() as folder:
        store = VariantStore(Path(folder) / "store", create=True)
        config = TeacherConfig(model="m", base_url=url, concurrency=at_once)
        started = time.perf_counter()
        assert all(ask(store, config, [partial(_ask, i) for i in range(requests)]))
        return requests / (time.perf_counter() - started)


def bare(url: str, requests: int, at_once: int) -> float:
    """Requests a second through the bare client."""
    prompt = load_prompt("reword")
    wanted: Any = {"name": "Rewordings", "schema": Rewordings.model_json_schema(), "strict": True}

    async def run() -> float:
        async with openai.AsyncOpenAI(api_key="none", base_url=url) as client:
            numbers = iter(range(requests))

            async def worker() -> None:
                for number in numbers:
                    text = prompt.fill(problem=f"{QUESTION} ({number})", count=2, existing="")
                    messages: Any = [
                        {"role": "system", "content": prompt.system},
                        {"role": "user", "content": text},
                    ]
                    await client.chat.completions.create(
                        model="m",
                        messages=messages,
                        temperature=1.0,
                        max_tokens=2048,
                        seed=0,
                        response_format={"type": "json_schema", "json_schema": wanted},
                    )

            started = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(at_once)))
            return requests / (time.perf_counter() - started)

    return asyncio.run(run())


def compare(requests: int, rounds: int, at_once: list[int], delay: float) -> None:
    """Print rates by concurrency, and the ratio of the best."""
    rates: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    with fast_endpoint("--delay", str(delay)) as url:
        for _ in range(rounds):
            for number in at_once:
                rates["bare", number].append(bare(url, requests, number))
                rates["ours", number].append(ours(url, requests, number))
                print(
                    *(f"{who} {number}: {rates[who, number][-1]:.0f}/s" for who in ("bare", "ours")),
                    flush=True,
                )
    best = {who: max((median(rates[who, n]), n) for n in at_once) for who in ("bare", "ours")}
    for who, (rate, number) in best.items():
        print(f"{who}: best median {rate:.0f} requests/s, at {number} at once")
    print(f"ours / bare: {best['ours'][0] / best['bare'][0]:.2f}")


def memory(sizes: list[int], at_once: int) -> None:
    """Print the peak memory of a process for each size of a run."""
    with fast_endpoint("--delay", "0.02") as url:
        for size in sizes:
            command = [
                sys.executable,
                "-m",
                "tests.bench.bench_teacher",
                "--one",
                url,
                str(size),
                str(at_once),
            ]
            print(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--delay", type=float, default=0.2, help="seconds until an answer")
    parser.add_argument("--memory", type=int, nargs="+", metavar="REQUESTS", help="memory instead of rates")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        url, size, at_once = given.one
        rate = ours(url, int(size), int(at_once))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"requests": int(size), "peak MiB": round(peak), "a second": round(rate)}))
    elif given.memory:
        memory(given.memory, given.at_once[0])
    else:
        compare(given.requests, given.rounds, given.at_once, given.delay)


if __name__ == "__main__":
    main()
