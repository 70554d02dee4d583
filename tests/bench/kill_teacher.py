"""Kill a run again and again, each time after a random number of requests, and compare it with an unbroken one.

    python -m tests.bench.kill_teacher --problems 1000 --kills 200

The server counts what it receives; what the journal holds after a kill must never be asked for again. Prints its
figures as JSON, and fails where an answer was lost or the tables differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.records import Kind, Problem
from diva_grpo.schemas.replies import Answer, Reply
from tests.support.endpoints import Endpoint, completion, serving
from tests.support.endpoints import Reply as HttpReply
from tests.support.sessions import generate, verify

SETTLED_S = 0.2
"""After a kill: requests on their way still arrive."""


class AnsweringEndpoint(Endpoint):
    """Answers by what it is asked, so that two runs can give equal tables."""

    def next(self, request: dict[str, Any], key: str | None) -> HttpReply:
        super().next(request, key)
        text = request["messages"][1]["content"]
        luck = random.Random(hashlib.sha256(text.encode()).digest())
        problem = re.search(r"Box \d+ holds (\d+) eggs", text)
        assert problem
        eggs = problem[1] if luck.random() < 0.9 else "no"  # some texts are rejected
        texts = [f"There are {eggs} eggs in it ({luck.random():.6f}). How many eggs are in 5?", "How many?"]
        return HttpReply(completion(json.dumps({"rewordings": texts})).body, delay_s=0.02)


class NoSolver:
    """Of no use here: the check that needs a model is left out."""

    model = "none"

    def solve(self, questions: Any, samples: int, progress: Any = None) -> list[list[Answer[Reply]]]:
        raise AssertionError("no check of this run asks a solver")


def problems(number: int) -> list[Problem]:
    """Problems that differ."""
    return [
        Problem(
            problem_id=f"eggs/{i:05d}",
            source="eggs",
            split="train",
            text=f"Box {i} holds {i + 2} eggs. How many eggs are in 5 such boxes?",
            answer=str(5 * (i + 2)),
        )
        for i in range(number)
    ]


def run(store_dir: str, url: str, concurrency: int) -> None:
    """What is killed: generate and verify."""
    store = VariantStore(Path(store_dir))
    teacher = TeacherConfig(
        model="m", base_url=url, endpoint="test", concurrency=concurrency, output_mode="json_schema"
    )
    generate(store, teacher, GenerateConfig(kinds=(Kind.REWORD,), rewordings=2))
    verify(store, NoSolver(), VerifyConfig(checks=("format", "leak", "duplicate")))


def tables(store: VariantStore) -> dict[str, list[Any]]:
    """All that must be equal, without times."""
    return {
        "variants": store.query("SELECT * EXCLUDE (created_at) FROM variants ORDER BY variant_id"),
        "verdicts": store.query(
            "SELECT * EXCLUDE (created_at) FROM verdicts ORDER BY variant_id, check_name, model, sample"
        ),
        "calls": store.query(
            "SELECT * EXCLUDE (created_at, latency_s) FROM calls WHERE outcome = 'ok' ORDER BY request_hash"
        ),
    }


def durable(store: VariantStore) -> set[str]:
    """Problems whose answer the journal holds."""
    path = store.root / "journal.sqlite"
    if not path.exists():
        return set()
    with sqlite3.connect(path) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'entries'").fetchone():
            return set()  # killed while it was made
        return {row[0] for row in connection.execute("SELECT problem_id FROM entries WHERE outcome = 'ok'")}


def asked_for(requests: list[dict[str, Any]]) -> list[str]:
    """The problems that requests are about, by number in their text."""
    numbers = (re.search(r"Box (\d+) holds", request["messages"][1]["content"]) for request in requests)
    return [f"eggs/{int(number[1]):05d}" for number in numbers if number]


def kill_and_compare(number: int, kills: int, concurrency: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run to the end with `kills` kills on the way.

    Returns:
        Figures: requests received and allowed, answers lost, problems without a terminal status, and whether
        the tables are equal.
    """
    luck = random.Random(seed)
    stores = [VariantStore(folder / name, create=True) for name in ("unbroken", "killed")]
    for store in stores:
        store.append(problems(number))
    unbroken, killed = stores
    started, done, lost, most_in_flight = time.monotonic(), 0, 0, 0
    with serving(AnsweringEndpoint()) as endpoint:
        run(str(unbroken.root), endpoint.url, concurrency)
        needed = len(endpoint.requests)
        endpoint.requests.clear()
        command = [sys.executable, "-m", "tests.bench.kill_teacher", "--run", str(killed.root), endpoint.url]
        command.append(str(concurrency))
        while True:
            kept, before = durable(killed), len(endpoint.requests)
            # So that the last kill comes before the last request.
            most = max(1, 2 * (number - len(kept)) // (kills - done) if done < kills else 1)
            after = luck.randint(1, min(most, 20))
            process = subprocess.Popen(command)
            while process.poll() is None and (done == kills or len(endpoint.requests) < before + after):
                time.sleep(0.002)
            if process.poll() is None:
                process.kill()
                done += 1
            code = process.wait()
            time.sleep(SETTLED_S)
            again = kept & set(asked_for(endpoint.requests[before:]))
            lost += len(again)
            if code == 0:
                break
            assert code == -9, f"the run ended with {code}"
            unkept = len(endpoint.requests) - before - len(durable(killed) - kept)
            most_in_flight = max(most_in_flight, unkept)
    unsettled = killed.query(
        "SELECT count(*) FROM problems WHERE problem_id NOT IN (SELECT problem_id FROM variants) "
        "OR problem_id IN (SELECT problem_id FROM variants WHERE status = 'candidate')"
    )[0][0]
    first, second = tables(unbroken), tables(killed)
    return {
        "kills": done,
        "requests needed": needed,
        "requests received": len(endpoint.requests),
        "requests allowed": needed + concurrency * done,
        "most answers not kept at a kill": most_in_flight,
        "durable answers asked for again": lost,
        "problems without a terminal status": unsettled,
        "rows": {name: len(rows) for name, rows in second.items()},
        "tables that differ": [name for name in first if first[name] != second[name]],
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        store_dir, url, concurrency = given.run
        run(store_dir, url, int(concurrency))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = kill_and_compare(given.problems, given.kills, given.concurrency, given.seed, Path(folder))
    print(json.dumps(figures, indent=2))
    if figures["durable answers asked for again"] or figures["tables that differ"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
