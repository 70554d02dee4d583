"""What a step of `DivaGRPOTrainer` takes beyond one of TRL's `GRPOTrainer`, on a plain dataset without a store.

    python -m tests.bench.dropin [--steps 40] [--rollouts 128] [--problems 5000]

Both compute the same rollouts and the same losses, step by step by turns in one process of one thread. Times are CPU
seconds, which other work on the machine does not lengthen much. The difference of each pair of steps is one sample; its
median is printed with a bootstrap interval of 95 %. "Our own code" is measured from within, which is less noisy.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from diva_grpo import DivaGRPOConfig, DivaGRPOTrainer
from tests.bench.bench_trainer import own_time, steps_by_turns
from tests.support.tiny_text_model import tiny_model
from tests.support.tiny_training import SETTINGS, coin_reward


def interval(values: list[float], draws: int = 2_000) -> tuple[float, float]:
    """Bootstrap interval of 95 % of a median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (draws, len(values))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rollouts", type=int, default=128)
    parser.add_argument("--problems", type=int, default=5_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder, "model"))
        data = Dataset.from_dict({"prompt": [f"{i:07d} + 3 = ?\n" for i in range(options.problems)]})
        settings: dict[str, Any] = {
            **{name: value for name, value in SETTINGS.items() if name != "accuracy_from"},
            "per_device_train_batch_size": options.rollouts,
            "num_generations": 8,
            "max_completion_length": 64,
            "max_steps": options.steps,
        }
        theirs = GRPOTrainer(
            str(model), coin_reward, GRPOConfig(**settings, output_dir=f"{folder}/theirs"), data
        )
        started = time.perf_counter()
        ours = DivaGRPOTrainer(
            str(model), coin_reward, DivaGRPOConfig(**settings, output_dir=f"{folder}/ours"), data
        )
        made = time.perf_counter() - started
        own = own_time(ours, time.process_time)
        seconds = steps_by_turns({"GRPOTrainer": theirs, "ours": ours}, options.steps, time.process_time)
        base = 1000 * statistics.median(seconds["GRPOTrainer"])
        more = [1000 * (a - b) for a, b in zip(seconds["ours"], seconds["GRPOTrainer"], strict=True)]
        low, high = interval(more)
        mine = 1000 * statistics.median(own()[3:])
        print(f"step of {options.rollouts} rollouts, {options.problems} problems, {options.steps} steps each")
        print(f"GRPOTrainer {base:.1f} ms; ours {1000 * statistics.median(seconds['ours']):.1f} ms")
        print(f"ours is longer by {statistics.median(more):.1f} ms (95 %: {low:.1f} to {high:.1f})")
        print(f"our own code: {mine:.2f} ms a step, {100 * mine / base:.2f} % of TRL's step")
        print(f"trainer ready in {made:.1f} s")


if __name__ == "__main__":
    main()
