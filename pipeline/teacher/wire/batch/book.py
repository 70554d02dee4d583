"""The batches that were submitted to a Batch API, and their outcomes, on disk. So a crash makes nothing cost twice."""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from diva_grpo.pipeline.teacher.journal import now_text
from diva_grpo.pipeline.teacher.wire.batch.pending import FILE, Batch, batches_of
from diva_grpo.pipeline.teacher.wire.outcome import Outcome
from diva_grpo.schemas.command import word
from diva_grpo.schemas.exceptions import ConfigError, StoreError

_SET_UP = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # what is committed survives a crash of the machine
    "CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, endpoint TEXT, model TEXT, batch_id TEXT, "
    "status TEXT, requests INTEGER, done INTEGER, failed INTEGER, created_at TEXT)",
    "CREATE TABLE IF NOT EXISTS requests (key TEXT PRIMARY KEY, batch TEXT, outcome TEXT)",
    "CREATE INDEX IF NOT EXISTS requests_by_batch ON requests (batch)",
)


class BatchBook:
    """The batches of a store, in an SQLite file. Only one `BatchBook` of a store may be open at a time.

    Args:
        root: the folder of the store.

    Raises:
        ConfigError: another run has it open.
        StoreError: the file is damaged; also raised by the methods.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "batches"
        """Folder with the request files of batches that have not ended."""
        self.folder.mkdir(exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            # The kernel releases the lock when the process ends, even after a crash.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ConfigError("another run of this store uses --batch: wait until it has ended") from error
        self.path = root / FILE
        self._connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            with self._named_errors():
                for statement in _SET_UP:
                    self._connection.execute(statement)
        except StoreError:
            self.close()
            raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"the batches in {word(self.path)} cannot be used: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all statements take effect or, after an exception, none."""
        with self._named_errors(), self._connection:
            self._connection.execute("BEGIN")
            yield self._connection

    def close(self) -> None:
        """Release the files."""
        self._connection.close()
        self._lock.close()

    def file_of(self, name: str) -> Path:
        """Path of the file with the requests of a batch, one per line."""
        return self.folder / f"{name}.jsonl"

    def open(self, name: str, endpoint: str, model: str, keys: Sequence[str]) -> None:
        """Record a batch before it is submitted, so that it can be found again after a crash.

        Args:
            name: our name of the batch.
            endpoint: name of the endpoint.
            model: name of the model.
            keys: keys of its requests.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO batches VALUES (?, ?, ?, NULL, 'unsent', ?, 0, 0, ?)",
                [name, endpoint, model, len(keys), now_text()],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO requests VALUES (?, ?, NULL)", [(key, name) for key in keys]
            )

    def update(self, name: str, batch_id: str, status: str, done: int, failed: int) -> None:
        """Record the id, the status and the counts that the API reports for a batch."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE batches SET batch_id = ?, status = ?, done = ?, failed = ? WHERE name = ?",
                [batch_id, status, done, failed, name],
            )

    def keep(self, outcomes: Mapping[str, Outcome]) -> None:
        """Record the outcomes of requests, by key."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE requests SET outcome = ? WHERE key = ?",
                [(json.dumps(asdict(outcome)), key) for key, outcome in outcomes.items()],
            )

    def end(self, name: str) -> list[str]:
        """Delete a batch that has ended, and its requests without an outcome; returns the keys of these requests."""
        with self._transaction() as connection:
            left = connection.execute(
                "DELETE FROM requests WHERE batch = ? AND outcome IS NULL RETURNING key", [name]
            ).fetchall()
            connection.execute("DELETE FROM batches WHERE name = ?", [name])
        return [key for (key,) in left]

    def outcome(self, key: str) -> Outcome | None:
        """The recorded outcome of a request that is not in the journal yet; None if there is none."""
        row = self._row("SELECT outcome FROM requests WHERE key = ? AND outcome IS NOT NULL", key)
        return Outcome(**json.loads(row[0])) if row else None

    def batch_of(self, key: str) -> str | None:
        """The name of the batch that contains a request without an outcome; None if there is none."""
        row = self._row("SELECT batch FROM requests WHERE key = ? AND outcome IS NULL", key)
        return row[0] if row else None

    def _row(self, query: str, *values: str) -> tuple[str, ...] | None:
        with self._named_errors():
            row: tuple[str, ...] | None = self._connection.execute(query, values).fetchone()
        return row

    def forget(self, keys: Iterable[str]) -> None:
        """Delete the outcomes of requests, because the journal has them."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM requests WHERE key = ?", [(key,) for key in keys])

    def pending(self, endpoint: str | None = None) -> list[Batch]:
        """The batches of an endpoint that have not ended, oldest first; None gives those of all endpoints."""
        with self._named_errors():
            if endpoint is None:
                return batches_of(self._connection, "", [])
            return batches_of(self._connection, "WHERE endpoint = ?", [endpoint])
