"""A run that is not finite ends with a line, and its last good checkpoint stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import DivaError
from diva_grpo.trainer.checkpoints import latest_checkpoint
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_training import make_trainer

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}


class _Overflow(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            next(kwargs["model"].parameters()).data.view(-1)[0] = torch.inf


@pytest.mark.parametrize("what", ["gradients", "weights"])
def test_the_run_ends_and_the_last_checkpoint_stays(
    what: str, sums: VariantStore, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(sums, model_path, tmp_path / "out", **SAVING)
    if what == "weights":
        trainer.add_callback(_Overflow())
    else:
        compute = trainer._compute_loss

        def with_nan(model: Any, inputs: Any) -> torch.Tensor:
            return compute(model, inputs) * (torch.nan if trainer.state.global_step == 2 else 1)

        monkeypatch.setattr(trainer, "_compute_loss", with_nan)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    with pytest.raises(
        DivaError, match=f"{what} that are not finite end the run; the last checkpoint is {checkpoint}"
    ):
        trainer.train()
    assert latest_checkpoint(str(tmp_path / "out")) == str(checkpoint)
    assert not (tmp_path / "out" / "checkpoint-3").exists()
    if what == "weights":
        with pytest.raises(DivaError, match="weights that are not finite"):
            trainer.save_model(str(tmp_path / "final"))


def test_training_is_the_same_with_and_without_evaluation(model_path: Path, tmp_path: Path) -> None:
    ended = []
    cases: dict[str, dict[str, Any]] = {
        "without": {},
        "with": {
            "eval_strategy": "steps",
            "eval_steps": 1,
            "per_device_eval_batch_size": 8,
            "eval_problems": 4,
        },
    }
    for name, options in cases.items():
        store = planted_store(tmp_path / name)
        trainer = make_trainer(store, model_path, tmp_path / f"out-{name}", **options)
        trainer.train()
        rollouts = store.query("SELECT * EXCLUDE (attempt) FROM rollouts ORDER BY ALL")
        ended.append((rollouts, trainer.curriculum.live.difficulty.tolist()))
        evaluated = [log for log in trainer.state.log_history if "eval_reward" in log]
        assert len(evaluated) == (4 if options else 0)
    assert ended[0] == ended[1]
