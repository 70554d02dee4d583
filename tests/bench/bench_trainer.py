"""Our overhead a step over TRL's GRPOTrainer with equal rollouts, on a store of a realistic size.

    PYTHONPATH=. python tests/bench/bench_trainer.py [--problems 50000] [--steps 20]

Prints one line a figure. The steps of the two trainers are taken by turns in one process, since machines are
noisy; the overhead itself is also timed from within: the time of our overrides less that of TRL's own methods.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trl import GRPOConfig, GRPOTrainer

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Kind, Problem, Status, Variant
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.method.live import LiveDifficulty
from diva_grpo.trainer.prompts import PromptBuilder
from tests.support.tiny_text_model import tiny_model
from tests.support.tiny_training import SETTINGS, coin_reward, make_trainer

ROLLOUTS = 512
GENERATIONS = 8
CHUNK = 50_000


def large_store(root: Path, problems: int, variants_each: int = 10) -> VariantStore:
    """Problems with accepted variants of all deltas, written in large parts."""
    store = VariantStore(root, create=True)
    for start in range(0, problems, CHUNK):
        ids = [f"sums/{i:07d}" for i in range(start, min(start + CHUNK, problems))]
        store.append(
            [
                Problem(problem_id=p, source="sums", split="train", text=f"{p}: 1 + 2 = ?", answer="3")
                for p in ids
            ]
        )
        store.append(
            [
                Variant(
                    variant_id=f"{p}:{j}",
                    problem_id=p,
                    kind=Kind.REWORD,
                    text=f"{p}: 2 + 1 = ?",  # as long as the original: both trainers generate alike
                    delta_designed=-float(j % 9),
                    status=Status.ACCEPTED,
                    generator_model="bench",
                    prompt_version="bench-1",
                )
                for p in ids
                for j in range(variants_each)
            ]
        )
    return store


def steps_by_turns(
    trainers: dict[str, Any], steps: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each step, the trainers by turns; the first three of each warm up and do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    loaders = {name: iter(trainer.get_train_dataloader()) for name, trainer in trainers.items()}
    for trainer in trainers.values():
        trainer.create_optimizer_and_scheduler(steps)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
    for step in range(steps):
        for name, trainer in trainers.items():
            inputs = next(loaders[name])
            started = clock()
            trainer.training_step(trainer.model, inputs, None)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            trainer.state.global_step += 1
            if step >= 3:
                seconds[name].append(clock() - started)
    return seconds


def own_time(trainer: Any, clock: Callable[[], float] = time.perf_counter) -> Callable[[], list[float]]:
    """Time spent in our generation step outside of TRL's own; read it by calling the result."""
    inner, outer = [0.0], []
    base = GRPOTrainer._generate_and_score_completions
    ours = trainer._generate_and_score_completions

    def timed_base(self: Any, inputs: Any) -> Any:
        started = clock()
        try:
            return base(self, inputs)
        finally:
            inner[0] += clock() - started

    def timed_ours(inputs: Any) -> Any:
        inner[0] = 0.0
        started = clock()
        result = ours(inputs)
        outer.append(clock() - started - inner[0])
        return result

    GRPOTrainer._generate_and_score_completions = timed_base
    trainer._generate_and_score_completions = timed_ours
    return lambda: outer


def bench_step(problems: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = tiny_model(root / "model")
        store = large_store(root / "store", problems)
        settings = {
            "per_device_train_batch_size": ROLLOUTS,
            "max_completion_length": 32,
            "max_steps": steps,
            "store_flush_steps": 50,
        }
        started = time.perf_counter()
        ours = make_trainer(store, model, root / "ours", num_generations=GENERATIONS, **settings)
        opened = time.perf_counter() - started
        plain = {
            k: v
            for k, v in {**SETTINGS, **settings}.items()
            if k not in ("accuracy_from", "store_flush_steps")
        }
        theirs = GRPOTrainer(
            str(model),
            coin_reward,
            GRPOConfig(**{**plain, "num_generations": 2 * GENERATIONS, "output_dir": str(root / "theirs")}),
            problems_dataset(store.problems(), PromptBuilder(chat=False)),
            processing_class=load_tokenizer(str(model)),
        )
        own = own_time(ours)
        seconds = steps_by_turns({"ours": ours, "GRPOTrainer": theirs}, steps)
        flush = time.perf_counter()
        ours.recorder.flush(steps)
        flush = time.perf_counter() - flush
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        overhead_ms = 1000 * statistics.median(own()[3:])
        print(
            f"step of {ROLLOUTS} rollouts, {problems} problems, {10 * problems} variants: ours "
            f"{1000 * medians['ours']:.0f} ms, GRPOTrainer {1000 * medians['GRPOTrainer']:.0f} ms; our own part "
            f"{overhead_ms:.1f} ms = {overhead_ms / 10 / medians['GRPOTrainer']:.2f} %"
        )
        print(f"records of {steps} steps appended in {1000 * flush / steps:.1f} ms a step")
        print(f"trainer with its snapshot ready in {opened:.1f} s")


def bench_update(problems: int = 1_000_000, visited: int = 512) -> None:
    live = LiveDifficulty(np.full(problems, 5.0))
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(50):
        numbers = rng.choice(problems, visited, replace=False)
        right, judged = rng.integers(0, 9, visited).astype(float), np.full(visited, 8.0)
        started = time.perf_counter()
        live.visit(numbers, right, judged)
        seconds.append(time.perf_counter() - started)
    print(f"update of {visited} difficulties among {problems}: {1000 * statistics.median(seconds):.3f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(sys.argv[1:])
    torch.set_num_threads(1)
    bench_update()
    bench_step(options.problems, options.steps)
