"""Make the runs of the testbed `lock`, and the page of what they show.

python -m tests.bench.lock --out runs/lock                          all arms, lengths and seeds
python -m tests.bench.lock --out runs/lock --lengths 8 --arms grpo,signal,uniform --seeds 2
python -m tests.bench.lock --out runs/lock --results tests/bench/lock/results      keep the figures there

It may be killed at any time: what is done stays, and a run that was cut short starts again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from tests.bench.lock.run import ARMS, Spec, prepare, train_run
from tests.bench.lock.summary import RESULTS, collect, page
from tests.bench.processes import FailedError, in_processes

RUN = "tests.bench.lock.run"


def main() -> None:
    """Read the command line, and work."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lock", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of models, stores and runs")
    parser.add_argument("--lengths", default="8,2,4", help="steps of a problem (default: 8,2,4)")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {','.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1 (default: 5)")
    parser.add_argument("--at-once", type=int, default=2, help="runs at once, a core each (default: 2)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="of the training (default: cpu)"
    )
    parser.add_argument(
        "--until", type=float, help="start no stage after so many seconds; the same command goes on"
    )
    parser.add_argument("--results", type=Path, help="write figures and page into this folder")
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.lengths.split(",")]
    seeds = range(1, arguments.seeds + 1)
    out, device, began = arguments.out.resolve(), arguments.device, time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        ready = [(f"L{n} seed {s}: make ready", (out, n, s, device)) for n in lengths for s in seeds]
        in_processes(prepare, ready, arguments.at_once, RUN)
        for length in lengths:
            if arguments.until and time.monotonic() - began > arguments.until:
                break
            specs = [Spec(arm, length, seed) for seed in seeds for arm in arguments.arms.split(",")]
            left = [spec for spec in specs if not (out / "runs" / f"{spec.name}.json").exists()]
            in_processes(
                train_run, [(spec.name, (out, spec, device)) for spec in left], arguments.at_once, RUN
            )
    except FailedError as failure:
        parser.exit(1, f"{failure}\n")
    finally:
        if arguments.results:
            arguments.results.mkdir(parents=True, exist_ok=True)
            collect(out, arguments.results / RESULTS)
            (arguments.results / "README.md").write_text(page(arguments.results / RESULTS), "utf-8")


if __name__ == "__main__":
    main()
