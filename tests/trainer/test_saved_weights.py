"""What is saved is what was meant: a table of model classes, and the ways in which their weights come back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, TrainerCallback

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.trainer.loading import load_model, reads_images
from tests.support.tiny_text_model import planted_store, tiny_model
from tests.support.tiny_training import make_trainer
from tests.support.tiny_vision_model import tiny_vision_model, vision_store
from tests.trainer.test_vision_qwen import qwen_path

__all__ = ["qwen_path"]

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=["text", "llava", "qwen2_5_vl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of a class; those of vision have parameters that were renamed since their publication."""
    if request.param == "qwen2_5_vl":
        path: Path = request.getfixturevalue("qwen_path")
        return path
    folder = tmp_path_factory.mktemp(request.param)
    return tiny_model(folder) if request.param == "text" else tiny_vision_model(folder)


def _weights(model: Any) -> Weights:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _differ(one: Weights, other: Weights) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


class _Kept(TrainerCallback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.after: dict[int, Weights] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.after[state.global_step] = _weights(given["model"])


def _trained(store: VariantStore, model: Path, output: Path, adapter: Any) -> tuple[Any, dict[int, Weights]]:
    """Three steps, the second of which is the best, and the weights after each."""
    scores = iter([0.0, 1.0, 0.5])
    trainer = make_trainer(
        store, model, output, adapter=adapter, max_steps=3, learning_rate=0.05, eval_strategy="steps", eval_steps=1,
        eval_problems=2, per_device_eval_batch_size=4, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="planted", num_variants=0, per_device_train_batch_size=8,
    )  # fmt: skip
    evaluate = trainer.evaluate

    def planted(*args: Any, **kwargs: Any) -> dict[str, float]:
        return {**evaluate(*args, **kwargs), "eval_planted": next(scores)}

    kept = _Kept()
    trainer.add_callback(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "evaluate", planted)
        trainer.train()
    assert _differ(kept.after[1], kept.after[2]), "a step changes weights"
    assert _differ(kept.after[2], kept.after[3])
    return trainer, kept.after


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "adapter"])
def test_weights_come_back_bit_for_bit(adapted: bool, model: Path, tmp_path: Path) -> None:
    sees = reads_images(str(model))
    store = vision_store(tmp_path / "store", two=0, text=0) if sees else planted_store(tmp_path / "store")
    adapter: Any = None
    if adapted:
        peft = pytest.importorskip("peft")
        adapter = peft.LoraConfig(
            target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        )
    trainer, after = _trained(store, model, tmp_path / "out", adapter)
    trainer.save_model(str(tmp_path / "final"))
    # load_best_model_at_end: in memory.
    assert _differ(_weights(trainer.model), after[2]) == []
    # Checkpoints and the final model: as evaluation and users load them.
    folders = {step: tmp_path / "out" / f"checkpoint-{step}" for step in after}
    for folder, meant in [*((folders[step], after[step]) for step in after), (tmp_path / "final", after[2])]:
        loaded = _loaded(folder, model, adapter, sees=sees)
        assert _differ(loaded, meant) == [], folder.name
    # A resume: a trainer that begins anew has each checkpoint's weights.
    resumed = make_trainer(store, model, tmp_path / "other", adapter=adapter, num_variants=0)
    for step in (3, 1):
        resumed._load_from_checkpoint(str(folders[step]))
        assert _differ(_weights(resumed.model), after[step]) == [], step
    shutil.rmtree(tmp_path / "out")


def _loaded(folder: Path, base: Path, adapter: Any, *, sees: bool) -> Weights:
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    if adapter is None:
        return _weights(load_model(str(folder), kind))
    import peft

    return _weights(peft.PeftModel.from_pretrained(load_model(str(base), kind), str(folder)))
