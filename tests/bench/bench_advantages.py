"""Times the advantages of a large batch and the selection of variants on one core, one line each.

Run from the root of the repository, with the project installed: `python tests/bench/bench_advantages.py`.
"""

import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from diva_grpo.trainer.method.advantages import ADVANTAGES, AdvantageSettings
from diva_grpo.trainer.method.selection import SELECTORS, Draw
from tests.support.scalar_selectors import Candidate, as_arrays

RESPONSES = 65_536
PER_LOCAL_GROUP = 16
PER_GLOBAL_GROUP = 32
PROBLEMS = 512
VARIANTS = 10
REPEATS = 30
DELTAS = {
    "reword": [0.0],
    "harder": [2.0],
    "think_step": [-2.0, -4.0, -6.0, -8.0],
    "image": [1.0, 2.0, 3.0],
    "image_text": [2.0],
    "composite": [4.0, 6.0, 8.0],
}


def report(what: str, run: Callable[[], object]) -> None:
    """Print the median and the least of the times of `run`, in milliseconds."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    print(f"{what}: median {statistics.median(times):.2f} ms, least {min(times):.2f} ms")


def bench_advantages() -> None:
    """Time every advantage function on binary rewards, rows in the order of their groups."""
    rng = torch.Generator().manual_seed(0)
    rewards = torch.randint(0, 2, (RESPONSES,), generator=rng).to(torch.float64)
    row = torch.arange(RESPONSES)
    local_group, global_group = row // PER_LOCAL_GROUP, row // PER_GLOBAL_GROUP
    difficulty = (1 + 8 * torch.rand(RESPONSES // PER_LOCAL_GROUP, generator=rng, dtype=torch.float64))[
        local_group
    ]
    settings = AdvantageSettings()
    for name, advantages in ADVANTAGES.items():
        report(
            f"advantages {name}, {RESPONSES} responses",
            partial(advantages, rewards, local_group, global_group, difficulty, settings),
        )


def bench_selection() -> None:
    """Time every selector on random variants of random problems."""
    rng = random.Random(0)
    candidates = []
    for number in range(PROBLEMS):
        kinds = rng.choices(list(DELTAS), k=VARIANTS)
        candidates.append(
            [
                Candidate(f"v{number}-{i}", kind, rng.choice(DELTAS[kind]), rng.random())
                for i, kind in enumerate(kinds)
            ]
        )
    difficulty_P = np.array([rng.uniform(1, 9) for _ in candidates])
    draw_P = [Draw(0, 100, f"p{number}") for number in range(PROBLEMS)]
    for name, select in SELECTORS.items():
        for count in (1, 4):
            report(
                f"selection {name}, {PROBLEMS} problems of {VARIANTS} variants, {count} chosen of each",
                partial(select, difficulty_P, as_arrays(candidates), count, draw_P),
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    bench_advantages()
    bench_selection()
