"""What is exported for TRL trains in its stock GRPOTrainer, with its own reward function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import accuracy_reward

from diva_grpo.pipeline.export import export
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import ExportConfig
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_training import coin_reward
from tests.support.tiny_vision_model import tiny_processor, tiny_vision_model, vision_store


def train(model: Path, store: VariantStore, out: Path, prompt: str, processor: Any = None) -> Any:
    """One step on the exported rows; returns the trainer, and whether each parameter changed."""
    export(store, out, ExportConfig.model_validate({"preset": "trl", "prompt": prompt}))
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(out.parent / "cache"))
    config = GRPOConfig(
        output_dir=str(out.parent / "trained"),
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=6,
        max_steps=1,
        learning_rate=1e-3,
        report_to="none",
        save_strategy="no",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    rewards = [coin_reward] if prompt == "text" else [coin_reward, accuracy_reward]
    trainer = GRPOTrainer(str(model), rewards, args=config, train_dataset=rows, processing_class=processor)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {
        name: not torch.equal(before[name].cpu(), value.detach().cpu())
        for name, value in trainer.model.named_parameters()
    }
    return trainer, changed


@pytest.mark.parametrize("prompt", ["chat", "text"])
def test_text(chat_model_path: Path, model_path: Path, tmp_path: Path, prompt: str) -> None:
    store = planted_store(tmp_path / "store")
    model = chat_model_path if prompt == "chat" else model_path
    trainer, changed = train(model, store, tmp_path / "out", prompt)
    assert all(changed.values())
    if prompt == "chat":
        # A random model is never right; what counts is that the answers can be read: NaN would say no.
        logged = trainer.state.log_history[0]
        assert logged["rewards/accuracy_reward/mean"] == 0.0


def test_images(tmp_path: Path) -> None:
    store = vision_store(tmp_path / "store", text=0, kinds=("image", "image_text"))
    model = tiny_vision_model(tmp_path / "model")
    trainer, changed = train(model, store, tmp_path / "out", "chat", tiny_processor())
    assert any("vision" in name and moved for name, moved in changed.items())
    assert any("language" in name and moved for name, moved in changed.items())
    assert trainer.state.global_step == 1
