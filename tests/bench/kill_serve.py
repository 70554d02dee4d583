"""A `diva serve` every 20 seconds for hours, with random kills of its server, of the run at work and of itself.

    python -m tests.bench.kill_serve --minutes 120 --out serve.json

New problems come all the time. Prints, as JSON, the runs that were due by how they ended and why, what was paid
twice, and the size of Prefect's database. Fails where a run is left at work, a problem was not done, or more was paid
twice than was in flight at the kills.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from diva_grpo.pipeline.store import VariantStore
from tests.support.prefect_processes import (
    all_end,
    counted_teacher,
    free_port,
    hear_interrupts,
    home_with_database,
    marbles,
    of_home,
    processes_of,
    until,
)

CONCURRENCY = 4
NEW_EVERY_S, NEW = 20.0, 3
"""How many problems come how often."""
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Serve:
    """A `diva serve` that can be killed, and asked."""

    def __init__(self, home: Path, file: Path, log: Path) -> None:
        self.home, self.file, self.log, self.port = home, file, log, free_port()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from diva_grpo.flows.cli import main; main()", "serve"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*command, str(self.file), "--port", str(self.port)],
                env=of_home(self.home),
                stdout=log,
                stderr=log,
                preexec_fn=hear_interrupts,
            )

    def kill(self, what: str) -> bool:
        """Kill `serve` itself (it is started again), its `server`, or the `run` at work; False where there is none."""
        if what == "serve":
            self.process.kill()
            self.process.wait()
            all_end(self.home, "run and server end with their serve")
            self.process = self._start()
            return True
        part = "server.py" if what == "server" else "prefect.engine"
        found = [p for p in processes_of(self.home) if part in " ".join(p.cmdline())]
        for process in found[:1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return bool(found)

    def runs(self) -> list[dict[str, Any]]:
        """All runs that the server knows; none while it is down."""
        found: list[dict[str, Any]] = []
        try:
            user, _, password = (
                (self.home / f"diva-serve-{self.port}.auth").read_text().strip().partition(":")
            )
            with httpx.Client(auth=(user, password), timeout=60) as client:
                while True:
                    body = {"limit": 200, "offset": len(found), "sort": "EXPECTED_START_TIME_ASC"}
                    url = f"http://127.0.0.1:{self.port}/api/flow_runs/filter"
                    page = client.post(url, json=body).raise_for_status().json()
                    found += page
                    if len(page) < 200:
                        return found
        except (httpx.HTTPError, FileNotFoundError):
            return []

    def megabytes(self) -> float:
        """Of Prefect's database."""
        return sum(file.stat().st_size for file in self.home.glob("prefect.db*")) / 1e6

    def stop(self) -> int:
        """End it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)


def walk(serve: Serve, minutes: float, seed: int, every_s: float, append: Callable[[], None]) -> Counter[str]:
    """Kill at random while problems come; returns how often what was killed."""
    rng, kills = random.Random(seed), Counter[str]()
    ends = time.monotonic() + 60 * minutes
    next_kill, next_new = time.monotonic() + 60, 0.0
    while (now := time.monotonic()) < ends:
        if now >= next_new:
            append()
            next_new = now + NEW_EVERY_S
        if now >= next_kill:
            what = rng.choice(("serve", "server", "run", "run"))
            if serve.kill(what):
                kills[what] += 1
                print(f"{minutes - (ends - now) / 60:6.1f} min: killed {what}", flush=True)
                next_kill = now + rng.uniform(0.5, 1.5) * every_s
        time.sleep(0.5)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--kill-every-s", type=float, default=60.0, help="Mean time between kills; 0: none.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    all_problems = marbles("w", range(3, 3 + NEW * int(3 + options.minutes * 60 / NEW_EVERY_S)))
    waiting = iter(all_problems)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        counted_teacher(all_problems, delay_s=0.05) as teacher,
    ):
        folder = Path(name)
        store = VariantStore(folder / "store", create=True)
        homes = home_with_database(folder / "prefect")
        home = next(homes)
        parameters = {
            "store": str(store.root),
            "teacher": {
                "model": "scripted-teacher",
                "base_url": teacher.url,
                "endpoint": "test",
                "concurrency": CONCURRENCY,
            },
            "label": {"samples": 2},
            "shard_size": 2,
        }
        served = {"name": "often", "flow": "curate", "interval": "20s", "parameters": parameters}
        file = folder / "serve.yaml"
        file.write_text(yaml.safe_dump({"deployments": [served]}))
        appended: list[str] = []

        def append() -> None:
            new = [next(waiting) for _ in range(NEW)]
            store.append(new)
            appended.extend(problem.problem_id for problem in new)

        began_mb, serve = 0.0, Serve(home, file, folder / "log")
        began_mb = serve.megabytes()
        kills = walk(serve, options.minutes, options.seed, options.kill_every_s or 1e9, append)

        def done() -> set[str]:
            rows = store.query("SELECT DISTINCT problem_id FROM variants WHERE status = 'accepted'")
            return {problem_id for (problem_id,) in rows}

        until(lambda: done() >= set(appended), 900, "what came last is done")
        at_end = time.time()
        until(lambda: serve.runs(), 120, "the server answers")
        runs = [run for run in serve.runs() if run["state_type"] != "SCHEDULED"]
        by_state = Counter(run["state_type"] for run in runs)
        why = Counter(
            f"{run['state_type']}: {str(run['state']['message'] or '')[:90]}"
            for run in runs
            if run["state_type"] != "COMPLETED"
        )
        code = serve.stop()
        left = Counter(run for run in by_state if run not in ENDS)
        figures = {
            "minutes": options.minutes,
            "kills": dict(kills),
            "runs_due": len(runs),
            "by_state": dict(by_state),
            "why": dict(why),
            "problems": len(appended),
            "requests": teacher.asked.total(),
            "paid_twice": teacher.twice,
            "in_flight_at_kills": CONCURRENCY * (kills["run"] + kills["serve"]),
            "database_mb": [round(began_mb, 2), round(serve.megabytes(), 2)],
            "mb_a_run": round((serve.megabytes() - began_mb) / max(1, len(runs)), 4),
            "exit_code": code,
            "seconds_after_the_end": round(time.time() - at_end, 1),
            "processes_left": len(processes_of(home)),
        }
        text = json.dumps(figures, indent=2)
        print(text)
        if options.out:
            options.out.write_text(text + "\n")
        if code:
            print((folder / "log").read_text()[-3000:])
        assert figures["paid_twice"] <= figures["in_flight_at_kills"], "paid twice beyond what was in flight"
        assert sum(left.values()) <= 1, f"left at work: {left}"  # the run that works when it ends
        assert figures["processes_left"] == 0
        next(homes, None)


if __name__ == "__main__":
    main()
