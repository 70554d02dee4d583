"""What the trainer relies on in TRL 1.16 and transformers, by name: an upgrade that moves it fails here first."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from types import SimpleNamespace

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from diva_grpo.trainer.sampler import EpochRepeatSampler


def test_pinned_version() -> None:
    assert version("trl").startswith("1.16.")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        ("_tokenize_prompts", ["self", "prompts"]),
        ("_generate", ["self", "prompts"]),
        ("_get_train_sampler", ["self", "dataset"]),
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_load_optimizer_and_scheduler", ["self", "checkpoint"]),
        ("_compute_loss", ["self", "model", "inputs"]),
        ("_get_grad_norm", ["self", "model", "grad_norm"]),
    ],
)
def test_methods_that_are_overridden(method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


@pytest.mark.parametrize(
    "name",
    "_step _buffered_inputs _metrics _logs _pending_extra_logs _tokenizer log_completions log_multimodal "
    "reward_func_names".split(),
)
def test_attributes_that_are_used(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(GRPOTrainer)


def test_an_epoch_is_run_by_keywords() -> None:
    assert "self._run_epoch(\n                model=model," in inspect.getsource(Trainer._inner_training_loop)


def test_what_steps_are_measured_by() -> None:
    assert "self._tr_loss" in inspect.getsource(Trainer._run_epoch)
    assert '"completions/mean_length"' in inspect.getsource(GRPOTrainer._generate)


def test_the_loss_takes_advantages_by_token() -> None:
    assert "if advantages.dim() == 1:" in inspect.getsource(GRPOTrainer._compute_loss)


def test_each_loss_computes_the_entropies() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "per_token_logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(" in source
    assert "compute_entropy=True," in source


def test_orders_of_epochs_are_those_of_trl() -> None:
    rows = list(range(12))
    theirs = RepeatSampler(rows, mini_repeat_count=3, batch_size=4, repeat_count=2, seed=5)
    ours = EpochRepeatSampler(rows, mini_repeat_count=3, batch_size=4, repeat_count=2, seed=5)
    for epoch in range(3):
        expected = list(theirs)
        ours.set_epoch(epoch)
        assert list(ours) == expected
        assert list(ours) == expected, "the same epoch again"


def test_accelerate_tells_the_sampler_its_epoch() -> None:
    from accelerate import Accelerator

    sampler = EpochRepeatSampler(list(range(8)), mini_repeat_count=1, seed=5)
    numbers = datasets.Dataset.from_dict({"n": list(range(8))}).with_format("torch")
    loader = Accelerator(cpu=True).prepare(DataLoader(numbers, sampler=sampler))
    loader.set_epoch(2)
    assert sampler.epoch == 2


def test_the_shuffle_behind_us_keeps_rows_together() -> None:
    from trl.trainer.utils import shuffle_sequence_dict

    batch = {"advantages": torch.arange(6.0), "prompt_ids": torch.arange(6)[:, None]}
    shuffled = shuffle_sequence_dict(SimpleNamespace(**batch).__dict__)
    assert torch.equal(shuffled["advantages"], shuffled["prompt_ids"][:, 0].float())
