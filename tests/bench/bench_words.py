"""What it costs a step to store rollouts with their words, and how many bytes a rollout takes.

    python -m tests.bench.bench_words [--rollouts 256] [--steps 12]

Trainers with `log_rollouts` none, 4 and all take their steps by turns in one process. Times are of the CPU, since
machines are noisy: of the step, and of what is done in it for records and texts alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from diva_grpo.trainer.rewards import accuracy_reward
from tests.bench.bench_trainer import GENERATIONS, large_store
from tests.support.tiny_text_model import tiny_model
from tests.support.tiny_training import make_trainer


def timed(owner: Any, name: str, spent: list[float]) -> None:
    """Add the CPU time of a method's calls to the last item of a list."""
    method = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return method(*args, **kwargs)
        finally:
            spent[-1] += time.process_time() - began

    setattr(owner, name, call)


def bench(rollouts: int, steps: int, tokens: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = tiny_model(root / "model")
        trainers: dict[str, Any] = {}
        whole: dict[str, list[float]] = {}
        parts: dict[str, list[float]] = {}
        for kept in ("none", "4", "all"):
            trainer: Any = make_trainer(
                large_store(root / kept, 500), model, root / f"out-{kept}", rewards=[accuracy_reward],
                accuracy_from="accuracy_reward", num_generations=GENERATIONS, per_device_train_batch_size=rollouts,
                max_completion_length=tokens, max_steps=steps, log_rollouts=kept,
            )  # fmt: skip
            trainer.create_optimizer_and_scheduler(steps)
            trainer.model.train()
            trainer.current_gradient_accumulation_steps = 1
            trainer.recorder.start_attempt(0)
            whole[kept], parts[kept] = [], []
            timed(trainer, "_words", parts[kept])
            timed(trainer, "_record", parts[kept])
            trainers[kept] = trainer
        loaders = {kept: iter(trainer.get_train_dataloader()) for kept, trainer in trainers.items()}
        for _ in range(steps):
            for kept, trainer in trainers.items():
                inputs = next(loaders[kept])
                parts[kept].append(0.0)
                began = time.process_time()
                trainer.training_step(trainer.model, inputs, None)
                trainer.optimizer.step()
                trainer.optimizer.zero_grad()
                trainer.state.global_step += 1
                whole[kept].append(time.process_time() - began)
        for kept, trainer in trainers.items():
            began = time.process_time()
            trainer.recorder.flush(steps)
            flush_ms = 1000 * (time.process_time() - began) / steps
            step_ms, own_ms = (1000 * statistics.median(values[kept][2:]) for values in (whole, parts))
            size = sum(path.stat().st_size for path in (root / kept / "rollouts").glob("*.parquet"))
            size += sum(path.stat().st_size for path in (root / kept / "prompts").glob("*.parquet"))
            texts = trainer.keeper.used_bytes
            print(
                f"log_rollouts={kept}: step {step_ms:.0f} ms, records and texts {own_ms:.2f} ms "
                f"({100 * own_ms / step_ms:.2f} %), written in {flush_ms:.2f} ms a step; "
                f"{size / (steps * rollouts):.0f} bytes a rollout on disk, {texts / 1e3:.0f} kB of texts"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench(options.rollouts, options.steps, options.tokens)
