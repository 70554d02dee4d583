"""The command line of a testbed of hints: make its runs, a few at once, and the page of what they show."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.bed import ARMS
from tests.bench.processes import FailedError, in_processes


@dataclass(frozen=True, slots=True)
class Testbed:
    """What a testbed's command needs.

    Attributes:
        module: that is run with `python -m`.
        description: of the command.
        option: name of the option that lists the cases, such as `lengths`.
        cases: by default.
        parse: a case from its text.
        name: of a case in the names of files.
        prepare: called with (out, case, seed, device).
        train_run: called with (out, case, arm, seed, device).
        write_page: called with (out, folder of the results).
        arms: by default; those of anchors (`response_...`) are asked for by name.
    """

    module: str
    description: str
    option: str
    cases: Sequence[Any]
    parse: Callable[[str], Any]
    name: Callable[[Any], str]
    prepare: Callable[..., None]
    train_run: Callable[..., None]
    write_page: Callable[[Path, Path], None]
    arms: Sequence[str] = tuple(arm for arm in ARMS if arm != "augmented" and not arm.startswith("response_"))


def run(testbed: Testbed) -> None:
    """Read the command line, and work."""
    parser = argparse.ArgumentParser(prog=f"python -m {testbed.module}", description=testbed.description)
    parser.add_argument("--out", type=Path, required=True, help="folder of models, stores and runs")
    cases = ",".join(map(str, testbed.cases))
    parser.add_argument(f"--{testbed.option}", dest="cases", default=cases, help=f"(default: {cases})")
    arms = ",".join(testbed.arms)
    parser.add_argument("--arms", default=arms, help=f"of {','.join(ARMS)} (default: {arms})")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1 (default: 5)")
    parser.add_argument("--first-seed", type=int, default=1, help="another than 1, for trials")
    parser.add_argument("--at-once", type=int, default=2, help="runs at once, a core each (default: 2)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="of the training (default: cpu)"
    )
    parser.add_argument(
        "--until",
        type=float,
        help="start no further run after this many seconds; the same command continues",
    )
    parser.add_argument("--results", type=Path, help="write figures and page into this folder")
    options = parser.parse_args()
    out, device, began = options.out.resolve(), options.device, time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    wanted = [testbed.parse(case) for case in options.cases.split(",")]
    preload = testbed.train_run.__module__
    try:
        ready = [
            (f"{testbed.name(case)} seed {seed}: make ready", (out, case, seed, device))
            for case in wanted
            for seed in seeds
        ]
        ends = began + options.until if options.until else math.inf
        in_processes(testbed.prepare, ready, options.at_once, preload, ends)
        for case in wanted:
            jobs = [
                (f"{arm}-{testbed.name(case)}-s{seed}", (out, case, arm, seed, device))
                for seed in seeds
                for arm in options.arms.split(",")
            ]
            left = [job for job in jobs if not (out / "runs" / f"{job[0]}.json").exists()]
            in_processes(testbed.train_run, left, options.at_once, preload, ends)
    except FailedError as failure:
        parser.exit(1, f"{failure}\n")
    finally:
        if options.results:
            options.results.mkdir(parents=True, exist_ok=True)
            testbed.write_page(out, options.results)
