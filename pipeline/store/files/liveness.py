"""Which runs of a store are still running, how far they are, and which have died.

Each run holds an advisory lock (`flock`) on a small file of its own while its process lives. The kernel frees the
lock when the process ends, for whatever reason. Other processes therefore need not rely on process ids or clocks.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from diva_grpo.schemas.command import word
from diva_grpo.schemas.exceptions import StoreError

FOLDER = "running"
"""Sub-folder of the store with one file for each run that has not ended."""

_SIZE = 4096
"""Size of a state in bytes. Each state is padded to this size and replaced by one write, so that no reader sees a
mixture of two states."""


@dataclass(frozen=True, slots=True)
class UnendedRun:
    """A run that has not ended, or whose process died.

    Attributes:
        run_id: id of the run.
        alive: whether its process still lives.
        state: the state that it last wrote with `write_state`; empty if it wrote none.
    """

    run_id: str
    alive: bool
    state: dict[str, Any]


def _path(root: Path, run_id: str) -> Path:
    return root / FOLDER / f"{run_id.replace('/', '_')}.json"


@contextmanager
def run_lock(root: Path, run_id: str) -> Iterator[None]:
    """Mark a run as alive while the context is open, by a locked file. The file is deleted on leaving.

    If the process dies, the file stays without a lock (see `mark_killed`).

    Raises:
        StoreError: the folder cannot be written.
    """
    path = _path(root, run_id)
    try:
        path.parent.mkdir(exist_ok=True)
        file = _held(path)
    except OSError as error:
        raise StoreError(f"the store {word(root)} cannot be written: {error.strerror or error}") from error
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _held(path: Path) -> BinaryIO:
    """Open and lock a run's file.

    A new file is locked before it gets its name, so that no other process finds it unlocked. The lock is shared,
    because a run may be resumed while it still runs. Functions that check for a lock hold an exclusive lock briefly.
    """
    while True:
        if not path.exists():
            draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
            file = draft.open("w+b")
            fcntl.flock(file, fcntl.LOCK_SH)
            draft.replace(path)
            return file
        with suppress(FileNotFoundError):
            file = path.open("r+b")
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file.fileno()).st_nlink:
                return file
            file.close()  # the run was dead, and another process has just marked it as killed


def write_state(root: Path, run_id: str, state: Mapping[str, Any]) -> None:
    """Replace the state of a run that holds `run_lock`. Does nothing if the run has ended.

    The write is not synced to disk, because the state may be lost in a crash.

    Args:
        root: the store's folder.
        run_id: id of the run.
        state: the new state; must be serializable as JSON.
    """
    text = json.dumps(dict(state)).encode()[:_SIZE].ljust(_SIZE)
    with suppress(FileNotFoundError):  # the run has ended
        handle = os.open(_path(root, run_id), os.O_WRONLY)
        try:
            os.pwrite(handle, text, 0)
        finally:
            os.close(handle)


def unended_runs(root: Path) -> list[UnendedRun]:
    """Return the runs of a store that have not ended, including dead ones, in the order of their file names."""
    found = []
    for path in sorted((root / FOLDER).glob("*.json")):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alive = False
            except BlockingIOError:
                alive = True
            found.append(UnendedRun(path.stem, alive, _read(file.read())))
    return found


def mark_killed(root: Path, record: Callable[[str], None]) -> None:
    """Record the runs whose processes have died as killed, and delete their files.

    If such a run is resumed at the same time, the resumed process waits until its file is deleted.

    Args:
        root: the store's folder.
        record: called with the run_id of each of these runs, before its file is deleted.
    """
    for path in sorted((root / FOLDER).glob("*.json")):
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:  # otherwise another process has already recorded it
                record(path.stem)
                path.unlink(missing_ok=True)


def _read(content: bytes) -> dict[str, Any]:
    try:
        state = json.loads(content or b"{}")
    except ValueError:  # written by another version, or truncated on a full disk
        return {}
    return state if isinstance(state, dict) else {}
