"""`train_steps`: what a step cost and yielded, for our trainer and TRL's own, against what else is known of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Attempt, TrainStep
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.recorder import Recorder, RecorderCallback
from diva_grpo.trainer.steps import StepRecorder
from tests.bench.convergence.noise import NoiseRecorder
from tests.support.tiny_training import SETTINGS, coin_reward, make_trainer

CLIPPED: dict[str, Any] = {"max_grad_norm": 1e-3, "gradient_accumulation_steps": 2}


def gradients(trainer: Any) -> list[torch.Tensor]:
    """A list that fills with the gradient so far, after each backward pass."""
    seen: list[torch.Tensor] = []
    original = trainer.training_step

    def spy(*args: Any, **kwargs: Any) -> Any:
        loss = original(*args, **kwargs)
        seen.append(torch.cat([p.grad.flatten().clone() for p in trainer.model.parameters()]))
        return loss

    trainer.training_step = spy
    return seen


def recorded(trainer: Any, recorder: Recorder, kind: type[StepRecorder] = StepRecorder) -> None:
    trainer.add_callback(kind(recorder, trainer, "coin_reward"))
    trainer.train()


# Rollouts of a step by prompt and by problem; `slot` tells the prompts of a problem apart.
COUNTED = """
WITH prompts AS (
    SELECT step, problem_id, slot, count(*) rollouts, min(accuracy) low, max(accuracy) high,
           sum(completion_tokens) tokens
    FROM rollouts GROUP BY ALL
), problems AS (
    SELECT step, problem_id, min(low) = max(high) silent, count(*) prompts, sum(rollouts) rollouts,
           count(*) FILTER (low = high) silent_prompts, sum(tokens) tokens
    FROM prompts GROUP BY ALL
)
SELECT step, sum(rollouts), sum(prompts), sum(silent_prompts), count(*), count(*) FILTER (silent), sum(tokens)
FROM problems GROUP BY step ORDER BY step
"""


def test_steps_count_what_the_rollouts_say(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    trainer = make_trainer(sums, model_path, tmp_path / "out", hint_style="prefix", num_generations=2)
    recorded(trainer, trainer.recorder)
    names = "step, rollouts, groups, silent_groups, problems, silent_problems, completion_tokens"
    steps = sums.query(f"SELECT {names} FROM train_steps ORDER BY step")
    expected = sums.query(COUNTED)
    assert len(steps) == SETTINGS["max_steps"]
    # Openings are tokens of the completion, but not generated ones: TRL's mask, which rollouts count by, agrees.
    assert steps == [tuple(map(int, row)) for row in expected]
    assert sum(row[3] for row in steps) > sum(row[5] for row in steps) > 0


def test_refills_are_charged(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    calls = 0

    def coin_reward(completions: list[Any], **columns: Any) -> list[float | None]:
        nonlocal calls
        calls += 1
        return [0.0] * len(completions)

    trainer = make_trainer(
        sums, model_path, tmp_path / "out", rewards=coin_reward, refill_rounds=2, max_steps=2, num_variants=0
    )
    recorded(trainer, trainer.recorder)
    steps = sums.read(TrainStep)
    assert calls == 6
    assert [(s.rollouts, s.groups, s.silent_groups) for s in steps] == [(48, 12, 12)] * 2
    assert all(s.loss == 0 and s.grad_norm == 0 and s.grad_noise is None for s in steps)


def test_norm_and_noise_are_those_of_the_unclipped_gradient(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(sums, model_path, tmp_path / "out", **CLIPPED)
    seen = gradients(trainer)
    recorded(trainer, trainer.recorder, NoiseRecorder)
    steps = sums.read(TrainStep)
    assert len(steps) == SETTINGS["max_steps"]
    for step, half, whole in zip(steps, seen[::2], seen[1::2], strict=True):
        assert step.grad_norm == pytest.approx(float(whole.norm()), rel=1e-5)
        assert step.grad_norm > CLIPPED["max_grad_norm"]
        noise = float((half - (whole - half)).norm() ** 2 / whole.norm() ** 2)
        assert step.grad_noise == pytest.approx(noise, rel=1e-3)
        assert step.cpu_seconds > 0
        assert step.seconds > 0
    entropies = [log["entropy"] for log in trainer.state.log_history if "entropy" in log]
    assert [step.entropy for step in steps] == pytest.approx(entropies)
    assert min(entropies) > 0
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert [step.loss for step in steps] == pytest.approx(losses, abs=1e-6)


def test_trl_s_own_trainer_is_recorded_and_its_evaluation_is_not_in_the_time(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    slept = 0.5

    def coin_reward_with_a_slow_evaluation(completions: list[Any], **columns: Any) -> list[float | None]:
        if not trainer.model.training:
            time.sleep(slept)
        return coin_reward(completions)

    coin_reward_with_a_slow_evaluation.__name__ = "coin_reward"
    settings = {k: v for k, v in SETTINGS.items() if k != "accuracy_from"}
    dataset = problems_dataset(sums.problems(), PromptBuilder(chat=False))
    recorder = Recorder(sums, "theirs", flush_steps=100)
    trainer = GRPOTrainer(
        str(model_path),
        coin_reward_with_a_slow_evaluation,
        GRPOConfig(**settings, output_dir=str(tmp_path / "out"), eval_strategy="steps", eval_steps=1),
        dataset,
        eval_dataset=dataset.select(range(4)),
        processing_class=load_tokenizer(str(model_path)),
    )
    trainer.add_callback(RecorderCallback(recorder))
    began = time.monotonic()
    recorded(trainer, recorder)
    elapsed = time.monotonic() - began
    steps = sums.read(TrainStep, "run_id = 'theirs'")
    assert [(s.step, s.rollouts, s.groups, s.problems) for s in steps] == [(i, 16, 4, 4) for i in range(4)]
    assert all(s.silent_groups == s.silent_problems and s.grad_noise is None for s in steps)
    assert sum(s.seconds for s in steps) < elapsed - 4 * slept


def test_steps_of_an_earlier_attempt_are_superseded(store: VariantStore) -> None:
    def steps(of: range, attempt: int) -> list[TrainStep]:
        figures: dict[str, Any] = {
            "seconds": 1.0, "cpu_seconds": 1.0, "rollouts": 8, "completion_tokens": 9, "loss": 0.0,
            "groups": 2, "silent_groups": 1, "problems": 1, "silent_problems": 0, "grad_norm": 1.0,
        }  # fmt: skip
        return [TrainStep(run_id="r", step=i, attempt=attempt, **figures) for i in of]

    store.append([Attempt(run_id="r", attempt=0, resumed_step=0)])
    store.append(steps(range(5), 0))
    store.append([Attempt(run_id="r", attempt=1, resumed_step=2)])
    store.append(steps(range(2, 4), 1))
    assert store.query("SELECT step, attempt FROM train_steps ORDER BY step") == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
    ]


def test_an_unknown_reward_is_told(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    trainer = make_trainer(sums, model_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="choose one of coin_reward"):
        StepRecorder(trainer.recorder, trainer, "accuracy_reward")
