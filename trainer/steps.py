"""`StepRecorder` records time, loss and rollouts of each training step, for our trainer and for trainers of TRL.

    steps = StepRecorder(recorder, trainer)
    trainer.add_callback(steps)

The time of a step includes generation and refills, but not evaluations and checkpoints, which happen between two steps.
As in every record, step s is the one that generates at TRL's global_step s and ends with global_step s + 1. The cost of
training up to an evaluation at step e is therefore the sum over the steps below e.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import TrainStep
from diva_grpo.trainer.recorder import Recorder


@dataclass(slots=True)
class _Yield:
    """Counts over all generations of a step, including refills."""

    rollouts: int = 0
    groups: int = 0
    silent_groups: int = 0
    problems: int = 0
    silent_problems: int = 0
    completion_tokens: int = 0


class StepRecorder(TrainerCallback):
    """Records a `TrainStep` for each optimizer step.

    It wraps two methods of the given trainer, whose results do not change: `GRPOTrainer._calculate_rewards`, for the
    rollouts of all processes, and `Trainer._get_grad_norm`, for the norm before clipping. The steps of a trainer that
    generates nothing (`SFTTrainer`) are recorded with 0 rollouts.

    Args:
        recorder: collects the records and writes them to the store.
        trainer: a trainer of TRL. Rollouts are recorded only for a `GRPOTrainer`.
        accuracy_from: name of the reward function that decides whether an answer is right (above 0.5) or wrong.

    Raises:
        ConfigError: a `GRPOTrainer` has no reward function of this name.
    """

    grad_noise: float | None = None
    """Variance of the step's gradient. A subclass that estimates it sets it; here it is None."""

    def __init__(self, recorder: Recorder, trainer: Trainer, accuracy_from: str = "accuracy_reward") -> None:
        self._recorder = recorder
        self._trainer: Any = trainer  # Any, because private attributes are read
        self._column: int | None = None
        if isinstance(trainer, GRPOTrainer):
            if accuracy_from not in trainer.reward_func_names:
                names = ", ".join(trainer.reward_func_names)
                raise ConfigError(
                    f"accuracy_from={accuracy_from!r} is none of the reward functions: choose one of {names}"
                )
            self._column = trainer.reward_func_names.index(accuracy_from)
        self._yield = _Yield()
        self._grad_norm = 0.0
        self._loss_before = 0.0
        self._entropies_before = 0
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self._listen()

    def _listen(self) -> None:
        trainer = self._trainer
        get_norm = trainer._get_grad_norm

        def get_grad_norm(*args: Any, **kwargs: Any) -> Any:
            norm = get_norm(*args, **kwargs)
            self._grad_norm = float(norm)
            return norm

        trainer._get_grad_norm = get_grad_norm
        if self._column is None:
            return
        calculate, column = trainer._calculate_rewards, self._column

        def calculate_rewards(*args: Any, **kwargs: Any) -> torch.Tensor:
            rewards_BF: torch.Tensor = calculate(*args, **kwargs)
            if trainer.model.training:
                self._count(rewards_BF[:, column].double().cpu())
            return rewards_BF

        trainer._calculate_rewards = calculate_rewards

    def _count(self, accuracy_B: torch.Tensor) -> None:
        generations = self._trainer.num_generations
        block = getattr(self._trainer.args, "rollouts_per_problem", generations)
        so_far, count = self._yield, len(accuracy_B)
        # TRL computes this mean over all processes, and before an opening is added to a completion.
        mean_length = self._trainer._metrics["train"]["completions/mean_length"][-1]
        self._yield = _Yield(
            so_far.rollouts + count,
            so_far.groups + count // generations,
            so_far.silent_groups + _silent(accuracy_B.view(-1, generations)),
            so_far.problems + count // block,
            so_far.silent_problems + _silent(accuracy_B.view(-1, block)),
            so_far.completion_tokens + round(mean_length * count),
        )

    def _entropies(self) -> list[float]:
        """Return the entropies since TRL's last log, one per pass of the loss; an empty list for SFTTrainer."""
        return [] if self._column is None else self._trainer._metrics["train"]["entropy"]

    def _entropy(self) -> float | None:
        of_step = [value for value in self._entropies()[self._entropies_before :] if math.isfinite(value)]
        return statistics.fmean(of_step) if of_step else None

    # --- events of the trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reset the counts, and note the start of the step."""
        self._yield = _Yield()
        self._loss_before = float(self._trainer._tr_loss)
        self._entropies_before = len(self._entropies())
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the step."""
        columns = {
            "seconds": [time.perf_counter() - self._began],
            "cpu_seconds": [time.process_time() - self._cpu_began],
            "loss": [float(self._trainer._tr_loss) - self._loss_before],
            "grad_norm": [self._grad_norm],
            "grad_noise": [self.grad_noise],
            "entropy": [self._entropy()],
            **{name: [getattr(self._yield, name)] for name in _Yield.__slots__},
        }
        if self._recorder.active:
            self._recorder.add(TrainStep, state.global_step - 1, columns)
        self._recorder.maybe_flush(state.global_step)


def _silent(accuracy_QN: torch.Tensor) -> int:
    """Return the number of rows that do not have both a right and a wrong rollout among the judged ones."""
    right_QN, judged_QN = accuracy_QN > 0.5, ~accuracy_QN.isnan()
    differ_Q = (right_QN & judged_QN).any(dim=1) & (~right_QN & judged_QN).any(dim=1)
    return int((~differ_Q).sum())
