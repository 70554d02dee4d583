"""Functions to resume from a checkpoint that another number of processes wrote."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from diva_grpo.schemas.exceptions import ConfigError, first_line
from diva_grpo.trainer.checkpoints import STATE_FILE
from diva_grpo.trainer.rows import Side, dealt

REFERENCE_FILE = "diva_reference.pt"
"""File in a checkpoint with the weights of the reference model, if it follows the policy (`sync_ref_model`)."""


@dataclass(frozen=True, slots=True)
class Split:
    """How the rollouts of a generation are split among processes, passes and steps.

    Attributes:
        processes: number of processes that train together.
        rows: number of rows per process in each forward and backward pass.
        slices: number of passes that use different rollouts of a generation.
        accumulation: number of passes per optimizer step.
    """

    processes: int
    rows: int
    slices: int
    accumulation: int

    def state(self) -> dict[str, int]:
        """Return the state for a checkpoint."""
        return asdict(self)

    def passes(self, made: Split, count: int) -> int:
        """Convert a number of passes with another split into passes with this split, for the same number of steps.

        Args:
            made: the other split.
            count: number of passes with the other split.
        """
        same = self.accumulation == made.accumulation
        return count if same else count // made.accumulation * self.accumulation

    def fits(self, made: Split) -> bool:
        """Return whether a generation and a step have the same numbers of rollouts as with another split."""
        return (self._of_a_generation(), self._of_a_step()) == (made._of_a_generation(), made._of_a_step())

    def _of_a_generation(self) -> int:
        return self.processes * self.rows * self.slices

    def _of_a_step(self) -> int:
        return self.processes * self.rows * self.accumulation


def state_name(process: int) -> str:
    """Return the name of a process's state file. That of process 0 also has the state that all processes share."""
    return STATE_FILE if process == 0 else f"diva_state_{process}.pt"


def load_state(checkpoint: str | Path, process: int = 0) -> dict[str, Any]:
    """Return the state that a process wrote into a checkpoint.

    Raises:
        ConfigError: its file is missing.
    """
    path = Path(checkpoint) / state_name(process)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} is missing: a process that wrote this checkpoint kept it on its own machine; copy it there, or "
            "resume from a complete checkpoint"
        ) from error
    return state


def buffered_of(
    checkpoint: str | Path, state: Mapping[str, Any], split: Split, process: int, pad_id: int
) -> list[Side] | None:
    """Return one process's share of the generation that was in use when the checkpoint was written.

    Args:
        checkpoint: folder of the checkpoint.
        state: state of its main process.
        split: split of the present processes.
        process: number of this process, from 0.
        pad_id: id of the padding token.

    Returns:
        The slices of this process. None if no steps remained for the generation, or if a generation or a step now has
        another number of rollouts; new rollouts are then generated.

    Raises:
        ConfigError: the state file of a process is missing.
    """
    made = Split(**state["split"])
    if state["buffered"] is None or not split.fits(made):
        return None
    if made == split:
        own: list[Side] = load_state(checkpoint, process)["buffered"]
        return own
    buffers = [load_state(checkpoint, number)["buffered"] for number in range(made.processes)]
    return dealt(buffers, split.slices, split.processes, process, pad_id)


@contextmanager
def reading(checkpoint: str | Path | None) -> Iterator[None]:
    """Turn the error of a damaged file, or of one that does not fit the model, into one that names the checkpoint.

    Raises:
        ConfigError: a file of the checkpoint cannot be read or used.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (
        OSError, EOFError, LookupError, RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError
    ) as error:  # fmt: skip
        raise ConfigError(
            f"the run cannot continue from {checkpoint}: {first_line(error)}; name another checkpoint with "
            "--resume_from_checkpoint"
        ) from error


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the random state of Python, NumPy and torch when the context is closed."""
    state, array_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(array_state)
