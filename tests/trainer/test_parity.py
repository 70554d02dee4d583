"""With everything of DIVA switched off, the trainer computes what TRL's GRPOTrainer computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.prompts import PromptBuilder
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_training import SETTINGS, coin_reward, loss_inputs, make_trainer

OFF: dict[str, Any] = {
    "num_variants": 0,
    "advantage": "diva",
    "global_weight": 0.0,
    "weight_k": 0.0,
    "balance": "none",
    "rescale": "none",
    "advantage_eps": 1e-4,
}
STEPS = 20  # two epochs: 20 problems, two a step


def _weights(trainer: Any) -> list[torch.Tensor]:
    """All parameters after each step."""
    seen: list[torch.Tensor] = []

    def keep(*_: Any) -> None:
        seen.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).clone())

    trainer.create_optimizer_and_scheduler(STEPS)
    trainer.optimizer.register_step_post_hook(keep)
    return seen


@pytest.mark.parametrize(
    "extra", [{}, {"num_iterations": 2}, {"scale_rewards": "group", "beta": 0.05}], ids=str
)
def test_switched_off_it_is_grpo(extra: dict[str, Any], model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=20)
    shared = {"per_device_train_batch_size": 8, "max_steps": STEPS, **extra}
    settings = {k: v for k, v in SETTINGS.items() if k != "accuracy_from"}
    makers: dict[str, Callable[[], Any]] = {
        "ours": lambda: make_trainer(store, model_path, tmp_path / "ours", **shared, **OFF),
        "theirs": lambda: GRPOTrainer(
            str(model_path),
            coin_reward,
            GRPOConfig(**{**settings, **shared, "output_dir": str(tmp_path / "theirs")}),
            problems_dataset(store.problems(), PromptBuilder(chat=False)),
            processing_class=load_tokenizer(str(model_path)),
        ),
    }
    seen, weights, losses = {}, {}, {}
    for name, make in makers.items():
        trainer = make()  # seeds the generators
        inputs = loss_inputs(trainer)
        weights[name] = _weights(trainer)
        trainer.train()
        seen[name] = [batch["advantages"].tolist() for batch in inputs]
        losses[name] = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(seen["ours"]) == len(seen["theirs"]) == STEPS
    assert any(abs(value) > 0.1 for value in seen["theirs"][0])
    for step in range(STEPS):
        assert seen["ours"][step] == pytest.approx(seen["theirs"][step], abs=1e-6)
        assert torch.allclose(weights["ours"][step], weights["theirs"][step], rtol=0, atol=1e-6)
    assert losses["ours"] == pytest.approx(losses["theirs"], abs=1e-6)
    assert not torch.equal(weights["ours"][0], weights["ours"][-1])
