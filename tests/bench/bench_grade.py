"""Grades a second on real responses, and the share that needs algebra.

DIVA_REAL_DATA=/path python tests/bench/bench_grade.py [repeats]
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from diva_grpo.pipeline.grade import grade, warm_up
from diva_grpo.pipeline.grade._compare import compare
from diva_grpo.pipeline.grade._extract import find_answer


def main(repeats: int) -> None:
    """Times `grade` over graded_responses.jsonl in one thread, its process warm; only the first round computes."""
    path = Path(os.environ["DIVA_REAL_DATA"]) / "graded_responses.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    warm_up()
    for _ in range(repeats):  # later rounds find all decided comparisons remembered
        start, cpu, slowest = time.perf_counter(), time.process_time(), 0.0
        for row in rows:
            began = time.perf_counter()
            grade(row["response"], row["reference"], options=row["options"])
            slowest = max(slowest, time.perf_counter() - began)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        per_cpu = f"{len(rows) / cpu:.0f} a CPU second of the caller"
        print(f"{len(rows) / wall:.0f} grades/s, slowest {1e3 * slowest:.0f} ms; {per_cpu}")
    found = [(find_answer(row["response"], row["options"]), row) for row in rows if not row["options"]]
    open_ones = sum(not isinstance(compare(f.answer, row["reference"]), bool) for f, row in found if f)
    print(f"{open_ones} of {len(found)} answers without options need algebra")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
