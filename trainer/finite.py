"""What must stay finite, and what must not be moved: weights, gradients, and the random numbers of training."""

from __future__ import annotations

import math
from typing import Any

import torch
from trl import GRPOTrainer

from diva_grpo.schemas.exceptions import DivaError
from diva_grpo.trainer.checkpoints import latest_checkpoint
from diva_grpo.trainer.resume import kept_random_state


class FiniteGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` that ends where a gradient or weights are not finite, and whose evaluation leaves no trace."""

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # Mixed precision with fp16 looks for the largest factor of the loss that overflows no gradient.
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise self._not_finite("a gradient")
        return norm

    def _check_weights(self) -> None:
        # Cheap beside a generation, which reads all weights for each token.
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise self._not_finite("weights")

    def _not_finite(self, what: str) -> DivaError:
        whole = latest_checkpoint(self.args.output_dir)
        return DivaError(
            f"step {self.state.global_step}: {what} that are not finite end the run; "
            f"{f'the last checkpoint is {whole}' if whole else 'there is no checkpoint'}. Lower --learning_rate, or "
            "--max_grad_norm"
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save, unless weights are not finite.

        Raises:
            DivaError: they are not.
        """
        self._check_weights()
        super().save_model(output_dir, _internal_call)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, without a trace in the random numbers of training."""
        with kept_random_state():
            return dict(super().evaluate(*args, **kwargs))
