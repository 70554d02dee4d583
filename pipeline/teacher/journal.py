"""The journal: every answer of an endpoint. It is committed before it is used, and found again by a key.

It is an SQLite file in the folder of the store. The key of a request is a hash of everything that determines the answer
(name of the endpoint, model, messages with their images, schema, sampling parameters, sample number) and of nothing
else. So no answer is paid for twice, even after a crash or in another run. No entry is overwritten: each exchange is a
row, and `Journal.answer` chooses among the rows of one key.
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
from typing import Any, Self

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.sqlite import is_cut_off
from diva_grpo.pipeline.teacher.claims import Claims
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import Call, utc_now


@dataclass(frozen=True, slots=True)
class Entry:
    """One exchange with an endpoint: an answer or a failure.

    Attributes:
        request_hash: the key, see `request_hash`.
        purpose: purpose of the request, such as `solve` or the kind of a variant.
        endpoint: name of the endpoint.
        model: name of the model.
        problem_id: id of the problem.
        content: the text of the answer as received. If `outcome` is not `ok`, it is kept for inspection only.
        outcome: `ok`, or the type of the failure: network, timeout, http_<status>, refusal, length,
            no_answer (only thoughts), parse (not JSON) or schema (JSON of another shape).
        detail: message of a failure; for an answer, what was corrected when it was read.
        prompt_tokens: prompt tokens that the endpoint counted; None if unknown.
        completion_tokens: completion tokens that the endpoint counted; None if unknown.
        cost_usd: cost in dollars; None if unknown.
        latency_s: seconds from the request to its outcome, waiting and retries included.
        attempts: how often the request was sent.
        output_mode: how the structured answer was asked for; `text` for plain text, too.
        created_at: time of the entry, see `now_text`.
        settled: whether this is the final outcome of the request. If not, the same run sent it again in another form.
        fresh: whether a new answer was requested although there was one. The new answer then replaces the old one.
        reasoning_tokens: how many of the completion tokens were thoughts; None if unknown.
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
    reasoning_tokens: int | None = None


def request_hash(identity: dict[str, Any]) -> str:
    """SHA-256 (hexadecimal) of `identity` as canonical JSON.

    Args:
        identity: everything that determines an answer.
    """
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


_COLUMNS = tuple(f.name for f in fields(Entry))
_VALUES = attrgetter(*_COLUMNS)
_INSERT = f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"

_HOLDS = "outcome = 'ok' DESC, CASE WHEN outcome = 'ok' THEN fresh * id ELSE id END DESC, id"
"""SQL order of the rows of one key, the valid one first.

It is the last answer that was requested with `fresh`, else the first answer, else the last failure. The first answer,
because records in the store may have been made from it.
"""

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit survives a crash of the machine
)
_VERSION = 2
_TABLES = (
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, request_hash TEXT, purpose TEXT, endpoint TEXT, "
    "model TEXT, problem_id TEXT, content TEXT, outcome TEXT, detail TEXT, prompt_tokens INTEGER, "
    "completion_tokens INTEGER, cost_usd REAL, latency_s REAL, attempts INTEGER, output_mode TEXT, "
    "created_at TEXT, settled INTEGER NOT NULL DEFAULT 1, fresh INTEGER NOT NULL DEFAULT 0, "
    "in_ledger INTEGER NOT NULL DEFAULT 0, reasoning_tokens INTEGER)",
    "CREATE INDEX entries_by_key ON entries (request_hash)",
    # Only few entries are not in the ledger yet. Without this index, each shard would read all entries.
    "CREATE INDEX entries_not_in_ledger ON entries (id) WHERE in_ledger = 0",
    "CREATE TABLE learnt (endpoint TEXT, model TEXT, name TEXT, value TEXT, "
    "PRIMARY KEY (endpoint, model, name))",
)
# The first version had neither `settled`, `fresh` nor `reasoning_tokens`.
_COLUMNS_0 = ", ".join(_COLUMNS[:-3])
_FROM_VERSION_0 = (
    "ALTER TABLE entries RENAME TO entries_0",
    "DROP INDEX IF EXISTS not_in_ledger",
    *_TABLES,
    f"INSERT INTO entries ({_COLUMNS_0}, in_ledger) SELECT {_COLUMNS_0}, in_ledger FROM entries_0 ORDER BY created_at",
    "DROP TABLE entries_0",
)
_FROM_VERSION_1 = ("ALTER TABLE entries ADD COLUMN reasoning_tokens INTEGER",)

_LEDGER_SLICE = 5_000
"""Number of rows that are added to the ledger at once, so that memory does not grow with the length of a run."""


class Journal:
    """The answers of endpoints on disk. Several objects and several processes may use the same file.

    Args:
        path: the SQLite file; created if it is missing.

    Raises:
        StoreError: the file is damaged, is not a journal, or was made by a later version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _connected(path)
        # Writes use a second connection in a thread of their own, so that the event loop does not wait for the disk.
        self._writing = _connected(path)
        self._writer = ThreadPoolExecutor(1, "journal")
        # The ledger has a third connection, because other threads update it while requests are in flight.
        self._summing, self._summed = _connected(path), threading.Lock()
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._claims = Claims(path.with_suffix(".claims"))

    @classmethod
    def of_store(cls, store: VariantStore) -> Self:
        """Open the journal of a store."""
        return cls(store.root / "journal.sqlite")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the entries that wait to be written, and release the files."""
        self._writer.shutdown()
        with _naming(self._path):
            _insert(self._writing, [entry for entry, _ in self._waiting])
        self._waiting = []
        self._writing.close()
        self._summing.close()
        self._connection.close()
        self._claims.close()

    def claim(self, key: str) -> AbstractAsyncContextManager[None]:
        """Hold the lock of a request while the context is open, so that nobody else sends the same request.

        Waits while another task of this journal or another process holds it.
        """
        return self._claims.claim(key)

    def answer(self, key: str, since: str = "") -> Entry | None:
        """The answer to a request, not older than `since` (see `now_text`); None if there is none. Not a failure."""
        return self._first(
            f"request_hash = ? AND outcome = 'ok' AND created_at >= ? ORDER BY {_HOLDS}", key, since
        )

    def settled(self, key: str, since: str = "") -> Entry | None:
        """The final entry of a request, not older than `since`: its answer, or else its last failure; None if none."""
        return self._first(f"request_hash = ? AND settled AND created_at >= ? ORDER BY {_HOLDS}", key, since)

    def exchanges(self, key: str, after_id: int = 0) -> list[Entry]:
        """The exchanges of a request with an id above `after_id`, in order."""
        return self._entries("request_hash = ? AND id > ? ORDER BY id", key, after_id)

    def _first(self, condition: str, *values: str) -> Entry | None:
        return next(iter(self._entries(f"{condition} LIMIT 1", *values)), None)

    def _entries(self, condition: str, *values: str | int) -> list[Entry]:
        rows = self._rows(f"SELECT {', '.join(_COLUMNS)} FROM entries WHERE {condition}", *values)
        # SQLite has no type of truth values: `settled` and `fresh` come as numbers.
        return [Entry(*row[:-3], *map(bool, row[-3:-1]), *row[-1:]) for row in rows]

    def _rows(self, statement: str, *values: str | int) -> list[Any]:
        with _naming(self._path):
            return self._connection.execute(statement, values).fetchall()

    def last_id(self) -> int:
        """Id of the last exchange; 0 if there is none. Later exchanges have larger ids."""
        return int(self._rows("SELECT coalesce(max(id), 0) FROM entries")[0][0])

    def sums_since(self, last_id: int) -> list[tuple[str, str, int, int, int]]:
        """Sums over the exchanges with an id above `last_id`, for each model and purpose.

        Returns:
            Rows of model, purpose, number of exchanges, prompt tokens, completion tokens.
        """
        return self._rows(
            "SELECT model, purpose, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) "
            "FROM entries WHERE id > ? GROUP BY model, purpose ORDER BY model, purpose",
            last_id,
        )

    def commit(self, entry: Entry) -> None:
        """Write an entry to the disk. Earlier entries with the same key stay."""
        with _naming(self._path):
            _insert(self._connection, [entry])

    async def keep(self, entry: Entry) -> None:
        """Write an entry to the disk without blocking the event loop. Returns when it has been written.

        Entries that arrive at about the same time are written together.

        Raises:
            StoreError: the entry cannot be written. Then the answer must not be used.
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
            # Values that SQLite cannot store (an unpaired surrogate, a number of 20 digits) raise no `sqlite3.Error`.
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
        """Store a property of a model at an endpoint for later runs.

        Args:
            endpoint: name of the endpoint.
            model: name of the model.
            name: name of the property.
            value: its value, which replaces an earlier one.
        """
        self._rows(
            "INSERT OR REPLACE INTO learnt (endpoint, model, name, value) VALUES (?, ?, ?, ?)",
            endpoint, model, name, value,
        )  # fmt: skip

    def learnt(self, endpoint: str, model: str) -> dict[str, str]:
        """The stored properties of a model at an endpoint, by name; see `learn`."""
        return dict(
            self._rows("SELECT name, value FROM learnt WHERE endpoint = ? AND model = ?", endpoint, model)
        )

    def to_ledger(self, store: VariantStore) -> int:
        """Append requests that are new to the table `calls` of the store; returns their number.

        A request has one row there, with the sums of all its exchanges. So the cost of a failure is included even if
        a later exchange succeeded. If a crash happens before the exchanges are marked as added, the row is appended
        again later. This does no harm, because the view shows only one row of each key.
        """
        count = 0
        with self._summed, _naming(self._path):
            while number := self._slice_to_ledger(store):
                count += number
        return count

    def _slice_to_ledger(self, store: VariantStore) -> int:
        # In one transaction, so that the later of two sums of the same key, by two processes, is also appended later.
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


_SUMS = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cost_usd", "attempts")
_CALL = {
    name: f"sum({name})" if name in _SUMS else f"max({name}) FILTER (WHERE place = 1)"
    for name in Call.model_fields
}


def _call(row: Sequence[Any]) -> Call:
    values = dict(zip(_CALL, row, strict=True))
    return Call(**values | {"created_at": datetime.fromisoformat(values["created_at"])})


def _connected(path: Path) -> sqlite3.Connection:
    with _naming(path):
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
    """The error message for a damaged journal."""
    cure = diva("doctor", "--store", path.parent, "--repair")
    return f"the journal {word(path)} cannot be used: {fault}; `{cure}` puts it aside"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn an error of the file, such as a damaged page, into one that names it.

    Raises:
        StoreError: the file is damaged, or cannot be read or written.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # raised by Python's module: wrong use of a connection
            raise
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StoreError(unusable(path, str(error))) from error
        raise StoreError(f"the journal {word(path)} cannot be read or written: {error}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    with _transaction(connection):
        version = _version(connection)  # read again: another process may have migrated it in the meantime
        if version > _VERSION:
            raise StoreError(f"the journal {path} is of a later version: update diva-grpo")
        if version < _VERSION:
            old = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'entries'").fetchone()
            for statement in (_FROM_VERSION_1 if version else _FROM_VERSION_0) if old else _TABLES:
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
        if connection.in_transaction:  # SQLite has ended it itself where the file is damaged
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _insert(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    if entries:
        with _transaction(connection):
            connection.executemany(_INSERT, map(_VALUES, entries))


def now_text() -> str:
    """The present time (UTC) as text, in the format of the journal."""
    return utc_now().isoformat()
