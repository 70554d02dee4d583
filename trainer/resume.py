"""What of a checkpoint depends on how many processes wrote it, and how another number of them reads it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.checkpoints import STATE_FILE
from diva_grpo.trainer.rows import Side, dealt

REFERENCE_FILE = "diva_reference.pt"
"""File in a checkpoint with the weights of a reference model that follows the policy (`sync_ref_model`)."""


@dataclass(frozen=True, slots=True)
class Split:
    """How the rollouts of a generation are split: by process, by slice of a generation, and by step.

    Attributes:
        processes: that train together.
        rows: of each process in each forward and backward pass.
        slices: passes that the rollouts of a generation suffice for.
        accumulation: passes for each step of the optimizer.
    """

    processes: int
    rows: int
    slices: int
    accumulation: int

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return asdict(self)

    def passes(self, made: Split, count: int) -> int:
        """Passes of this split for as many steps as `count` passes of another.

        Args:
            made: the other.
            count: passes done.
        """
        same = self.accumulation == made.accumulation
        return count if same else count // made.accumulation * self.accumulation

    def fits(self, made: Split) -> bool:
        """Whether a generation and a step have as many rollouts as with another split."""
        return (self._of_a_generation(), self._of_a_step()) == (made._of_a_generation(), made._of_a_step())

    def _of_a_generation(self) -> int:
        return self.processes * self.rows * self.slices

    def _of_a_step(self) -> int:
        return self.processes * self.rows * self.accumulation


def state_name(process: int) -> str:
    """Name of the file of a process; the main process has what is the same for all."""
    return STATE_FILE if process == 0 else f"diva_state_{process}.pt"


def load_state(checkpoint: str | Path, process: int = 0) -> dict[str, Any]:
    """What a process wrote into a checkpoint.

    Raises:
        ConfigError: it is not there.
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
    """The rollouts of a generation that has steps to go, as one of the present processes takes them.

    Args:
        checkpoint: its folder.
        state: of its main process.
        split: the present one.
        process: the present one's number.
        pad_id: padding token.

    Returns:
        Its slices; None where none are left, or a generation or a step has another size now: then rollouts are
        generated anew.

    Raises:
        ConfigError: the file of a process is missing.
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
def kept_random_state() -> Iterator[None]:
    """What is drawn inside leaves no trace in what is drawn after it."""
    state, array_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(array_state)
