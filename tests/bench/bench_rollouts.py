"""Many rollouts with texts: appends, compaction, and queries about one problem and one step.

    python -m tests.bench.bench_rollouts [--rollouts 10000000] [--append 20480]

Each query is run by a store that was opened for it (as by `diva sql`) and again on the same store. Prints wall seconds
and processor seconds of all threads, and never fails on time.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Rollout, Run

PROBLEMS = 10_000
ROLLOUTS_A_STEP = 4_096
ROLLOUTS_A_GROUP = 8
STEPS_A_RUN = 1_000
_WORDS = (
    "so the train then leaves with half of them and each third stop gives back two over seven hence".split()
)
_RANDOM = Random(0)
PHRASES = [" ".join(_RANDOM.choices(_WORDS, k=5)) for _ in range(1 << 15)]

QUERIES = {
    "one problem": "SELECT run_id, step, slot, sample, reward, completion FROM rollouts "
    "WHERE problem_id = 'bench/00000007' ORDER BY ALL",
    "one problem, by step": "SELECT run_id, step, avg(accuracy) FROM rollouts WHERE problem_id = 'bench/00000007' "
    "GROUP BY ALL ORDER BY ALL",
    "one step": "SELECT problem_id, slot, avg(accuracy) FROM rollouts WHERE run_id = 'train-0' AND step = 7 "
    "GROUP BY ALL ORDER BY ALL",
    "one step, texts": "SELECT problem_id, slot, sample, completion FROM rollouts "
    "WHERE run_id = 'train-0' AND step = 7 ORDER BY ALL",
    "one step, groups": "SELECT count(*), count(*) FILTER (silent) FROM groups WHERE run_id = 'train-0' AND step = 7",
    "accuracy of all steps": "SELECT run_id, step, avg(accuracy) FROM rollouts GROUP BY ALL ORDER BY ALL",
}  # fmt: skip


def text(number: int) -> str:
    """A completion of about 300 characters, which compresses about as well as a real one; no two are the same."""
    phrases = (PHRASES[number * place * 40_503 + place & 0x7FFF] for place in range(1, 13))
    return f"{' '.join(phrases)} {number}. \\boxed{{{number % 97}}}"


def columns(rows: range) -> dict[str, Any]:
    """Rollouts by their numbers, as a trainer records them."""
    step = [i // ROLLOUTS_A_STEP for i in rows]
    group = [i // ROLLOUTS_A_GROUP for i in rows]
    right = [float((g * 5 + i) % 3 > 0) for g, i in zip(group, rows, strict=True)]
    return {
        "run_id": [f"train-{s // STEPS_A_RUN}" for s in step],
        "step": [s % STEPS_A_RUN for s in step],
        "problem_id": [f"bench/{g // 2 * 7_919 % PROBLEMS:08d}" for g in group],
        "slot": [g % 2 for g in group],
        "sample": [i % ROLLOUTS_A_GROUP for i in rows],
        "variant_id": [
            f"bench/{g // 2 * 7_919 % PROBLEMS:08d}:reword:0" if g % 2 else "original" for g in group
        ],
        "reward": right,
        "accuracy": right,
        "advantage": [r - 0.5 for r in right],
        "completion_tokens": [60 + i % 40 for i in rows],
        "completion": [text(i) for i in rows],
        "finish": "ended",
        "attempt": 0,
    }


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what a block took."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"| {what} | {wall:.3f} | {cpu:.3f} |", flush=True)


def bench_queries(root: Path, when: str) -> None:
    """Time each query on a store that is opened for it, and again."""
    for name, sql in QUERIES.items():
        store = VariantStore(root)
        for turn in ("opened for it", "again"):
            with timed(f"{when}: {name}, {turn}"):
                rows = len(store.query(sql))
        del store
        assert rows, name
    with timed(f"{when}: one problem, `of_problems`"):
        narrow = VariantStore(root).of_problems(["bench/00000007"])
        assert narrow.query(QUERIES["one problem"])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=10_000_000)
    parser.add_argument(
        "--append",
        type=int,
        default=5 * ROLLOUTS_A_STEP,
        help="rollouts of one append: a trainer appends whole steps",
    )
    parser.add_argument("--store", type=Path, help="folder of a store to make, or to query if it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root: Path = options.store or Path(folder) / "store"
        print("| what | wall s | CPU s |\n| --- | ---: | ---: |")
        if not root.exists():
            make(root, options.rollouts, options.append)
        bench_queries(root, "compacted")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:,} MiB")


def make(root: Path, rollouts: int, at_once: int) -> None:
    """Append rollouts as a trainer does, and compact them."""
    store = VariantStore(root, create=True)
    runs = range(rollouts // ROLLOUTS_A_STEP // STEPS_A_RUN + 1)
    store.append([Run(run_id=f"train-{number}", kind="train", outcome="ok") for number in runs])
    appends = [
        _cpu_s(partial(store.append_columns, Rollout, [made]))
        for made in map(
            columns, (range(at, min(at + at_once, rollouts)) for at in range(0, rollouts, at_once))
        )
    ]
    print(
        f"| {len(appends)} appends of {at_once:,}, the median | | {statistics.median(appends):.3f} |",
        flush=True,
    )
    with timed("compaction"):
        store.compact(grace_s=0)
    with timed("compaction again, which removes what was merged"):
        store.compact(grace_s=0)
    size = sum(file.size for file in store.place.files(Rollout.table))
    print(f"| MiB in {len(store.catalogue.live(Rollout.table)) - 1} parts: {size >> 20:,} | | |")


def _cpu_s(act: Callable[[], None]) -> float:
    started = time.process_time()
    act()
    return time.process_time() - started


if __name__ == "__main__":
    main()
