"""The store from 10,000 to 1,000,000 variants: selection, append, opening, reading, ingest, and their slopes.

    PYTHONPATH=. python tests/bench/bench_store.py [--sizes 10000,100000,1000000] [--ingest 10000,100000,1000000]

A size is a number of variants, of a fifth as many problems, with five times as many difficulty events. Beside it,
in the same run, the released way to change 128 difficulties: `datasets.map` over all 52,000 rows. A slope is the
exponent of growth between the first and the last size: 0 does not grow, 1 grows like the store. Prints figures,
and never fails on time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diva_grpo.pipeline.store import VariantStore, VariantText
from diva_grpo.schemas.records import DifficultyEvent, Problem, Record, Variant
from diva_grpo.trainer.data import Layout, rows_of_choice
from diva_grpo.trainer.heap import settled_heap
from diva_grpo.trainer.method.curriculum import Choice, Curriculum, CurriculumSettings
from diva_grpo.trainer.method.live import LiveDifficulty
from diva_grpo.trainer.method.selection import SELECTORS
from diva_grpo.trainer.prompts import PromptBuilder

BATCH = 512
CHUNK = 200_000
VARIANTS_EACH = 5
EVENTS_EACH = 25
RELEASED_ROWS = 52_000
TEXT = "A train leaves at {0} o'clock with {1} passengers; at each of its stops a third of them get off. " * 2

Figures = dict[str, float]


# --- making a store


def _append(store: VariantStore, record: type[Record], total: int, columns: Callable[[range], Any]) -> None:
    blank = {name: [None] for name in record.model_fields}
    for start in range(0, total, CHUNK):
        rows = range(start, min(start + CHUNK, total))
        filled = {name: value * len(rows) for name, value in blank.items()}
        store.append_columns(record, [{**filled, **columns(rows)}])


def made_store(root: Path, variants: int) -> VariantStore:
    """A store of a size, in large parts."""
    store, problems = VariantStore(root, create=True), variants // VARIANTS_EACH

    def problem(rows: range) -> dict[str, Any]:
        return {
            "problem_id": [f"bench/{i:08d}" for i in rows],
            "source": "bench",
            "split": "train",
            "text": [TEXT.format(i % 24, i) for i in rows],
            "answer": [str(i) for i in rows],
        }

    def variant(rows: range) -> dict[str, Any]:
        return {
            "variant_id": [f"bench/{i // VARIANTS_EACH:08d}:reword:{i % VARIANTS_EACH}" for i in rows],
            "problem_id": [f"bench/{i // VARIANTS_EACH:08d}" for i in rows],
            "kind": "reword",
            "text": [TEXT.format(i % 12, i) for i in rows],
            "delta_designed": [float(i % 9) - 4 for i in rows],
            "status": "accepted",
            "generator_model": "bench",
            "prompt_version": "bench-1",
        }

    _append(store, Problem, problems, problem)
    _append(store, Variant, variants, variant)
    _append(store, DifficultyEvent, problems * EVENTS_EACH, lambda rows: _events(rows, problems))
    return store


def _events(rows: Sequence[int], problems: int) -> dict[str, Any]:
    return {
        "run_id": "bench",
        "step": [i // problems for i in rows],
        "problem_id": [f"bench/{i % problems:08d}" for i in rows],
        "old_difficulty": [5.0] * len(rows),
        "new_difficulty": [5.5] * len(rows),
        "accuracy": [0.4] * len(rows),
        "rollouts": [8] * len(rows),
        "rule": "paper",
        "uncertainty": [None] * len(rows),
        "attempt": 0,
    }


# --- figures, in milliseconds


def _timed(act: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        found.append(1000 * (time.perf_counter() - started))
    return sorted(found)


def _cpu(act: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of processor time, of all threads: what a busy machine does not blur."""
    found = []
    for _ in range(times):
        started = time.process_time()
        act()
        found.append(1000 * (time.process_time() - started))
    return sorted(found)


_OPEN = """
import sys, time
from diva_grpo.pipeline.store import VariantStore
import duckdb
started = time.perf_counter()
store = VariantStore(sys.argv[1])
store.setting("label_model")
print(1000 * (time.perf_counter() - started))
"""


def bench_size(root: Path, variants: int, rounds: int) -> Figures:
    """All figures of one size but those of ingest."""
    store, problems = made_store(root, variants), variants // VARIANTS_EACH
    opened = subprocess.run(
        [sys.executable, "-c", _OPEN, str(root)], check=True, capture_output=True, text=True
    ).stdout
    figures: Figures = {"open, first query": float(opened)}
    [figures["take a training snapshot"]] = _timed(store.snapshot, 1)
    snapshot = store.snapshot()
    ids = [f"bench/{i:08d}" for i in range(problems)]
    rng = np.random.default_rng(0)
    labels = dict(zip(ids, rng.uniform(1, 9, problems), strict=True))
    curricula = {name: Curriculum(ids, CurriculumSettings(selector=name), labels) for name in SELECTORS}
    batches = itertools.cycle([rng.choice(problems, BATCH, replace=False) for _ in range(rounds)])

    def candidates() -> None:
        snapshot.candidates([ids[i] for i in next(batches)])

    def selection(curriculum: Curriculum) -> tuple[Choice, Mapping[int, VariantText]]:
        choice = curriculum.choose(next(batches), snapshot, step=0)
        return choice, snapshot.texts(choice.variant_numbers())

    prompts, layout = PromptBuilder(chat=True), Layout(generations=1, variants=1)
    inputs: list[dict[str, Any]] = [
        {"problem_id": "bench/0", "prompt": prompts.prompt(TEXT), "answer": "1"} for _ in range(2 * BATCH)
    ]

    def rows(curriculum: Curriculum) -> None:
        rows_of_choice(inputs, *selection(curriculum), layout, 0, prompts)

    acts: dict[str, Callable[[], object]] = {
        "candidates of 512 problems": candidates,
        "choice and texts for 512 problems": partial(selection, curricula["paper"]),
        **{f"with the trainer's rows, {name}": partial(rows, made) for name, made in curricula.items()},
    }
    _timed(candidates, 10)
    with settled_heap():  # as in training
        for name, act in acts.items():
            for unit, times in (("", _timed(act, rounds)), (", CPU", _cpu(act, rounds))):
                figures[f"{name}, p50{unit}"] = statistics.median(times)
                figures[f"{name}, p99{unit}"] = times[int(0.99 * len(times))]
    steps = iter(range(10**6, 10**7))

    def append() -> None:
        numbers = rng.choice(problems, BATCH, replace=False)
        store.append_columns(DifficultyEvent, [{**_events(numbers.tolist(), problems), "step": next(steps)}])

    times = _timed(append, 50)
    figures["append of 512 events, p50"] = statistics.median(times)
    figures["append of 512 events, p99"] = times[int(0.99 * len(times))]
    figures["one variant by SQL"] = _timed(
        lambda: store.query("SELECT status FROM variants WHERE variant_id = ?", [f"{ids[7]}:reword:1"]), 3
    )[1]
    figures["live difficulty of all by SQL"] = _timed(
        lambda: store.query("SELECT count(*), avg(difficulty) FROM live_difficulty"), 1
    )[0]
    return figures


def bench_parts(root: Path, parts: int) -> None:
    """A table of many small parts before and after compaction."""
    store = VariantStore(root, create=True)
    for number in range(parts):
        store.append_columns(DifficultyEvent, [{**_events(range(8), 8), "step": number}])
    sql = "SELECT count(*) FROM difficulty_events"
    before = statistics.median(_timed(lambda: store.query(sql), 5))
    started = time.perf_counter()
    store.compact()
    seconds = time.perf_counter() - started
    after = statistics.median(_timed(lambda: store.query(sql), 5))
    print(f"query over {parts} parts: {before:.0f} ms; compacted in {seconds:.1f} s; then {after:.0f} ms")


# --- ingest, and the released way


# The kernel's own high-water mark; getrusage begins with that of the process that has forked.
_INGEST = """
from diva_grpo.flows.cli import main
main()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def bench_ingest(folder: Path, rows: int) -> Figures:
    """`diva ingest` of a JSONL file, in a process of its own."""
    source = folder / f"{rows}.jsonl"
    with source.open("w", encoding="utf-8") as out:
        for i in range(rows):
            out.write(json.dumps({"id": i, "problem": TEXT.format(i % 24, i), "answer": str(i)}) + "\n")
    arguments = [
        "ingest",
        source,
        "--id-column",
        "id",
        "--problem-column",
        "problem",
        "--answer-column",
        "answer",
    ]
    command = [sys.executable, "-c", _INGEST, *map(str, arguments), "--store", str(folder / f"ingest-{rows}")]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seconds = time.perf_counter() - started
    [(found,)] = VariantStore(folder / f"ingest-{rows}").query("SELECT count(*) FROM problems")
    if found != rows:
        raise SystemExit(f"{found} problems of {rows} rows")
    return {"ingest, s": seconds, "ingest, peak MiB": int(done.stdout.split()[-2]) / 1024}


def bench_released() -> None:
    """Change 128 difficulties as the authors' code does: a map over the whole data set."""
    import datasets

    datasets.disable_progress_bars()
    rows = {
        "id": [str(i) for i in range(RELEASED_ROWS)],
        "problem": [TEXT.format(i % 24, i) for i in range(RELEASED_ROWS)],
        "answer": [str(i) for i in range(RELEASED_ROWS)],
        "difficulty": [5.0] * RELEASED_ROWS,
    }
    data = datasets.Dataset.from_dict(rows)
    changed = {str(i): 6.0 for i in range(0, 128 * 400, 400)}
    times = _timed(
        lambda: data.map(
            lambda row: {"difficulty": changed.get(row["id"], row["difficulty"])}, load_from_cache_file=False
        ),
        3,
    )
    live = LiveDifficulty(np.full(RELEASED_ROWS, 5.0))
    numbers, right, judged = np.arange(0, 128 * 400, 400), np.full(128, 3.0), np.full(128, 8.0)
    ours = _timed(lambda: live.visit(numbers, right, judged), 50)
    print(
        f"128 difficulties of {RELEASED_ROWS} rows: datasets.map {times[1]:.0f} ms, "
        f"ours {statistics.median(ours):.3f} ms in memory and one append a step"
    )


def _table(by_size: dict[int, Figures]) -> None:
    sizes = list(by_size)
    print("| figure | " + " | ".join(f"{size:,}" for size in sizes) + " | slope |")
    print("| --- |" + " ---: |" * (len(sizes) + 1))
    for name in by_size[sizes[0]]:
        values = [by_size[size][name] for size in sizes]
        slope = math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0]) if len(sizes) > 1 else 0.0
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + f" | {slope:.2f} |")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=_numbers, default=[10_000, 100_000, 1_000_000], help="numbers of variants"
    )
    parser.add_argument(
        "--ingest", type=_numbers, default=[10_000, 100_000, 1_000_000], help="numbers of rows"
    )
    parser.add_argument("--rounds", type=int, default=300, help="selections that are timed")
    parser.add_argument("--parts", type=int, default=1_000, help="small parts to compact; 0 leaves that out")
    options = parser.parse_args(sys.argv[1:])
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.sizes:
            print("milliseconds by number of variants:")
            _table({size: bench_size(folder / f"s{size}", size, options.rounds) for size in options.sizes})
        if options.ingest:
            print("by number of rows:")
            _table({rows: bench_ingest(folder, rows) for rows in options.ingest})
        if options.parts:
            bench_parts(folder / "parts", options.parts)
        bench_released()
