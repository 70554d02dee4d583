"""The journal: every answer of an endpoint, committed before it is used, found again by what made it.

An SQLite file in the store's folder. The key is a hash of all that determines an answer (endpoint by
name, model, messages with their images, schema, sampling parameters, sample number) and of nothing else,
so that finished work is never paid for twice, across crashes and across runs.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.store import VariantStore
from schemas.exceptions import StoreError
from schemas.records import Call, utc_now


@dataclass(frozen=True, slots=True)
class Entry:
    """One answered (or failed) request.

    Attributes:
        request_hash: the key, see `request_hash`.
        content: the answer's text as received; evidence only, where `outcome` is not `ok`.
        outcome: `ok`, or the type of the failure: network, timeout, http_<status>, refusal, length,
            parse (not JSON) or schema (JSON of another shape).
        detail: what the failure said.
    """

    request_hash: str
    purpose: str
    endpoint: str
    model: str
    problem_id: str
    content: str | None
    outcome: str
    detail: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    latency_s: float
    attempts: int
    output_mode: str
    created_at: str


def request_hash(identity: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of everything that determines an answer."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


_COLUMNS = tuple(f.name for f in fields(Entry))

_SET_UP = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit survives a crash of the machine
    "CREATE TABLE IF NOT EXISTS entries (request_hash TEXT PRIMARY KEY, purpose TEXT, endpoint TEXT, "
    "model TEXT, problem_id TEXT, content TEXT, outcome TEXT, detail TEXT, prompt_tokens INTEGER, "
    "completion_tokens INTEGER, cost_usd REAL, latency_s REAL, attempts INTEGER, output_mode TEXT, "
    "created_at TEXT, in_ledger INTEGER NOT NULL DEFAULT 0)",
    # Few entries are not in the ledger; without an index each shard would read all that were ever made.
    "CREATE INDEX IF NOT EXISTS not_in_ledger ON entries (created_at) WHERE in_ledger = 0",
)


class Journal:
    """Answers on disk. One process may hold several; several processes may share the file.

    Args:
        path: the SQLite file, made where it is missing.

    Raises:
        StoreError: it is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
        try:
            for statement in _SET_UP:
                self._connection.execute(statement)
        except sqlite3.Error as error:
            self._connection.close()
            raise StoreError(f"the journal {path} cannot be used: {error}") from error

    @classmethod
    def of_store(cls, store: VariantStore) -> Self:
        """The journal that belongs to a store."""
        return cls(store.root / "journal.sqlite")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def answer(self, key: str) -> Entry | None:
        """The entry of a request that was answered well; failures are kept, and never returned here."""
        row = self._connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM entries WHERE request_hash = ? AND outcome = 'ok'", [key]
        ).fetchone()
        return Entry(*row) if row else None

    def commit(self, entry: Entry) -> None:
        """Keep an entry durably. A good answer is never overwritten."""
        marks = ", ".join("?" * len(_COLUMNS))
        updates = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)
        self._connection.execute(
            f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({marks}) "
            f"ON CONFLICT (request_hash) DO UPDATE SET {updates}, in_ledger = 0 WHERE outcome <> 'ok'",
            list(asdict(entry).values()),
        )

    def to_ledger(self, store: VariantStore) -> int:
        """Append to the store's `calls` what is not there yet; returns how many.

        A crash between the append and the mark appends them once more; the view shows a key once.
        """
        names = [name for name in Call.model_fields if name != "created_at"]
        rows = self._connection.execute(
            f"SELECT {', '.join(names)}, created_at FROM entries WHERE in_ledger = 0"
        ).fetchall()
        calls = [
            Call(**dict(zip(names, row, strict=False)), created_at=datetime.fromisoformat(row[-1]))
            for row in rows
        ]
        store.append(calls)
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            # An entry that another process has replaced in the meantime is not in the ledger yet.
            "UPDATE entries SET in_ledger = 1 WHERE request_hash = ? AND created_at = ?",
            [[row[0], row[-1]] for row in rows],
        )
        self._connection.execute("COMMIT")
        return len(calls)


def now_text() -> str:
    """The present moment as the journal keeps it."""
    return utc_now().isoformat()
