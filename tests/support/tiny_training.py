"""Trainers for tests: real TRL steps on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Problem
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.grpo import DivaGRPOTrainer
from diva_grpo.trainer.loading import load_processor, load_tokenizer, reads_images
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.vision import ImageRows

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "num_generations": 4,
    "max_completion_length": 6,
    "max_steps": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": not torch.cuda.is_available(),
    "disable_tqdm": True,
    "accuracy_from": "coin_reward",
    "seed": 3,
}


def coin_reward(completions: list[Any], **columns: Any) -> list[float | None]:
    """Right or wrong by the text alone, about evenly: groups of a random model then have a signal."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(sum(text.encode()) % 2) for text in texts]


def always_wrong() -> Any:
    """A reward function with the name of `coin_reward` that finds every answer wrong."""

    def coin(completions: list[Any], **columns: Any) -> list[float | None]:
        return [0.0] * len(completions)

    coin.__name__ = "coin_reward"
    return coin


def make_trainer(
    store: VariantStore,
    model: Path,
    output: Path,
    *,
    rewards: Any = coin_reward,
    eval_problems: int = 0,
    adapter: Any = None,
    **overrides: Any,
) -> DivaGRPOTrainer:
    """A trainer over all problems of a store, as `trainer.train.train` builds it."""
    config = DivaGRPOConfig(**{**SETTINGS, "output_dir": str(output), **overrides})
    sees = reads_images(str(model))
    processing = load_processor(str(model)) if sees else load_tokenizer(str(model))
    prompts = PromptBuilder(chat=processing.chat_template is not None, hint_style=config.hint_style)
    dataset = problems_dataset(store.read(Problem), prompts)
    return DivaGRPOTrainer(
        str(model),
        rewards,
        config,
        dataset,
        eval_dataset=dataset.select(range(eval_problems)) if eval_problems else None,
        store=store,
        prompts=prompts,
        run_id="test",
        processing_class=processing,
        peft_config=adapter,
        images=ImageRows(store.image_path, max_pixels=200_000) if sees else None,
    )


def loss_inputs(trainer: Any) -> list[dict[str, Any]]:
    """A list that fills with what the loss of each training step is computed from."""
    seen: list[dict[str, Any]] = []
    original = trainer._compute_loss

    def spy(model: Any, inputs: dict[str, Any]) -> Any:
        if trainer.model.training:
            seen.append(dict(inputs))
        return original(model, inputs)

    trainer._compute_loss = spy
    return seen


def completions(batch: dict[str, Any]) -> list[list[int]]:
    """Tokens of each completion of a batch of the loss, without padding."""
    rows = zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in rows]


def two_processes(
    store: VariantStore, model_path: Path, output: Path, **overrides: Any
) -> list[dict[str, Any]]:
    """What each of two processes that train together reports of its steps, see `tests.support.train_distributed`."""
    output.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [
            *command,
            "-m",
            "tests.support.train_distributed",
            str(store.root),
            str(model_path),
            str(output),
            json.dumps(overrides),
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads((output / f"rank{rank}.json").read_text()) for rank in (0, 1)]
