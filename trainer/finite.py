"""`FiniteGRPOTrainer`: checks for finite gradients and weights, and evaluation that does not change training."""

from __future__ import annotations

import math
from typing import Any

import torch
from trl import GRPOTrainer

from diva_grpo.schemas.exceptions import DivaError
from diva_grpo.trainer.checkpoints import latest_checkpoint
from diva_grpo.trainer.resume import kept_random_state


class FiniteGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` that raises `DivaError` when gradients or weights are not finite.

    Its evaluation restores the random state, so that training is the same with and without evaluation.
    """

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # With fp16, gradients that are not finite are normal: the scaler skips the step and lowers the loss scale.
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise self._not_finite("gradients")
        return norm

    def _check_weights(self) -> None:
        # This is cheap compared with a generation, which reads all weights for each token.
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
        """Save the model if all weights are finite.

        Raises:
            DivaError: some weights are not finite; nothing is saved.
        """
        self._check_weights()
        super().save_model(output_dir, _internal_call)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `GRPOTrainer` does, then restore the random state of training."""
        with kept_random_state():
            return dict(super().evaluate(*args, **kwargs))
