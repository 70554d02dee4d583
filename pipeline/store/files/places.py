"""Where a store's files lie: a folder of this machine, or a prefix of an object store.

A file appears by one atomic act (a rename, or one PUT), whole and durable, and is never changed again.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from diva_grpo.schemas.exceptions import StoreError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


LISTS = "published"
"""Folder of the lists of published parts, see `pipeline.store.files.published`."""

_READ_BYTES = 1 << 20
_LIST_S = 1800.0
"""Seconds for which a process adds to one list: shorter than the grace of a compaction, which folds older ones."""


class ListName:
    """The name of this process's own list; a fork gets another, and so does each half hour."""

    def __init__(self) -> None:
        self._process, self._begun_ns, self._name = 0, 0, ""

    def __str__(self) -> str:
        now = time.time_ns()
        if self._process != os.getpid() or not 0 <= now - self._begun_ns < _LIST_S * 1e9:
            self._process, self._begun_ns = os.getpid(), now
            self._name = f"{now:020d}-{uuid.uuid4().hex[:8]}.txt"
        return self._name


class Draft(io.RawIOBase):
    """A file in the making, which knows the hash of what was written; it is published under `name`."""

    name: str | None = None

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Append to the file."""
        self._hash.update(data)
        written = self._out.write(data)
        self._size += written
        return written

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def digest(self) -> str:
        """SHA-256 of what was written so far, in hex digits."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of a store.

    Attributes:
        path: within the store, with slashes.
        size: in bytes.
        changed_at: seconds since 1970.
    """

    path: str
    size: int
    changed_at: float


class Place(Protocol):
    """What a store asks of where it lies. Paths are relative to the store, with slashes."""

    url: str
    """As a user names it: an absolute path, or a URL."""

    local: Path
    """A folder of this machine: the store's own, or a cache of it, which also has what must be a file."""

    def names(self, folder: str) -> list[str]:
        """Names of the files of a folder that readers may see, sorted; none where it is missing.

        Raises:
            StoreError: the place cannot be read.
        """
        ...

    def files(self, folder: str) -> Iterator[FileInfo]:
        """All files in a folder and below it, leftovers of crashed writers included."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        ...

    def open(self, path: str) -> BinaryIO:
        """A file to read."""
        ...

    def draft(self, folder: str) -> AbstractContextManager[Draft]:
        """A file to write to, which is in `folder` under the draft's name on leaving.

        Nothing is published where the draft has no name.

        Raises:
            StoreError: the place cannot be written.
        """
        ...

    def note(self, lines: Sequence[str]) -> None:
        """Add lines to this process's own list in the folder `LISTS`.

        Raises:
            StoreError: the place cannot be written.
        """
        ...

    def remove(self, path: str) -> None:
        """Delete a file; one that is gone already is no error, since another process may do the same."""
        ...

    def move(self, path: str, to: str) -> None:
        """Give a file another path."""
        ...

    def fetch(self, paths: Sequence[str]) -> None:
        """See that files, which never change, are in `local` under the same paths.

        Raises:
            StoreError: the place cannot be read, or one is gone.
        """
        ...


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LocalPlace:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.local = root
        self.url = str(root)
        self._list = ListName()

    def names(self, folder: str) -> list[str]:
        """See `Place`; a name that begins with a dot is a file in the making."""
        try:
            return sorted(name for name in os.listdir(self.local / folder) if not name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{self.local / folder} cannot be read: {error.strerror}") from error

    def files(self, folder: str) -> Iterator[FileInfo]:
        """See `Place`."""
        for path in sorted((self.local / folder).rglob("*")):
            with suppress(FileNotFoundError):  # published or removed meanwhile
                if path.is_file():
                    stat = path.stat()
                    yield FileInfo(path.relative_to(self.local).as_posix(), stat.st_size, stat.st_mtime)

    def exists(self, path: str) -> bool:
        """See `Place`."""
        return (self.local / path).exists()

    def open(self, path: str) -> BinaryIO:
        """See `Place`."""
        return (self.local / path).open("rb")

    @contextmanager
    def draft(self, folder: str) -> Iterator[Draft]:
        """See `Place`."""
        target = self.local / folder
        # A name that no reader's glob matches and no other writer has.
        temporary = target / f".{uuid.uuid4().hex}.tmp"
        try:
            target.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as out:
                draft = Draft(out)
                yield draft
                out.flush()
                os.fsync(out.fileno())
            if draft.name is not None:
                temporary.replace(target / draft.name)
                _sync_folder(target)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def note(self, lines: Sequence[str]) -> None:
        """See `Place`; one write that appends, so that threads do not mix their lines."""
        path = self.local / LISTS / str(self._list)
        try:
            path.parent.mkdir(exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(handle, "".join(f"{line}\n" for line in lines).encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error

    def remove(self, path: str) -> None:
        """See `Place`."""
        (self.local / path).unlink(missing_ok=True)

    def move(self, path: str, to: str) -> None:
        """See `Place`."""
        target = self.local / to
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.local / path, target)
        _sync_folder(target.parent)

    def fetch(self, paths: Sequence[str]) -> None:
        """See `Place`: they are."""


def sha256_of(file: BinaryIO) -> str:
    """Hash of a file's content, in hex digits."""
    content = hashlib.sha256()
    while block := file.read(_READ_BYTES):
        content.update(block)
    return content.hexdigest()
