"""Make the testbed's runs: warm models, stores, and what the plan has left to do.

python -m tests.bench.convergence --out runs/convergence             everything, hours on two cores
python -m tests.bench.convergence --out runs/convergence --short     two seeds and few steps, ten minutes

It may be killed at any time: the same command goes on, and a run that was cut short starts again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.bench.convergence.contenders import GENERATIONS, ROLLOUTS
from tests.bench.convergence.plan import FULL, GROUPS, SHORT, stage, undone
from tests.bench.convergence.preconditions import told
from tests.bench.convergence.run import RunSpec, prepare, train_run
from tests.bench.convergence.tasks import TASKS

NICENESS = 10


class FailedError(Exception):
    """Some runs came to nothing."""


def in_processes(
    work: Callable[..., None], jobs: Iterable[tuple[str, tuple[Any, ...]]], at_once: int
) -> None:
    """Do jobs in processes of their own, a few at once, and print how they go.

    Args:
        work: does one.
        jobs: a name and the arguments of each.
        at_once: how many processes.

    Raises:
        FailedError: a process ended with an error; the others were done all the same.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.bench.convergence.run"])  # torch and TRL are imported once
    waiting, all_jobs = list(jobs), 0
    all_jobs = len(waiting)
    running: dict[int, tuple[str, float, BaseProcess]] = {}
    failed: list[str] = []
    while waiting or running:
        while waiting and len(running) < at_once:
            name, arguments = waiting.pop(0)
            process = context.Process(target=work, args=arguments, name=name)
            process.start()
            running[process.sentinel] = (name, time.monotonic(), process)
        for sentinel in wait(list(running)):
            assert isinstance(sentinel, int)
            name, began, ended = running.pop(sentinel)
            ended.join()
            outcome = "done" if ended.exitcode == 0 else f"failed with {ended.exitcode}"
            failed += [name] if ended.exitcode else []
            left = len(waiting) + len(running)
            print(f"{time.strftime('%H:%M:%S')} {name}: {outcome} in {time.monotonic() - began:.0f} s, "
                  f"{left} of {all_jobs} left", flush=True)  # fmt: skip
    if failed:
        raise FailedError(f"{len(failed)} failed: {', '.join(failed)}")


def _jobs(out: Path, runs: Iterable[RunSpec]) -> list[tuple[str, tuple[Path, RunSpec]]]:
    return [(f"{run.task}/{run.run_id}", (out, run)) for run in runs]


def main() -> None:
    """Read the command line, and work."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.convergence",
        description="Train the contenders on the testbed; what is done is not done again.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of models, stores and runs")
    parser.add_argument("--short", action="store_true", help="two seeds and few steps")
    parser.add_argument("--at-once", type=int, default=2, help="runs at once, a core each (default: 2)")
    parser.add_argument("--only", default="grid,main,ablation", help=f"groups of runs, of {','.join(GROUPS)}")
    arguments = parser.parse_args()
    groups = [group for group in GROUPS if group in arguments.only.split(",")]
    if not groups:
        parser.error(f"--only {arguments.only}: choose among {','.join(GROUPS)}")
    out, size = arguments.out.resolve(), SHORT if arguments.short else FULL
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.nice(max(0, NICENESS - os.nice(0)))  # never in the way of others
    try:
        in_processes(prepare, [(f"{name}: make ready", (out, name)) for name in TASKS], arguments.at_once)
        for name in TASKS:
            print(told(out / name, size.steps, ROLLOUTS // GENERATIONS), flush=True)
        print(f"learning rates: {', '.join(f'{rate:g}' for rate in size.rates)}", flush=True)
        for group in groups:
            # The grid goes on where its best is at an edge: what is left is known when what there was is done.
            while left := undone(out, stage(group, size, out)):
                print(f"{group}: {len(left)} runs", flush=True)
                in_processes(train_run, _jobs(out, left), arguments.at_once)
    except FailedError as failure:
        parser.exit(1, f"{failure}\n")


if __name__ == "__main__":
    main()
