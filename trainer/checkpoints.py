"""Finds the checkpoints in a folder, and reads their step, their run, and whether they are complete."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

STATE_FILE = "diva_state.pt"
"""File in a checkpoint with the state that TRL does not save: run, live difficulty, and rollouts in use."""

RUN_FILE = "diva_run.json"
"""File with the id of a run and its settings: in output_dir, and in each checkpoint."""

_END_FILE = "trainer_state.json"
"""File that transformers writes last. If it is missing or cannot be read, the checkpoint is incomplete."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with a complete or incomplete checkpoint.

    Attributes:
        folder: path of the folder.
        step: training step of the checkpoint, from its state, or else from the name of the folder.
        run_id: id of the run of `diva train` that wrote it; None if another program did.
        whole: whether the checkpoint is complete, and its state can be read.
        torn: whether it is an incomplete checkpoint of `diva train`, such as a crash leaves, or an empty folder.
    """

    folder: Path
    step: int
    run_id: str | None
    whole: bool
    torn: bool


def read_checkpoint(folder: str | Path) -> Checkpoint | None:
    """Return the checkpoint in a folder; None if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return None
    ended = _ended_at(folder)
    named = folder.name.rpartition("-")[2]
    step = ended if ended is not None else int(named) if named.isdecimal() else 0
    has_state = (folder / STATE_FILE).exists()
    run_id, named_run = _run_id(folder), _named_run(folder)
    damaged = run_id is None and (has_state or named_run is not None)
    return Checkpoint(
        folder,
        step,
        run_id or named_run,
        whole=ended is not None and not damaged,
        torn=ended is None and (has_state or not any(folder.iterdir())),
    )


def _ended_at(folder: Path) -> int | None:
    """Return the step of a complete checkpoint; None if it is incomplete."""
    try:
        return int(json.loads((folder / _END_FILE).read_text("utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run_id(folder: Path) -> str | None:
    try:
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):  # missing or incomplete
        return None
    return str(state["run_id"])


def _named_run(folder: Path) -> str | None:
    """Return the id in the run file of a checkpoint; None if it cannot be read."""
    try:
        return str(json.loads((folder / RUN_FILE).read_text("utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checkpoints_of(output_dir: str | Path) -> list[Checkpoint]:
    """Return all folders in `output_dir` with the name of a checkpoint, complete or not, ordered by step."""
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    found = [read_checkpoint(folder) for folder in folders if folder.name.rpartition("-")[2].isdecimal()]
    return sorted((c for c in found if c is not None), key=lambda c: c.step)


def latest_checkpoint(output_dir: str | Path) -> str | None:
    """Return the path of the last complete checkpoint of `diva train` in a folder; None if there is none."""
    whole = [c for c in checkpoints_of(output_dir) if c.whole and c.run_id is not None]
    return str(whole[-1].folder) if whole else None


def training_step(model_path: str) -> tuple[str, int] | None:
    """Return the run id and step of a checkpoint folder; None if it is not a complete checkpoint of `diva train`."""
    found = read_checkpoint(model_path)
    return (found.run_id, found.step) if found and found.whole and found.run_id is not None else None
