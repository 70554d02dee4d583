"""DuckDB over a store: connections with its views, which are derived and made anew wherever parts change."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from typing import Any

import duckdb

from diva_grpo.pipeline.store.files.database import open_database
from diva_grpo.pipeline.store.files.parts import Catalogue, Part
from diva_grpo.pipeline.store.files.places import Place
from diva_grpo.pipeline.store.views import named_views, source, view_names, view_statements
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import RECORDS, Variant

_TABLES = tuple(record.table for record in RECORDS)


class Engine:
    """Connections to a store's views. Threads may share it; a forked process gets a database of its own.

    Args:
        place: where the store lies.
        catalogue: of its parts.
    """

    def __init__(self, place: Place, catalogue: Catalogue) -> None:
        self.place = place
        self.catalogue = catalogue
        self._lock = threading.Lock()
        # By process id: a database cannot be used in a fork, nor closed there.
        self._databases: dict[int, tuple[duckdb.DuckDBPyConnection, dict[str, str]]] = {}

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a trusted query, on a database that is kept for the next one.

        Raises:
            StoreError: a part file is damaged or missing.
        """
        with self._lock:
            database, known = self._databases.setdefault(os.getpid(), (open_database(), {}))
            views = named_views(sql)
            self._make(database, views, self._sources(views), known)
            cursor = database.cursor()
        with cursor:
            try:
                return cursor.execute(sql, parameters).fetchall()
            except (duckdb.IOException, duckdb.InvalidInputException) as error:
                # The engine's own complaint of a file; all else is of the query.
                raise (self._unreadable(error) if str(self.place.local) in str(error) else error) from error

    def connect(
        self,
        *,
        views: Sequence[str] | None = None,
        schema: str = "main",
        variant_parts: tuple[Sequence[Part], Collection[str]] | None = None,
    ) -> duckdb.DuckDBPyConnection:
        """A new in-memory connection with the views as the parts are now. The caller closes it.

        Args:
            views: only these, see `named_views`.
            schema: where they go.
            variant_parts: what to read of `variants` instead of all: parts, and the origins of the rows.

        Raises:
            StoreError: a part file is damaged or missing.
        """
        views = list(view_statements("")) if views is None else views
        sources = self._sources(views)
        if variant_parts is not None:
            sources[Variant.table] = self._source(Variant.table, *variant_parts)
        connection = open_database()
        try:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; SET schema = '{schema}'")
            self._make(connection, views, sources, {})
            connection.execute("SET schema = 'main'")
        except StoreError:
            connection.close()
            raise
        return connection

    def _sources(self, views: Sequence[str]) -> dict[str, str]:
        return {table: self._source(table, self.catalogue.live(table)) for table in _TABLES if table in views}

    def _source(self, table: str, parts: Sequence[Part], origins: Collection[str] | None = None) -> str:
        self.place.fetch([f"{table}/{part.name}" for part in parts])
        return source(str(self.place.local), table, parts, origins)

    def _make(
        self,
        connection: duckdb.DuckDBPyConnection,
        views: Sequence[str],
        sources: dict[str, str],
        known: dict[str, str],
    ) -> None:
        """Make those of the views whose parts are others than those in `known`, and remember them there."""
        statements = view_statements(self.place.url, dict.fromkeys(_TABLES, "") | sources)
        for name in views:
            if known.get(name) != statements[name]:
                try:
                    connection.execute(statements[name])
                except duckdb.Error as error:
                    known.pop(name, None)
                    raise self._unreadable(error) from error
                known[name] = statements[name]

    def _unreadable(self, error: Exception) -> StoreError:
        line = str(error).strip().splitlines()[0]
        url = self.place.url
        return StoreError(
            f"store {url} cannot be read: {line} (`diva doctor --store {url}` finds what is damaged)"
        )


def checksums(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """By view, the number of its rows and a hash of them in which their order plays no part."""
    found = {}
    for view in view_names():
        [(rows, total)] = connection.execute(
            f"SELECT count(*), coalesce(sum(hash(v)::HUGEINT) % 18446744073709551616, 0) FROM {view} v"
        ).fetchall()
        found[view] = f"{rows}-{int(total):016x}"
    return found
