"""The location of a store's files: a local folder, or a prefix of an object store.

One atomic operation (a rename, or one PUT) publishes a file, complete and durable. It never changes afterwards.
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
"""Folder with the lists of published parts, see `pipeline.store.files.published`."""

_READ_BYTES = 1 << 20
_LIST_S = 1800.0
"""Seconds for which a process adds to one list, then it begins another. This is shorter than the grace period of a
compaction, which combines older lists (see `published.fold`)."""


class ListName:
    """The file name of this process's own list, as `str`. It changes after a fork, and every half hour."""

    def __init__(self) -> None:
        self._process, self._begun_ns, self._name = 0, 0, ""

    def __str__(self) -> str:
        now = time.time_ns()
        if self._process != os.getpid() or not 0 <= now - self._begun_ns < _LIST_S * 1e9:
            self._process, self._begun_ns = os.getpid(), now
            self._name = f"{now:020d}-{uuid.uuid4().hex[:8]}.txt"
        return self._name


class Draft(io.RawIOBase):
    """A file that is being written. It computes the hash of its content.

    Args:
        out: file to which the content is written.

    Attributes:
        name: name under which the file is published at the end. None, the default, does not publish it.
    """

    name: str | None = None

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """Return True: a draft can always be written."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Append data to the file and return the number of bytes written."""
        self._hash.update(data)
        written = self._out.write(data)
        self._size += written
        return written

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._size

    @property
    def digest(self) -> str:
        """SHA-256 of the content written so far, in hex digits."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of a store.

    Attributes:
        path: path within the store, with slashes.
        size: size in bytes.
        changed_at: time of the last change, in seconds since 1970.
    """

    path: str
    size: int
    changed_at: float


class Place(Protocol):
    """The file operations that a store needs. Paths are relative to the store and use slashes."""

    url: str
    """The store's address: an absolute path, or a URL."""

    local: Path
    """A local folder: the store's folder, or the cache of a store on an object store. It also holds files that must be
    local, such as the journal."""

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the published files in a folder; none if the folder is missing.

        Raises:
            StoreError: the place cannot be read.
        """
        ...

    def files(self, folder: str) -> Iterator[FileInfo]:
        """Yield all files in a folder and its sub-folders, including temporary files of crashed writers."""
        ...

    def exists(self, path: str) -> bool:
        """Whether a file exists."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        ...

    def draft(self, folder: str) -> AbstractContextManager[Draft]:
        """Open a new file for writing. On leaving the context, it is published in `folder` under `Draft.name`.

        A draft without a name is not published.

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
        """Delete a file. A missing one is not an error, because another process may have deleted it."""
        ...

    def move(self, path: str, to: str) -> None:
        """Move a file to another path."""
        ...

    def fetch(self, paths: Sequence[str]) -> None:
        """Make sure that the files are in `local` under the same paths. Only for files that never change.

        Raises:
            StoreError: the place cannot be read, or a file is missing.
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
    """A local folder as the location of a store."""

    def __init__(self, root: Path) -> None:
        self.local = root
        self.url = str(root)
        self._list = ListName()

    def names(self, folder: str) -> list[str]:
        """See `Place`. Names that begin with a dot are left out, because they are those of drafts."""
        try:
            return sorted(name for name in os.listdir(self.local / folder) if not name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{self.local / folder} cannot be read: {error.strerror}") from error

    def files(self, folder: str) -> Iterator[FileInfo]:
        """See `Place`."""
        for path in sorted((self.local / folder).rglob("*")):
            with suppress(FileNotFoundError):  # it was published or removed just now
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
        # No reader's glob matches this name, and no other writer uses it.
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
        """See `Place`. The lines are appended by one write, so that lines of several threads are not mixed."""
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
        """See `Place`. The files are always local, so nothing is done."""


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of a file's content, in hex digits."""
    content = hashlib.sha256()
    while block := file.read(_READ_BYTES):
        content.update(block)
    return content.hexdigest()
