"""Signs of life: which runs of a store are at work, how far they are, and which have died.

Each run holds an advisory lock (`flock`) on a small file of its own for as long as its process lives. The
kernel frees it with the process, however that ends, so nobody has to guess by process ids or by clocks.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "running"
"""Sub-folder of the store: one file a run that has not ended."""

_SIZE = 4096
"""Bytes of a state, padded: one write of constant length replaces it, and no reader finds two of them mixed."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What a run that has not ended has left.

    Attributes:
        run_id: of the run.
        alive: whether its process still lives.
        state: what it last wrote; empty where it wrote nothing.
    """

    run_id: str
    alive: bool
    state: dict[str, Any]


def _path(root: Path, run_id: str) -> Path:
    return root / FOLDER / f"{run_id.replace('/', '_')}.json"


@contextmanager
def sign_of_life(root: Path, run_id: str) -> Iterator[None]:
    """Show a run as alive while the context is open; only a process that dies leaves its file behind."""
    path = _path(root, run_id)
    path.parent.mkdir(exist_ok=True)
    with path.open("a+b") as held:
        # Shared, since a run may be resumed while it still runs; a prober's exclusive lock lasts an instant.
        fcntl.flock(held, fcntl.LOCK_SH)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_state(root: Path, run_id: str, state: Mapping[str, Any]) -> None:
    """Replace the state of a run under `sign_of_life`: one write without a sync, since a crash may forget it."""
    text = json.dumps(dict(state)).encode()[:_SIZE].ljust(_SIZE)
    with suppress(FileNotFoundError):  # the run has ended
        handle = os.open(_path(root, run_id), os.O_WRONLY)
        try:
            os.pwrite(handle, text, 0)
        finally:
            os.close(handle)


def signs(root: Path) -> list[Sign]:
    """The runs of a store that have not ended, dead ones too, by name."""
    found = []
    for path in sorted((root / FOLDER).glob("*.json")):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alive = False
            except BlockingIOError:
                alive = True
            found.append(Sign(path.stem, alive, _read(file.read())))
    return found


def forget(root: Path, run_id: str) -> None:
    """Remove what a dead run has left, once its end is recorded."""
    _path(root, run_id).unlink(missing_ok=True)


def _read(content: bytes) -> dict[str, Any]:
    try:
        state = json.loads(content or b"{}")
    except ValueError:  # of another version, or cut by a full disk
        return {}
    return state if isinstance(state, dict) else {}
