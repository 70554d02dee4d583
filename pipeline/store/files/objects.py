"""A store on an object store (`s3://`, `gs://`, ...) through fsspec. One PUT publishes a complete file or nothing.

Credentials and endpoint come from the provider's own settings (for S3: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...). Files
never change, so parts and images that were read are kept in a cache folder: ~/.cache/diva-grpo, or the folder in
DIVA_CACHE. DuckDB reads the local copies, and each file is transferred once. The journal is in the cache folder too;
each machine has its own journal.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from diva_grpo.pipeline.store.files.places import LISTS, Draft, FileInfo, ListName
from diva_grpo.schemas.exceptions import ConfigError, StoreError

_PACKAGES = {"s3": "'diva-grpo[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""Supported URL schemes, with the package that each needs. They publish a file by one PUT. (Most other schemes of
fsspec are read-only, or show a file before it is complete.)"""


class ObjectPlace:
    """A prefix of a bucket as the location of a store, see `pipeline.store.files.places.Place`.

    Args:
        url: URL such as `s3://bucket/prefix`.

    Raises:
        ConfigError: the URL's scheme is not supported, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme = url.split(":")[0]
        if scheme not in _PACKAGES:
            raise ConfigError(f"a store at {scheme}:// cannot be used here: use a folder, s3:// or gs://")
        try:
            # Listings are not cached, because other machines write too.
            self._files: Any = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"a store at {scheme}:// cannot be used here ({error}): pip install {_PACKAGES[scheme]}"
            ) from error
        cache = Path(os.environ.get("DIVA_CACHE") or Path.home() / ".cache" / "diva-grpo")
        self.local = cache / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.local.mkdir(parents=True, exist_ok=True)
        self._failures = _failures()
        self._list, self._lists, self._noting = ListName(), dict[str, list[str]](), threading.Lock()

    def names(self, folder: str) -> list[str]:
        """See `Place`."""
        found: list[dict[str, str]] = []
        with self._one_line("read"), suppress(FileNotFoundError):
            found = self._files.ls(f"{self.url}/{folder}", detail=True)
        return sorted(entry["name"].rsplit("/", 1)[1] for entry in found if entry["type"] == "file")

    def files(self, folder: str) -> Iterator[FileInfo]:
        """See `Place`."""
        with self._one_line("read"):
            found = self._files.find(f"{self.url}/{folder}", detail=True)
        root = self._files._strip_protocol(self.url)
        for name, entry in sorted(found.items()):
            changed = entry.get("LastModified") or entry.get("mtime")
            when = changed.timestamp() if hasattr(changed, "timestamp") else 0.0
            yield FileInfo(name.removeprefix(f"{root}/"), entry["size"], when)

    def exists(self, path: str) -> bool:
        """See `Place`."""
        with self._one_line("read"):
            return bool(self._files.exists(f"{self.url}/{path}"))

    def open(self, path: str) -> BinaryIO:
        """See `Place`."""
        return cast(BinaryIO, self._files.open(f"{self.url}/{path}", "rb"))

    @contextmanager
    def draft(self, folder: str) -> Iterator[Draft]:
        """See `Place`. The draft is a local file until it is complete, because its name is known only then."""
        with tempfile.NamedTemporaryFile(prefix="diva-") as out:
            draft = Draft(cast(BinaryIO, out))
            yield draft
            out.flush()
            if draft.name is not None:
                with self._one_line("written"):
                    self._files.put_file(out.name, f"{self.url}/{folder}/{draft.name}")

    def note(self, lines: Sequence[str]) -> None:
        """See `Place`. An object cannot be appended to, so the whole list is written again."""
        with self._noting, self._one_line("written"):
            name = str(self._list)
            self._lists = {name: [*self._lists.get(name, []), *lines]}
            content = "".join(f"{line}\n" for line in self._lists[name]).encode()
            self._files.pipe_file(f"{self.url}/{LISTS}/{name}", content)

    def remove(self, path: str) -> None:
        """See `Place`."""
        (self.local / path).unlink(missing_ok=True)
        with self._one_line("written"), suppress(FileNotFoundError):
            self._files.rm_file(f"{self.url}/{path}")

    def move(self, path: str, to: str) -> None:
        """See `Place`."""
        (self.local / path).unlink(missing_ok=True)
        with self._one_line("written"):
            self._files.cp_file(f"{self.url}/{path}", f"{self.url}/{to}")
            self._files.rm_file(f"{self.url}/{path}")

    def fetch(self, paths: Sequence[str]) -> None:
        """See `Place`. If the process dies, no incomplete file remains under a final name."""
        absent = [path for path in paths if not (self.local / path).exists()]
        if not absent:
            return
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=self.local) as folder, self._one_line("read"):
            copies = [str(Path(folder) / str(number)) for number in range(len(absent))]
            self._files.get([f"{self.url}/{path}" for path in absent], copies)
            for path, copy in zip(absent, copies, strict=True):
                (self.local / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(copy, self.local / path)

    @contextmanager
    def _one_line(self, act: str) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            line = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"the store {self.url} cannot be {act}: {line}") from error


def _failures() -> tuple[type[Exception], ...]:
    """Return the error types of an object store. The S3 client raises its own types in addition to OSError."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError, ClientError)
