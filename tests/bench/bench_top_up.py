"""How long a top-up takes to find what is short and what helps, over many problems.

python tests/bench/bench_top_up.py --problems 50000 --variants 6
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from diva_grpo.pipeline.stages.shortage import find_shortages
from diva_grpo.pipeline.stages.top_up import plan
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import TeacherConfig, TopUpConfig
from diva_grpo.schemas.records import Attempt, DifficultyEvent, Problem, Variant

DELTAS = {"reword": 0.0, "harder": 2.0, "think_step": -4.0}


def fill(store: VariantStore, problems: int, variants: int) -> None:
    """Problems with accepted variants of random kinds, and an event of each."""
    rng = np.random.default_rng(0)
    now = time.time_ns() // 1000
    ids = [f"source/{number:06d}" for number in range(problems)]
    store.append_columns(
        Problem,
        [
            {
                "problem_id": ids, "source": "source", "split": "train", "text": "How many are there?",
                "answer": "7", "options": [[]] * problems, "images": [[]] * problems,
                "solution_steps": [[]] * problems, "human_level": [None] * problems,
                "ingested_at": [now] * problems,
            }
        ],
    )  # fmt: skip
    rows = problems * variants
    kinds = rng.choice(list(DELTAS), rows)
    owners = np.repeat(np.arange(problems), variants)
    columns: dict[str, object] = {name: [None] * rows for name in Variant.model_fields}
    columns |= {
        "variant_id": [f"{ids[owner]}:{kind}:{n}" for n, (owner, kind) in enumerate(zip(owners, kinds, strict=True))],
        "problem_id": [ids[owner] for owner in owners], "kind": kinds.tolist(), "text": "How many are there now?",
        "hint": [[]] * rows, "delta_designed": [DELTAS[kind] for kind in kinds], "status": "accepted",
        "generator_model": "m", "prompt_version": "1", "sample": [0] * rows, "created_at": [now] * rows,
    }  # fmt: skip
    store.append_columns(Variant, [columns])
    store.append([Attempt(run_id="r", attempt=0, resumed_step=0)])
    levels = rng.uniform(1, 9, problems)
    store.append_columns(
        DifficultyEvent,
        [
            {
                "run_id": "r", "step": [7] * problems, "problem_id": ids, "old_difficulty": levels,
                "new_difficulty": levels, "accuracy": levels / 9, "rollouts": [8] * problems, "rule": "paper",
                "uncertainty": [None] * problems, "attempt": [0] * problems,
            }
        ],
    )  # fmt: skip


def main() -> None:
    """Fill a store; time the search for shortages alone, and with the plan, three times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=50_000)
    parser.add_argument("--variants", type=int, default=6, help="Accepted variants a problem.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = VariantStore(Path(folder) / "store", create=True)
        fill(store, arguments.problems, arguments.variants)
        config = TopUpConfig(
            store=store.root, teacher=TeacherConfig(model="m"),
            max_problems=arguments.problems, max_variants=10 * arguments.problems,
        )  # fmt: skip
        for _ in range(3):
            started = time.perf_counter()
            found = find_shortages(store, "r", window_steps=200, tolerance=1.5)
            middle = time.perf_counter()
            planned = plan(store, config)
            ended = time.perf_counter()
            print(
                f"{found.seen:,} problems, {found.seen * arguments.variants:,} variants: {len(found.problem_ids):,} "
                f"short found in {middle - started:.2f} s; {len(planned.needs):,} found and planned in "
                f"{ended - middle:.2f} s"
            )


if __name__ == "__main__":
    main()
