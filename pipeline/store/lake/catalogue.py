"""A DuckLake catalogue of a store: a database that lists the store's parts, with history, for many machines.

The store does not depend on the catalogue, which can be deleted and created again at any time. Parts are registered,
not copied. DuckLake treats registered files as its own, and its maintenance (`CHECKPOINT`,
`ducklake_cleanup_old_files`) deletes files. The registered files are therefore hard links to the parts, in the store's
folder `lake`. So DuckLake cannot delete a part of the store. A part that a compaction deletes stays readable in older
DuckLake snapshots until they expire.
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
"""Folder of the store with the hard links. It is DuckLake's DATA_PATH."""
PREFIX = "ducklake:"


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did.

    Attributes:
        added: number of parts that were registered.
        removed: number of parts that were taken out, because merged parts replaced them or they are in quarantine.
        snapshot: id of the DuckLake snapshot; that of the latest snapshot if nothing had changed.
    """

    added: int
    removed: int
    snapshot: int


def sync_lake(store: VariantStore, catalog: str, *, python: str | None = None) -> Synced:
    """Register the live parts of all tables in a DuckLake and create the store's views there, as one snapshot.

    In the lake, the schema `parts` has a table for each table of the store, and the schema `main` has the views. The
    views are created again with each snapshot. If the sync fails, the catalogue is not changed.

    Args:
        store: store in a folder that all readers of the lake can access.
        catalog: address of the catalogue for DuckDB's ATTACH, such as `ducklake:postgres:dbname=diva host=db`.
        python: Python interpreter of an environment with another release of DuckDB; None uses this interpreter.

    Raises:
        ConfigError: `catalog` is not the address of a DuckLake, or the interpreter does not exist.
        StoreError: the store is on an object store, a part has an older schema with other columns, the file system
            has no hard links, DuckDB's extension is missing, or the catalogue cannot be used.
    """
    if not catalog.startswith(PREFIX):
        raise ConfigError(
            f"--catalog begins with {PREFIX!r}, such as {PREFIX}sqlite:lake.sqlite: {catalog!r}"
        )
    if store.place.url != str(store.root):
        raise StoreError(
            f"{store.place.url} is on an object store: `diva lake` makes hard links to the parts, so it needs a store "
            "in a folder"
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
    # DuckLake itself would put the table's files in this folder.
    link = root / FOLDER / "parts" / table / part.name
    try:
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / table / part.name, link)
    except FileExistsError:
        pass  # another sync has just created it
    except OSError as error:
        raise StoreError(f"{link} cannot be made a hard link: {error.strerror}") from error
    return str(link)


def _run(plan: Mapping[str, object], python: str | None) -> dict[str, int]:
    # The other interpreter must not import modules of this environment.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    worker = Path(__file__).with_name("worker.py")
    try:
        done = subprocess.run(
            [python or sys.executable, str(worker)],
            input=json.dumps(plan),  # not an argument, because it may contain a password
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
