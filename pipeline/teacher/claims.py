"""Who asks for what just now, among all processes that share a file; a crash lets go of it by itself."""

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
"""Locks that belong to the open file and not to the process, where the system has them (Linux)."""


class Claims:
    """Claims of keys, each a lock on one byte of a file, at an offset that the key says.

    The kernel holds the locks, and lets go of a process's when it ends, however it ends: nothing is left that
    another would have to break. The file stays empty. Where the system has no locks of an open file, those of
    the process are taken; then only other processes are kept out, not another `Claims` of this one.

    Args:
        path: the file, made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._held: dict[str, asyncio.Event] = {}
        """Keys claimed through this object, and what tells that they are free again."""

    def close(self) -> None:
        """Let go of everything."""
        os.close(self._file)

    @asynccontextmanager
    async def claim(self, key: str) -> AsyncIterator[None]:
        """Hold a key while the context is open; waits while another task or process holds it.

        Args:
            key: a hexadecimal hash.
        """
        while (event := self._held.get(key)) is not None:
            await event.wait()
        self._held[key] = asyncio.Event()
        try:
            # The kernel could wait too, but only by holding up a thread for each key.
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
        offset = int(key[:15], 16)  # 60 bits: two keys in flight share a byte less often than disks fail
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
