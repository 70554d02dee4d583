"""A DuckLake catalogue over a store: which parts it has, in a database that many machines read, with history.

The store stays the truth, and needs no lake; a catalogue can be deleted and made anew at any time. Parts are
registered, not copied. DuckLake takes what is registered for its own, and its maintenance (`CHECKPOINT`,
`ducklake_cleanup_old_files`) deletes files. So it gets names of its own for them: hard links in the folder
`lake` of the store. It can delete no part of the store, and what compaction removes from the store stays readable
in older snapshots until they are expired.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diva_grpo.pipeline.store.files.parts import Part, empty_name
from diva_grpo.pipeline.store.lake.worker import REFUSED
from diva_grpo.pipeline.store.store import VariantStore
from diva_grpo.pipeline.store.views import view_statements
from diva_grpo.schemas.arrow import arrow_schema
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.exceptions import ConfigError, StoreError
from diva_grpo.schemas.migrations import migrated
from diva_grpo.schemas.records import RECORDS, Record

FOLDER = "lake"
"""Folder of the store for the links, DuckLake's DATA_PATH."""
PREFIX = "ducklake:"


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did.

    Attributes:
        added: parts that are registered now.
        removed: parts, replaced by merged ones or in quarantine, that are left out from now on.
        snapshot: of DuckLake; the last one's where nothing was to do.
    """

    added: int
    removed: int
    snapshot: int


def sync_lake(store: VariantStore, catalog: str, *, python: str | None = None) -> Synced:
    """Register the live parts of every table in a DuckLake, and make the store's views there: one snapshot.

    The lake has the parts as tables of the schema `parts`, and the views in `main`. What fails leaves the
    catalogue as it was. Views are made anew with each snapshot.

    Args:
        store: in a folder; machines that read the lake must see that folder.
        catalog: as DuckDB's ATTACH takes it, such as `ducklake:postgres:dbname=diva host=db`.
        python: interpreter of an environment with another DuckDB; None is this one.

    Raises:
        ConfigError: the catalogue is no DuckLake, or there is no such interpreter.
        StoreError: the store lies on an object store, a part is of an older version with other columns,
            the file system has no hard links, there is no extension, or the catalogue cannot be used.
    """
    if not catalog.startswith(PREFIX):
        raise ConfigError(
            f"--catalog begins with {PREFIX!r}, such as {PREFIX}sqlite:lake.sqlite: {catalog!r}"
        )
    if store.place.url != str(store.root):
        raise StoreError(
            f"{store.place.url} is not a folder: a lake needs hard links to the parts of a store"
        )
    if re.search(r"[*?\[]|/[^/=]+=", str(store.root)):
        raise StoreError(
            f"{word(store.root)} cannot be in a lake: DuckLake reads * ? [ and = in paths as patterns"
        )
    views = view_statements("", {record.table: f"parts.{record.table}" for record in RECORDS})
    plan = {
        "catalog": catalog,
        "data_path": f"{store.root / FOLDER}/",
        "tables": {record.table: _files(store, record) for record in RECORDS},
        "views": list(views.values()),
    }
    return Synced(**_run(plan, python))


def _files(store: VariantStore, record: type[Record]) -> dict[str, object]:
    table = record.table
    live = [part for part in store.catalogue.live(table) if not part.is_empty]
    for part in live:
        if migrated(table, part.version, "rows") != "rows":
            raise StoreError(
                f"{table}/{part.name} is of an older schema: `{diva('compact', '--store', store.root)}` first"
            )
    return {
        "empty": str(store.root / table / empty_name(arrow_schema(record))),
        "live": [_linked(store.root, table, part) for part in live],
    }


def _linked(root: Path, table: str, part: Part) -> str:
    # Where DuckLake itself would put files of the table.
    link = root / FOLDER / "parts" / table / part.name
    try:
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / table / part.name, link)
    except FileExistsError:
        pass  # another sync was first
    except OSError as error:
        raise StoreError(f"{link} cannot be made a hard link: {error.strerror}") from error
    return str(link)


def _run(plan: Mapping[str, object], python: str | None) -> dict[str, int]:
    # Of another environment's modules, ours are none.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    worker = Path(__file__).with_name("worker.py")
    try:
        done = subprocess.run(
            [python or sys.executable, str(worker)],
            input=json.dumps(plan),  # not an argument: it may have a password
            capture_output=True,
            text=True,
            env=environment,
        )
    except OSError as error:
        raise ConfigError(f"--python {python}: {error.strerror}") from error
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode == REFUSED and "xtension" not in line:
        raise StoreError(f"the lake was not changed: {line}")
    raise StoreError(
        f"DuckLake cannot be used here ({line}): name an interpreter that has it by --python, made by "
        "`pip install duckdb-extension-ducklake` (and -sqlite-scanner or -postgres-scanner) in a new environment"
    )
