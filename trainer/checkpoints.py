"""Checkpoints of `diva train`: which folders are whole, and of which run and step they are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

STATE_FILE = "diva_state.pt"
"""File in a checkpoint with what TRL does not keep: run, live difficulty, generated rollouts in use."""


def latest_checkpoint(output_dir: str) -> str | None:
    """The last whole checkpoint: one cut short by a crash has no readable trainer_state.json."""
    found = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        number = folder.name.rpartition("-")[2]
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        if number.isdecimal() and (folder / STATE_FILE).exists():
            found.append((int(number), str(folder)))
    return max(found)[1] if found else None


def training_step(model_path: str) -> tuple[str, int] | None:
    """The run and step of which a model folder is a checkpoint; None where it is none of `diva train`."""
    folder = Path(model_path)
    try:
        step = int(json.loads((folder / "trainer_state.json").read_text("utf-8"))["global_step"])
    except (OSError, ValueError, KeyError):
        return None
    if not (folder / STATE_FILE).exists():
        return None
    state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    return state["run_id"], step
