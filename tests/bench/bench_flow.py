"""What Prefect costs: one flow over many problems, against a local endpoint that fails at times.

    python tests/bench/bench_flow.py --problems 10000 --error-share 0.02
    python tests/bench/bench_flow.py --problems 1000 --plain 1000

Its share is stated as an upper bound: what the flow spends outside of its shards' work, by the clock, and all that
Prefect's threads and its server compute meanwhile, whether or not anything waits for it; each over the time from the
first shard's start to the flow's end. Start-up is stated apart. `--plain` does so many more problems by the functions
of `pipeline` alone, and compares the CPU time a problem. The endpoint is a process of its own, as is the server.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from tabulate import tabulate

from diva_grpo.flows.runs import curate as module
from diva_grpo.flows.runs import shards
from diva_grpo.flows.runs.server import prefect_api
from diva_grpo.flows.runs.shards import Order, ShardDone
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Stages, curate
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.schemas.config import CurateConfig, GenerateConfig, LabelConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.records import Kind, Problem, utc_now

NAMES = "Ann Ben Cem Dora Emil Fay Gus Hana Ivo June Kim Leo Mia Noor Olga Paul Quinn Rosa Sam Tia".split()
THINGS = "apples books coins drums eggs forks games hats inks jars kites lamps maps nuts oars pens".split()


def problems(number: int) -> list[Problem]:
    """Word problems with two steps, all different."""
    rng = random.Random(0)
    made = []
    for i in range(number):
        name, thing, price = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 99)
        made.append(
            Problem(
                problem_id=f"bench/{i:06d}",
                source="bench",
                split="train",
                text=f"{name} has {i + 10} {thing} and buys {price} more. How many {thing} has {name} now?",
                answer=str(i + 10 + price),
                solution_steps=[f"{i + 10} at first.", f"{i + 10} + {price} = {i + 10 + price}"],
            )
        )
    return made


@contextlib.contextmanager
def teacher_of(store: Path, error_share: float) -> Iterator[str]:
    """The URL of a scripted teacher in a process of its own."""
    command = [
        sys.executable,
        "-c",
        "from diva_grpo.flows.cli import main; main()",
        "teacher",
        "--store",
        str(store),
    ]
    command += ["--port", "0", "--wrong-share", "0.05", "--error-share", str(error_share)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        try:
            yield re.findall(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.terminate()


@dataclass
class Watch:
    """Looks at the shards from outside.

    Attributes:
        every: problems between two lines about memory.
        began: of each shard, on the clock.
        worked_s: seconds within the shards' work.
        done: problems.
        cpu_s: CPU seconds of this process at the first shard, and at the end.
        server_s: those of Prefect's server.
        threads_s: those of Prefect's threads in this process.
    """

    every: int
    began: list[float] = field(default_factory=list)
    worked_s: float = 0.0
    done: int = 0
    cpu_s: list[float] = field(default_factory=list)
    server_s: list[float] = field(default_factory=list)
    threads_s: list[float] = field(default_factory=list)

    def watched(self, worked: Callable[..., ShardDone]) -> Callable[..., ShardDone]:
        """`worked`, observed."""

        def observed(config: CurateConfig, order: Order, *rest: Any) -> ShardDone:
            if not self.began:
                self.look()
            self.began.append(time.monotonic())
            done = worked(config, order, *rest)
            self.worked_s += time.monotonic() - self.began[-1]
            before, self.done = self.done, self.done + len(order.problem_ids)
            if before // self.every < self.done // self.every:
                self._memory()
            return done

        return observed

    def look(self) -> None:
        """Note what has been computed until now, by this process, Prefect's threads in it, and its server."""
        self.cpu_s.append(time.process_time())
        self.server_s.append(sum(sum(server.cpu_times()[:2]) for server in _servers()))
        prefects = {t.native_id for t in threading.enumerate() if t.name in PREFECTS_THREADS}
        seen = {t.id: t.user_time + t.system_time for t in psutil.Process().threads()}
        self.threads_s.append(sum(seconds for thread, seconds in seen.items() if thread in prefects))

    def _memory(self) -> None:
        own = psutil.Process().memory_info().rss / 2**20
        servers = sum(server.memory_info().rss for server in _servers()) / 2**20
        print(f"{self.done:6d} problems: {own:5.0f} MiB, server {servers:4.0f} MiB", flush=True)


PREFECTS_THREADS = {"GlobalEventLoopThread", "RunSyncEventLoopThread", "EventsWorker", "APILogWorkerThread"}


def _servers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if any("server.py" in word for word in p.cmdline())]


def configured(store: Path, url: str, concurrency: int) -> CurateConfig:
    """All stages, one request a question."""
    return CurateConfig(
        store=store,
        teacher=TeacherConfig(
            model="scripted-teacher", base_url=url, endpoint="bench", concurrency=concurrency
        ),
        generate=GenerateConfig(kinds=(Kind.REWORD,), rewordings=1),
        verify=VerifyConfig(solver_samples=1),
        label=LabelConfig(samples=1),
    )


def by_flow(config: CurateConfig, every: int) -> dict[str, object]:
    """Figures of the flow."""
    watch, started, since = Watch(every), time.monotonic(), utc_now().isoformat()
    worked = shards.worked
    vars(module)["worked"] = watch.watched(worked)
    url = prefect_api()
    try:
        counts = module.curate(config)
        ended = time.monotonic()
        watch.look()
    finally:
        vars(module)["worked"] = worked
    of_flow = {"flow_runs": {"start_time": {"after_": since}}}
    tasks = httpx.post(f"{url}/task_runs/count", json=of_flow, timeout=60).raise_for_status().json()
    span = ended - watch.began[0]
    outside = span - watch.worked_s
    threads, server = (ends[1] - ends[0] for ends in (watch.threads_s, watch.server_s))
    return {
        "problems": watch.done,
        "generated": counts["generated"],
        "verified": counts["verified"],
        "labelled": counts["labelled"],
        "tasks, shards": f"{tasks}, {len(watch.began)}",
        "start-up, s": round(watch.began[0] - started, 1),
        "from the first shard's start to the flow's end, s": round(span, 1),
        "outside of shards, s": f"{outside:.2f}  ({outside / span:.2%})",
        "CPU of Prefect's threads, s": f"{threads:.2f}  ({threads / span:.2%})",
        "CPU of its server, s": f"{server:.2f}  ({server / span:.2%})",
        "Prefect's share at most": f"{(outside + threads + server) / span:.2%}",
        "CPU a problem, ms": round((watch.cpu_s[1] - watch.cpu_s[0]) / watch.done * 1000, 2),
    }


def by_functions(config: CurateConfig) -> dict[str, object]:
    """Figures of the same work without Prefect, shard by shard."""
    store = VariantStore(config.store)
    ids = [problem.problem_id for problem in store.problems()]
    meter = Meter("problems", len(ids))
    with store.run("curate", config.model_dump_json(), config.teacher.model):
        started, cpu = time.monotonic(), time.process_time()
        with Session(store, config.teacher, meter=meter, began_ns=time.time_ns()) as session:
            curate(session, Stages.of(config), shard_size=config.shard_size)
    spent = time.process_time() - cpu
    return {
        "plain functions, problems": len(ids),
        "plain functions, s": round(time.monotonic() - started, 1),
        "plain functions, CPU a problem, ms": round(spent / len(ids) * 1000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument(
        "--plain", type=int, default=0, help="problems that are done without Prefect, for comparison"
    )
    parser.add_argument("--error-share", type=float, default=0.02, help="429s and 503s of the endpoint")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--every", type=int, default=1000, help="problems between two lines about memory")
    options = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, object] = {}
        for name, number in (("flow", options.problems), ("plain", options.plain)):
            if not number:
                continue
            root = Path(folder) / name
            VariantStore(root, create=True).append(problems(number))
            with teacher_of(root, options.error_share) as url:
                config = configured(root, url, options.concurrency)
                figures |= by_flow(config, options.every) if name == "flow" else by_functions(config)
    print(tabulate(figures.items(), tablefmt="plain"))


if __name__ == "__main__":
    main()
