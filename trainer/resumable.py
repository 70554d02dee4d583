"""Checkpoints from which a run continues exactly: weights by name, our own state, and a generation in use."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device, set_seed
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.finite import FiniteGRPOTrainer
from diva_grpo.trainer.resume import REFERENCE_FILE, Split, buffered_of, load_state, reading, state_name

logger = logging.getLogger(__name__)
_last_checkpoint: Any = get_last_checkpoint  # Any, because transformers has no types for it


class ResumableGRPOTrainer(FiniteGRPOTrainer):
    """`GRPOTrainer` whose resumed run continues as if it had not been interrupted.

    The number of processes may be another one than before. A subclass defines further state that a checkpoint keeps
    (`_own_state`, `_restore_own_state`).

    Raises:
        ConfigError: `sync_ref_model` is set with DeepSpeed or FSDP, whose checkpoints cannot hold the reference model.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._other_processes = False
        if (
            self.args.sync_ref_model
            and self.args.save_strategy != "no"
            and (self.is_deepspeed_enabled or self.is_fsdp_enabled)
        ):
            raise ConfigError(
                "sync_ref_model with DeepSpeed or FSDP: a checkpoint would not hold the reference model, and a resumed "
                "run would have another; set --save_strategy no"
            )

    def _own_state(self) -> dict[str, Any]:
        """Return further state for a checkpoint. It must be the same on all processes."""
        raise NotImplementedError  # each trainer has a state of its own

    def _restore_own_state(self, state: dict[str, Any]) -> None:
        """Restore a state that `_own_state` returned; other keys are ignored."""
        raise NotImplementedError  # each trainer has a state of its own

    def _run_epoch(self, **kwargs: Any) -> None:
        # transformers compares with max_steps only after a step, so it would do one step too many.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Our files are written first: trainer_state.json is written last, and marks a checkpoint as complete.
        self._check_weights()
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        between = self._step % (self.args.steps_per_generation * self.num_iterations)
        state = {
            **_with_tensors(self._own_state()),
            "micro_step": self._step,
            "split": self._split.state(),
            # Keep a generation on which steps remain; without it the resumed run would generate new rollouts.
            "buffered": self._buffered_inputs if between else None,
        }
        torch.save(state, folder / state_name(self.accelerator.process_index))
        if self.args.sync_ref_model and self.accelerator.is_main_process:
            torch.save(self._reference().state_dict(), folder / REFERENCE_FILE)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        with reading(resume_from_checkpoint):
            if not self._loaded_whole(resume_from_checkpoint, model):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._loaded_whole(str(self.state.best_model_checkpoint), self.model):
            super()._load_best_model()

    def _loaded_whole(self, checkpoint: str, model: Any) -> bool:
        """Load the weights of a checkpoint by name.

        Returns:
            False, with nothing loaded, for a LoRA adapter or with FSDP or DeepSpeed; else True.
        """
        if not isinstance(model, PreTrainedModel) or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return False
        # A file has the parameter names with which a model was published. The Trainer of transformers compares them
        # with the present names and skips those that it does not find: for LLaVA or Qwen2.5-VL, nearly all.
        saved = type(model).from_pretrained(checkpoint, dtype=model.dtype)
        model.load_state_dict(saved.state_dict())
        return True

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        self._warn_of_lost_state(checkpoint)
        state = self._state_of(checkpoint)
        if checkpoint is None or state is None:
            return
        made, process = Split(**state["split"]), self.accelerator.process_index
        buffered = buffered_of(checkpoint, state, self._split, process, self._tokenizer.pad_token_id)
        if buffered is None and state["buffered"] is not None:
            logger.warning("steps have other sizes than in the checkpoint: its rollouts are generated anew")
        self._restore_own_state(state)
        self._step = self._split.passes(made, state["micro_step"])
        self._buffered_inputs = send_to_device(buffered, self.accelerator.device)
        self._other_processes = made.processes != self._split.processes
        if self.args.sync_ref_model:
            path = Path(checkpoint) / REFERENCE_FILE
            if not path.exists():
                raise ConfigError(
                    f"{checkpoint} has no reference model: it was written without sync_ref_model; resume without it"
                )
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self._reference().load_state_dict(weights)

    def _state_of(self, checkpoint: str | bool | None) -> dict[str, Any] | None:
        """Return our state in a checkpoint, from the file of the main process; None if there is none.

        Args:
            checkpoint: the argument `resume_from_checkpoint` of `train`: a folder, or True for the last one in
                output_dir.
        """
        found: Any = _last_checkpoint(self.args.output_dir) if checkpoint is True else checkpoint
        if not found or not (Path(found) / state_name(0)).exists():
            return None
        return load_state(found)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._other_processes:
            set_seed(self.args.seed + self.state.global_step, device_specific=True)
        else:
            with reading(checkpoint):
                super()._load_rng_state(checkpoint)

    def _warn_of_lost_state(self, checkpoint: str | None) -> None:
        # The Trainer says nothing if files are missing, as they are with save_only_model.
        if checkpoint is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        patterns = {
            "optimizer.pt": "optimizer",
            "scheduler.pt": "learning rate",
            "rng_state*.pth": "random state",
        }
        lost = [what for pattern, what in patterns.items() if not any(Path(checkpoint).glob(pattern))]
        if lost and self.accelerator.is_main_process:
            logger.warning(
                "%s lacks the state of %s (save_only_model leaves it out): the run goes on with new ones, and not as "
                "it would have gone on",
                checkpoint,
                ", ".join(lost),
            )

    @property
    def _split(self) -> Split:
        return Split(
            self.accelerator.num_processes,
            self.args.per_device_train_batch_size,
            self.args.steps_per_generation,
            self.args.gradient_accumulation_steps,
        )

    def _reference(self) -> torch.nn.Module:
        model: torch.nn.Module = self.accelerator.unwrap_model(self.ref_model)
        return model


def _with_tensors(state: Any) -> Any:
    """Return a state with its NumPy arrays as tensors, because `torch.load(weights_only=True)` refuses arrays."""
    if isinstance(state, dict):
        return {name: _with_tensors(value) for name, value in state.items()}
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state
