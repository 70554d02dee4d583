"""Which batches of a store have not ended, read from the file of a `BatchBook` that another process may have open."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diva_grpo.pipeline.store.files.sqlite import reading
from diva_grpo.schemas.command import word
from diva_grpo.schemas.exceptions import StoreError

FILE = "batches.sqlite"
"""Name of the file in the store's folder."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that has not ended.

    Attributes:
        name: the name that we gave it; stored in the metadata of the batch at the API.
        endpoint: name of the endpoint.
        model: name of the model.
        batch_id: the id that the API gave it; None if it is not known whether the API has accepted the batch.
        status: the last status that the API reported; `unsent` before the first report.
        requests: number of requests in the batch.
        done: number of requests that were answered so far.
        failed: number of requests that failed so far.
        created_at: when we created the batch, as text.
    """

    name: str
    endpoint: str
    model: str
    batch_id: str | None
    status: str
    requests: int
    done: int
    failed: int
    created_at: str


def pending_batches(root: Path) -> list[Batch]:
    """All batches of a store that have not ended. It also works while another process has the `BatchBook` open.

    Raises:
        StoreError: the file cannot be read.
    """
    if not (root / FILE).exists():
        return []
    try:
        with reading((root / FILE).absolute()) as connection:
            made = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'batches'").fetchone()
            return batches_of(connection, "", []) if made else []
    except sqlite3.Error as error:
        raise StoreError(f"the batches in {word(root / FILE)} cannot be read: {error}") from error


def batches_of(connection: sqlite3.Connection, where: str, values: Sequence[str]) -> list[Batch]:
    """Return the batches that meet a condition on the table `batches`, oldest first."""
    columns = "name, endpoint, model, batch_id, status, requests, done, failed, created_at"
    rows = connection.execute(f"SELECT {columns} FROM batches {where} ORDER BY created_at", values)
    return [Batch(*row) for row in rows]
