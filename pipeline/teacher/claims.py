"""Locks on requests, so that only one of several tasks and processes sends a request. A crash releases its locks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_FIRST_POLL_S, _LONGEST_POLL_S = 0.02, 0.5

_OPEN_FILE_LOCK = getattr(fcntl, "F_OFD_SETLK", None)
"""Command for locks that belong to the open file and not to the process; None on systems without it (not Linux)."""


class Claims:
    """Locks on keys. Each is a lock on one byte of a file, at a position that is computed from the key.

    The kernel releases the locks of a process when it ends, even after a crash, so there are no stale locks. The file
    stays empty. On Linux the locks belong to the open file. Other systems have only locks of a process, which do not
    exclude another `Claims` object of the same process.

    Args:
        path: the lock file; created if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._held: dict[str, asyncio.Event] = {}
        """Keys that are locked through this object, each with the event that is set when it is released."""

    def close(self) -> None:
        """Release all locks and close the file."""
        os.close(self._file)

    @asynccontextmanager
    async def claim(self, key: str) -> AsyncIterator[None]:
        """Hold the lock of a key while the context is open. Waits while another task or process holds it.

        Args:
            key: a hexadecimal hash.
        """
        while (event := self._held.get(key)) is not None:
            await event.wait()
        self._held[key] = asyncio.Event()
        try:
            # Polling, because a call that waits for the lock would block a thread for each key.
            poll = _FIRST_POLL_S
            while not self._lock(key, fcntl.F_WRLCK):
                await asyncio.sleep(poll)
                poll = min(1.5 * poll, _LONGEST_POLL_S)
            try:
                yield
            finally:
                self._lock(key, fcntl.F_UNLCK)
        finally:
            self._held.pop(key).set()

    def _lock(self, key: str, kind: int) -> bool:
        offset = int(key[:15], 16)  # 60 bits, so it is very unlikely that two keys in use share a byte
        try:
            if _OPEN_FILE_LOCK is None:
                flags = fcntl.LOCK_UN if kind == fcntl.F_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
                fcntl.lockf(self._file, flags, 1, offset)
            else:
                # struct flock: type, whence, start, length, process (0 for locks of an open file).
                lock = struct.pack("hhqqi0q", kind, os.SEEK_SET, offset, 1, 0)
                fcntl.fcntl(self._file, _OPEN_FILE_LOCK, lock)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True
