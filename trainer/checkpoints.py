"""Checkpoints of `diva train`: which folders are complete, and of which run and step they are."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

STATE_FILE = "diva_state.pt"
"""File in a checkpoint with what TRL does not keep: run, live difficulty, generated rollouts in use."""

_END_FILE = "trainer_state.json"
"""File that transformers writes last: a checkpoint cut short by a crash has no readable one."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with a checkpoint, or what a crash left of one.

    Attributes:
        folder: where it is.
        step: at which it was written, as its state or else its name says.
        run_id: of the run of `diva train` that wrote it; None where none did, or its state cannot be read.
        whole: whether all of it was written.
        torn: whether a crash cut short the writing of one of `diva train`.
    """

    folder: Path
    step: int
    run_id: str | None
    whole: bool
    torn: bool


def read_checkpoint(folder: str | Path) -> Checkpoint | None:
    """What a folder says of itself; None where there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return None
    ended = _ended_at(folder)
    named = folder.name.rpartition("-")[2]
    step = ended if ended is not None else int(named) if named.isdecimal() else 0
    ours = (folder / STATE_FILE).exists() or not any(folder.iterdir())
    return Checkpoint(folder, step, _run_id(folder), ended is not None, ours and ended is None)


def _ended_at(folder: Path) -> int | None:
    """The step of a checkpoint whose last file was written."""
    try:
        return int(json.loads((folder / _END_FILE).read_text("utf-8"))["global_step"])
    except (OSError, ValueError, KeyError):
        return None


def _run_id(folder: Path) -> str | None:
    try:
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):  # none, or cut short
        return None
    return str(state["run_id"])


def checkpoints_of(output_dir: str | Path) -> list[Checkpoint]:
    """All folders in `output_dir` that are named as checkpoints, by step."""
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    found = [read_checkpoint(folder) for folder in folders if folder.name.rpartition("-")[2].isdecimal()]
    return sorted((c for c in found if c is not None), key=lambda c: c.step)


def latest_checkpoint(output_dir: str | Path) -> str | None:
    """The last complete checkpoint of `diva train` in a folder."""
    whole = [c for c in checkpoints_of(output_dir) if c.whole and c.run_id is not None]
    return str(whole[-1].folder) if whole else None


def training_step(model_path: str) -> tuple[str, int] | None:
    """The run and step of which a model folder is a checkpoint; None where it is none of `diva train`."""
    found = read_checkpoint(model_path)
    return (found.run_id, found.step) if found and found.whole and found.run_id is not None else None
