"""The variance of a step's gradient, estimated from the halves of its rollouts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from diva_grpo.trainer.steps import StepRecorder


class NoiseRecorder(StepRecorder):
    """A `StepRecorder` that fills the column `grad_noise`: |a - b|^2 / |a + b|^2 of the gradients a, b of two halves.

    It keeps a second gradient in memory, and needs an even number of `gradient_accumulation_steps` in one process;
    the column stays NULL without these.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        accumulated = self._trainer.args.gradient_accumulation_steps
        measurable = accumulated % 2 == 0 and self._trainer.accelerator.num_processes == 1
        self._half = accumulated // 2 if measurable else 0
        self._substeps = 0
        self._first_half: torch.Tensor | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._substeps, self._first_half, self.grad_noise = 0, None, None
        super().on_step_begin(args, state, control, **kwargs)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._substeps += 1
        if self._substeps == self._half:
            self._first_half = self._gradient()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare the halves. The gradient is clipped by now: one factor for all of it."""
        if self._first_half is None:
            return
        whole = self._gradient()
        clipped_norm = float(whole.norm())
        if clipped_norm > 0:
            other_half = whole * (self._grad_norm / clipped_norm) - self._first_half
            self.grad_noise = (float((self._first_half - other_half).norm()) / self._grad_norm) ** 2

    def _gradient(self) -> torch.Tensor:
        parameters = self._trainer.model.parameters()
        return torch.cat([p.grad.detach().flatten() for p in parameters if p.grad is not None]).float()
