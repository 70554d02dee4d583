"""Train under settings drawn by seeds, and say what did not hold (see `tests.support.random_walk`).

    python -m tests.bench.random_walk [--seeds 20] [--first 0]

Prints a line a seed, and ends with 1 where a seed has a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.random_walk import Seen, Walk, drawn, faults, model_of, store_of, walked


def walk_of(seed: int, root: Path) -> tuple[Walk, list[str]]:
    """The settings of a seed, and what did not hold under them."""
    walk, folder = drawn(seed), root / f"walk-{seed}"
    folder.mkdir()
    model, stores = model_of(walk, folder), (store_of(walk, folder / "a"), store_of(walk, folder / "b"))
    runs = [walked(walk, model, stores, folder)] if walk.processes == 1 else _by_processes(walk, folder)
    return walk, faults(walk, stores, runs)


def _by_processes(walk: Walk, folder: Path) -> list[tuple[Seen, Seen]]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(walk.processes)]
    result = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.support.random_walk", str(walk.seed), str(folder)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    if result.returncode:
        raise RuntimeError(result.stderr[-3000:])
    files = [folder / f"rank{rank}.json" for rank in range(walk.processes)]
    return [(Seen(**a), Seen(**b)) for a, b in (json.loads(file.read_text()) for file in files)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.first + options.seeds):
            began = time.perf_counter()
            try:
                walk, found = walk_of(seed, Path(folder))
            except Exception as error:  # noqa: BLE001  # an error of any kind is a finding, and the others go on
                walk, found = drawn(seed), [f"{type(error).__name__}: {error}"]
            broken += bool(found)
            print(
                f"{seed}: {'; '.join(found) or 'all held'} ({time.perf_counter() - began:.0f} s)", flush=True
            )
            if found:
                print(f"   {walk}", flush=True)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
