"""Descriptions of a store's views and columns, taken from the records; and files with the views for other tools."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import duckdb

from diva_grpo.pipeline.store.files.database import quoted
from diva_grpo.pipeline.store.store import VariantStore
from diva_grpo.pipeline.store.views import create_views, view_names
from diva_grpo.schemas.exceptions import StoreError, first_line
from diva_grpo.schemas.records import RECORDS, Run, Variant, columns
from diva_grpo.schemas.views import DERIVED

DATABASE = "store.duckdb"
SCRIPT = "views.sql"
# The oldest format that DuckDB can write. A shell of version 1 cannot read the default format of version 2.
_STORAGE_VERSION = "v1.0.0"

_MEANINGS = {record.table: (record.__doc__ or "").partition("\n")[0] for record in RECORDS} | {
    view.view: (view.__doc__ or "").partition("\n")[0] for view in DERIVED
}
_COLUMNS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {record.table: columns(record) for record in RECORDS}
    | {view.view: columns(view) for view in DERIVED}
    | {
        Variant.table: columns(Variant)
        | {
            "delta_measured": "difficulty of the variant less that of its problem, by the label model's labels",
            "delta_low": "lower end of the 90 % interval of delta_measured",
            "delta_high": "upper end of the 90 % interval of delta_measured",
            "delta": "offset in use: measured and designed, weighted by their precision",
        },
        Run.table: columns(Run)
        | {
            "seconds": "from its begin to its end; NULL without an end",
            "scored_step": "last training step with rows in `evaluations`; NULL without any",
            "accuracy": "mean over the problems of these rows of correct / samples",
        },
    }
)
"""The description of each column, by view and column."""


@dataclass(frozen=True)
class Column:
    """A column of a view, with its DuckDB type and its description."""

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class View:
    """A view of a store, with its description and columns."""

    name: str
    description: str
    columns: tuple[Column, ...]


def describe_views(store: VariantStore) -> list[View]:
    """Return all views with their columns and types, in the order of `view_names`.

    Raises:
        StoreError: a part file is damaged.
    """
    with store.connect(query="") as connection:
        return [
            View(
                name,
                _MEANINGS[name],
                tuple(
                    Column(column, str(kind), _COLUMNS[name][column])
                    for column, kind, *_ in connection.execute(f"DESCRIBE {name}").fetchall()
                ),
            )
            for name in view_names()
        ]


def write_views(store: VariantStore) -> tuple[Path, Path]:
    """Write the views into the store's folder, for DuckDB's shell, a notebook, harlequin or `duckdb -ui`.

    `store.duckdb` is a database that contains only views and no rows. `views.sql` has the statements that create it.
    Both contain the live views (see `pipeline.store.views`), with absolute paths of the parts, because relative paths
    would work from one folder only. After the store has moved, write the files again. They can be deleted at any time.

    Returns:
        The paths of the database and of the script.

    Raises:
        StoreError: the store is not a folder, the folder cannot be written, or a part file is damaged.
    """
    if store.place.url != str(store.root):
        raise StoreError(f"{store.place.url} is not a folder that other tools can open: `diva sql` reads it")
    statements = create_views(store.root)
    for view in describe_views(store):
        statements.append(f"COMMENT ON VIEW {view.name} IS {quoted(view.description)}")
        statements += [
            f'COMMENT ON COLUMN {view.name}."{column.name}" IS {quoted(column.description)}'
            for column in view.columns
        ]
    script = (
        f"-- Views of the store {store.root}, made by `diva init`; run it again when the store has moved.\n"
        "-- They show the same rows as in `diva sql`, and those appended later. Each query finds the latest record of\n"
        "-- each key anew: for many queries on a large store, `VariantStore.connect` does it once and is faster.\n"
        + "".join(f"{statement};\n" for statement in statements)
    )
    try:
        # DuckDB cannot create a database under every name. It is created elsewhere, copied next to the old one and
        # renamed. A shell that has the old file open can keep using it.
        with tempfile.TemporaryDirectory(prefix="diva-views-") as folder:
            made = Path(folder) / DATABASE
            with duckdb.connect() as connection:
                connection.execute(
                    f"ATTACH {quoted(str(made))} AS made (STORAGE_VERSION '{_STORAGE_VERSION}'); USE made"
                )
                for statement in statements:
                    connection.execute(statement)
            _put(store.root / DATABASE, made.read_bytes())
        _put(store.root / SCRIPT, script.encode())
    except (OSError, duckdb.IOException) as error:
        raise StoreError(f"{store.root} cannot be written: {first_line(error)}") from error
    return store.root / DATABASE, store.root / SCRIPT


def _put(path: Path, content: bytes) -> None:
    new = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
    try:
        new.write_bytes(content)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
