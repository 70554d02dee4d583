"""The journal: every answer of an endpoint, committed before it is used, found again by what made it.

An SQLite file in the store's folder. The key is a hash of all that determines an answer (endpoint by
name, model, messages with their images, schema, sampling parameters, sample number) and of nothing else,
so that finished work is never paid for twice, across crashes and across runs. Nothing in it is ever
overwritten: each exchange is a row, and of several rows with one key `Journal.answer` knows which holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.sqlite import is_cut_off
from diva_grpo.pipeline.teacher.claims import Claims
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import Call, utc_now


@dataclass(frozen=True, slots=True)
class Entry:
    """One exchange with an endpoint: an answer, or how it failed.

    Attributes:
        request_hash: the key, see `request_hash`.
        content: the answer's text as received; evidence only, where `outcome` is not `ok`.
        outcome: `ok`, or the type of the failure: network, timeout, http_<status>, refusal, length,
            no_answer (nothing but thoughts), parse (not JSON) or schema (JSON of another shape).
        detail: what the failure said; of an answer, what was mended when it was read.
        attempts: how often the request was sent.
        settled: whether the request ended with it; else the same run sent it once more in another form.
        fresh: whether it was asked for although an answer was there; it then takes that answer's place.
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
    settled: bool = True
    fresh: bool = False


def request_hash(identity: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of everything that determines an answer."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


_COLUMNS = tuple(f.name for f in fields(Entry))
_VALUES = attrgetter(*_COLUMNS)
_INSERT = f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"

_HOLDS = "outcome = 'ok' DESC, CASE WHEN outcome = 'ok' THEN fresh * id ELSE id END DESC, id"
"""Which of a key's rows holds: the last one asked for afresh, else the first good one, else the last failure.

The first, since tables may have been made from it.
"""

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit survives a crash of the machine
)
_VERSION = 1
_TABLES = (
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, request_hash TEXT, purpose TEXT, endpoint TEXT, "
    "model TEXT, problem_id TEXT, content TEXT, outcome TEXT, detail TEXT, prompt_tokens INTEGER, "
    "completion_tokens INTEGER, cost_usd REAL, latency_s REAL, attempts INTEGER, output_mode TEXT, "
    "created_at TEXT, settled INTEGER NOT NULL DEFAULT 1, fresh INTEGER NOT NULL DEFAULT 0, "
    "in_ledger INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX entries_by_key ON entries (request_hash)",
    # Few entries are not in the ledger; without an index each shard would read all that were ever made.
    "CREATE INDEX entries_not_in_ledger ON entries (id) WHERE in_ledger = 0",
    "CREATE TABLE learnt (endpoint TEXT, model TEXT, name TEXT, value TEXT, "
    "PRIMARY KEY (endpoint, model, name))",
)
_FROM_VERSION_0 = (
    "ALTER TABLE entries RENAME TO entries_0",
    "DROP INDEX IF EXISTS not_in_ledger",
    *_TABLES,
    f"INSERT INTO entries ({', '.join(_COLUMNS[:-2])}, in_ledger) "
    f"SELECT {', '.join(_COLUMNS[:-2])}, in_ledger FROM entries_0 ORDER BY created_at",
    "DROP TABLE entries_0",
)

_LEDGER_SLICE = 5_000
"""Rows brought into the ledger at once, so that memory does not grow with a run."""


class Journal:
    """Answers on disk. One process may hold several; several processes may share the file.

    Args:
        path: the SQLite file, made where it is missing.

    Raises:
        StoreError: the file is not a journal, or of a later version.
    """

    def __init__(self, path: Path) -> None:
        self._connection = _connected(path)
        # A second connection and a thread of its own: the event loop does not wait for the disk.
        self._writing = _connected(path)
        self._writer = ThreadPoolExecutor(1, "journal")
        # A third for the ledger, which other threads bring up to date while requests are under way.
        self._summing, self._summed = _connected(path), threading.Lock()
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._claims = Claims(path.with_suffix(".claims"))

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
        """Write what waits for it, and release the files."""
        self._writer.shutdown()
        _insert(self._writing, [entry for entry, _ in self._waiting])
        self._waiting = []
        self._writing.close()
        self._summing.close()
        self._connection.close()
        self._claims.close()

    def claim(self, key: str) -> AbstractAsyncContextManager[None]:
        """Hold the right to ask for an answer; waits while a task of this journal or another process has it."""
        return self._claims.claim(key)

    def answer(self, key: str, since: str = "") -> Entry | None:
        """The answer to a request; failures are kept, and never returned here.

        Args:
            key: see `request_hash`.
            since: only an answer at or after this moment (see `now_text`).
        """
        return self._first(
            f"request_hash = ? AND outcome = 'ok' AND created_at >= ? ORDER BY {_HOLDS}", key, since
        )

    def settled(self, key: str, since: str = "") -> Entry | None:
        """The answer to a request, or else how it failed for good the last time."""
        return self._first(f"request_hash = ? AND settled AND created_at >= ? ORDER BY {_HOLDS}", key, since)

    def _first(self, condition: str, *values: str) -> Entry | None:
        row = self._connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM entries WHERE {condition} LIMIT 1", values
        ).fetchone()
        return Entry(*row[:-2], *map(bool, row[-2:])) if row else None

    def last_id(self) -> int:
        """Number of the last exchange; later ones have greater numbers."""
        return int(self._connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0])

    def sums_since(self, last_id: int) -> list[tuple[str, str, int, int, int]]:
        """Of the exchanges after a number: model, purpose, how many, prompt tokens and completion tokens."""
        return self._connection.execute(
            "SELECT model, purpose, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) "
            "FROM entries WHERE id > ? GROUP BY model, purpose ORDER BY model, purpose",
            [last_id],
        ).fetchall()

    def commit(self, entry: Entry) -> None:
        """Keep an entry durably, beside all that were kept before."""
        _insert(self._connection, [entry])

    async def keep(self, entry: Entry) -> None:
        """As `commit`, without holding up the event loop; entries of one moment share one write to the disk.

        Raises:
            StoreError: it cannot be written; the answer must not be used.
        """
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, kept))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await kept

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            entries, self._waiting = self._waiting, []
            failure: StoreError | None = None
            try:
                await loop.run_in_executor(self._writer, _insert, self._writing, [e for e, _ in entries])
            # What SQLite cannot hold (half of a surrogate pair, a number of 20 digits) raises no error of SQLite's own.
            except (sqlite3.Error, ValueError, OverflowError) as error:
                failure = StoreError(f"the journal cannot be written: {error}")
            for _, kept in entries:
                if kept.done():  # its task was cancelled
                    continue
                if failure:
                    kept.set_exception(failure)
                else:
                    kept.set_result(None)
        self._flushing = None

    def learn(self, endpoint: str, model: str, name: str, value: str) -> None:
        """Remember a property of a model at an endpoint, for later runs."""
        self._connection.execute(
            "INSERT OR REPLACE INTO learnt (endpoint, model, name, value) VALUES (?, ?, ?, ?)",
            [endpoint, model, name, value],
        )

    def learnt(self, endpoint: str, model: str) -> dict[str, str]:
        """The remembered properties of a model at an endpoint."""
        return dict(
            self._connection.execute(
                "SELECT name, value FROM learnt WHERE endpoint = ? AND model = ?", [endpoint, model]
            )
        )

    def to_ledger(self, store: VariantStore) -> int:
        """Append to the store's `calls` what is not there yet; returns how many requests.

        A request has one row there, with the sums of all its exchanges: also what a failure has cost stays in
        it when a later exchange went well. A crash between the append and the mark appends a row once more;
        the view shows a key once.
        """
        count = 0
        with self._summed:
            while number := self._slice_to_ledger(store):
                count += number
        return count

    def _slice_to_ledger(self, store: VariantStore) -> int:
        # Within one transaction: two processes that sum up one key in turn must append in that order.
        with _transaction(self._summing):
            rows = self._summing.execute(
                "WITH new AS (SELECT id, request_hash FROM entries WHERE in_ledger = 0 ORDER BY id LIMIT ?), "
                f"ranked AS (SELECT *, row_number() OVER (PARTITION BY request_hash ORDER BY {_HOLDS}) AS place "
                "FROM entries WHERE request_hash IN (SELECT request_hash FROM new)) "
                f"SELECT {', '.join(_CALL.values())} FROM ranked GROUP BY request_hash",
                [_LEDGER_SLICE],
            ).fetchall()
            store.append([_call(row) for row in rows])
            self._summing.execute(
                "UPDATE entries SET in_ledger = 1 WHERE id IN "
                "(SELECT id FROM entries WHERE in_ledger = 0 ORDER BY id LIMIT ?)",
                [_LEDGER_SLICE],
            )
        return len(rows)


_SUMS = ("prompt_tokens", "completion_tokens", "cost_usd", "attempts")
_CALL = {
    name: f"sum({name})" if name in _SUMS else f"max({name}) FILTER (WHERE place = 1)"
    for name in Call.model_fields
}


def _call(row: Sequence[Any]) -> Call:
    values = dict(zip(_CALL, row, strict=True))
    return Call(**values | {"created_at": datetime.fromisoformat(values["created_at"])})


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
    try:
        if is_cut_off(connection, path):
            raise StoreError(unusable(path, "its end is cut off"))
        for statement in _PRAGMAS:
            connection.execute(statement)
        if _version(connection) != _VERSION:
            _migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(unusable(path, str(error))) from error
    except StoreError:
        connection.close()
        raise
    return connection


def unusable(path: Path, fault: str) -> str:
    """What a user reads where a journal is damaged."""
    cure = diva("doctor", "--store", path.parent, "--repair")
    return f"the journal {word(path)} cannot be used: {fault}; `{cure}` puts it aside"


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    with _transaction(connection):
        version = _version(connection)  # another process may have been first
        if version > _VERSION:
            raise StoreError(f"the journal {path} is of a later version: update diva-grpo")
        if version < _VERSION:
            old = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'entries'").fetchone()
            for statement in _FROM_VERSION_0 if old else _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _insert(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    if entries:
        with _transaction(connection):
            connection.executemany(_INSERT, map(_VALUES, entries))


def now_text() -> str:
    """The present moment as the journal keeps it."""
    return utc_now().isoformat()
