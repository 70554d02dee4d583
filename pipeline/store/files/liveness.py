"""Which runs of a store are at work, how far they are, and which have died.

Each run holds an advisory lock (`flock`) on a small file of its own for as long as its process lives. The
kernel frees it with the process, however that ends, so nobody has to guess by process ids or by clocks.
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
"""Sub-folder of the store: one file a run that has not ended."""

_SIZE = 4096
"""Bytes of a state, padded: one write of constant length replaces it, and no reader finds two of them mixed."""


@dataclass(frozen=True, slots=True)
class UnendedRun:
    """A run that has not ended, or whose process died.

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
def run_lock(root: Path, run_id: str) -> Iterator[None]:
    """Show a run as alive while the context is open. Only a process that dies leaves its file.

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
    """A run's file, which nobody finds without its lock: it is locked before it gets its name.

    The lock is shared, since a run may be resumed while it still runs; a prober's exclusive one lasts an instant.
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
            file.close()  # of a dead run, which another process has marked as killed meanwhile


def write_state(root: Path, run_id: str, state: Mapping[str, Any]) -> None:
    """Replace the state of a run under `run_lock`: one write without a sync, since a crash may forget it."""
    text = json.dumps(dict(state)).encode()[:_SIZE].ljust(_SIZE)
    with suppress(FileNotFoundError):  # the run has ended
        handle = os.open(_path(root, run_id), os.O_WRONLY)
        try:
            os.pwrite(handle, text, 0)
        finally:
            os.close(handle)


def unended_runs(root: Path) -> list[UnendedRun]:
    """The runs of a store that have not ended, dead ones too, by name."""
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
    """Record the runs whose processes have died as killed, and remove their files.

    A run that is resumed at that moment waits until it is done.

    Args:
        root: the store's folder.
        record: told each run_id.
    """
    for path in sorted((root / FOLDER).glob("*.json")):
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:  # else another process has done it
                record(path.stem)
                path.unlink(missing_ok=True)


def _read(content: bytes) -> dict[str, Any]:
    try:
        state = json.loads(content or b"{}")
    except ValueError:  # of another version, or cut by a full disk
        return {}
    return state if isinstance(state, dict) else {}
