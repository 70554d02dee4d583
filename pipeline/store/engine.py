"""DuckDB over a store: connections with its views, which are derived and made anew wherever parts change."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from diva_grpo.pipeline.store.files.database import open_database
from diva_grpo.pipeline.store.files.parts import Catalogue, Part, damaged, is_whole
from diva_grpo.pipeline.store.files.places import Place
from diva_grpo.pipeline.store.views import (
    PREPARED,
    named_views,
    prepared,
    source,
    view_names,
    view_statements,
)
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import RECORDS, Variant

_TABLES = tuple(record.table for record in RECORDS)
_OF_A_QUERY = (
    *(
        "Binder Error",
        "Catalog Error",
        "Parser Error",
        "Syntax Error",
        "Permission Error",
        "Conversion Error",
    ),
    *(
        "Out of Range Error",
        "INTERRUPT Error",
        "Out of Memory Error",
        "Not implemented Error",
        "Constraint Error",
    ),
)
"""Errors that no file can be the cause of."""


class Engine:
    """Connections to a store's views. Threads may share it; a forked process gets a database of its own.

    Args:
        place: where the store lies.
        catalogue: of its parts.
        only: by table, an SQL condition on the rows to read. It must hold for all records of a key or for none.
    """

    def __init__(self, place: Place, catalogue: Catalogue, only: Mapping[str, str] | None = None) -> None:
        self.place = place
        self._only = only or {}
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
            database, known = self._database()
            self._prepare(database, named_views(sql), known)
            cursor = database.cursor()
        with cursor, self.naming_damage(sql):
            return cursor.execute(sql, parameters).fetchall()

    @contextmanager
    def naming_damage(self, query: str) -> Iterator[None]:
        """Where a file of the store is what an error of DuckDB or Arrow comes from, say so in its place.

        The engine says of damage what it stumbled over ("Out of buffer"), most often without the file. So the parts
        that the query reads are compared with their hashes; an error beside whole parts is of the query.

        Args:
            query: what is run meanwhile.

        Raises:
            StoreError: a part file is damaged, missing or cannot be read.
        """
        try:
            yield
        except (duckdb.Error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # Arrow's own have none
                raise
            damage = self._damage(error, query)
            if damage is None:
                raise
            raise damage from error

    def _damage(self, error: Exception, query: str) -> StoreError | None:
        if any(kind in str(error) for kind in _OF_A_QUERY):
            return None
        for table in named_views(query):
            for part in self.catalogue.live(table) if table in _TABLES else ():
                path = f"{table}/{part.name}"
                try:
                    whole = is_whole(self.place, table, part)
                except FileNotFoundError:
                    whole = False
                if not whole:
                    return StoreError(damaged(self.place, path))
        return _unreadable(self.place, error) if str(self.place.local) in str(error) else None

    def connect(
        self,
        *,
        query: str | None = None,
        schema: str = "main",
        variant_parts: tuple[Sequence[Part], Collection[str]] | None = None,
        memory_mb: int | None = None,
    ) -> duckdb.DuckDBPyConnection:
        """A new in-memory connection with all views as the parts are now. The caller closes it.

        Args:
            query: prepares only the views that it names (see `views`), the others are live; None prepares all.
            schema: where the views go.
            variant_parts: what to read of `variants` instead of all: parts, and the origins of the rows.
            memory_mb: MiB that the engine may use; None leaves DuckDB's own limit.

        Raises:
            StoreError: a part file is damaged or missing.
            duckdb.OutOfMemoryException: `memory_mb` does not suffice to prepare the views.
        """
        needed = named_views(" ".join(view_names()) if query is None else query)
        connection = open_database()
        try:
            if memory_mb is not None:
                connection.execute(f"SET memory_limit = '{memory_mb}MiB'")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; SET schema = '{schema}'")
            self._prepare(connection, needed, {}, variant_parts)
            self._make_live(connection, needed)
            connection.execute("SET schema = 'main'")
        except (StoreError, duckdb.Error):
            connection.close()
            raise
        return connection

    def _prepare(
        self,
        connection: duckdb.DuckDBPyConnection,
        views: Sequence[str],
        known: dict[str, str],
        variant_parts: tuple[Sequence[Part], Collection[str]] | None = None,
    ) -> None:
        """Prepare those of the views of which any source is another than in `known`, and remember them there."""
        parts = {table: self.catalogue.live(table) for table in _TABLES if table in views}
        without_rows = {table for table in parts if all(part.is_empty for part in parts[table])}
        sources = {table: self._source(table, parts[table]) for table in parts}
        if variant_parts is not None and Variant.table in views:
            sources[Variant.table] = self._source(Variant.table, *variant_parts)
        for name in views:
            read = "\n".join(sources[view] for view in named_views(name) if view in sources)
            if known.get(name) != read:
                known.pop(name, None)
                rows = sources.get(name, "")
                try:
                    # At once, for threads that bind a query meanwhile.
                    connection.begin()
                    self._make_prepared(connection, name, rows, without_rows)
                    connection.commit()
                except duckdb.OutOfMemoryException:
                    connection.rollback()
                    raise
                except duckdb.Error as error:
                    connection.rollback()
                    raise (self._damage(error, name) or _unreadable(self.place, error)) from error
                known[name] = read

    def _make_prepared(
        self, connection: duckdb.DuckDBPyConnection, name: str, rows: str, without_rows: Collection[str]
    ) -> None:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {PREPARED}")
        if name in self._only:
            # Few rows: read once, where views and what they prepare would each look for them.
            connection.execute(f"CREATE OR REPLACE TABLE {PREPARED}.rows_{name} AS FROM {rows}")
            rows = f"{PREPARED}.rows_{name}"
        tables, view = prepared(name, rows, without_rows)
        for table, select in tables.items():
            connection.execute(f"CREATE OR REPLACE TABLE {PREPARED}.{table} AS {select}")
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {view}")

    def _make_live(self, connection: duckdb.DuckDBPyConnection, there: Collection[str]) -> None:
        """Make the other views, for a query that finds them by another way than by their names."""
        sources = {
            table: "" if table in there else self._source(table, self.catalogue.live(table))
            for table in _TABLES
        }
        for name, statement in view_statements(self.place.url, sources).items():
            if name not in there:
                try:
                    connection.execute(statement)
                except duckdb.Error as error:
                    raise (self._damage(error, name) or _unreadable(self.place, error)) from error

    def _database(self) -> tuple[duckdb.DuckDBPyConnection, dict[str, str]]:
        if os.getpid() not in self._databases:
            self._databases[os.getpid()] = (open_database(), {})
        return self._databases[os.getpid()]

    def narrow(self, only: Mapping[str, str]) -> None:
        """Read less from now on: by table that no query has named yet, a further condition, see `Engine`."""
        self._only = {**self._only, **only}

    def recorded(self, table: str, column: str) -> list[Any]:
        """The distinct values of a column in a table's records, superseded ones too.

        Raises:
            StoreError: a part file is damaged or missing.
        """
        with self._lock, self._database()[0].cursor() as cursor:
            source = self._source(table, self.catalogue.live(table))
            with self.naming_damage(table):
                rows = cursor.execute(f"SELECT DISTINCT {column} FROM {source}").fetchall()
        return [value for (value,) in rows]

    def _source(self, table: str, parts: Sequence[Part], origins: Collection[str] | None = None) -> str:
        self.place.fetch([f"{table}/{part.name}" for part in parts])
        rows = source(str(self.place.local), table, parts, origins)
        return f"(SELECT * FROM {rows} WHERE {self._only[table]})" if table in self._only else rows


def _unreadable(place: Place, error: Exception) -> StoreError:
    line = str(error).strip().splitlines()[0]
    cure = diva("doctor", "--store", place.url)
    return StoreError(f"store {word(place.url)} cannot be read: {line} (`{cure}` finds what is damaged)")


def checksums(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """By view, the number of its rows and a hash of them in which their order plays no part."""
    found = {}
    for view in view_names():
        [(rows, total)] = connection.execute(
            f"SELECT count(*), coalesce(sum(hash(v)::HUGEINT) % 18446744073709551616, 0) FROM {view} v"
        ).fetchall()
        found[view] = f"{rows}-{int(total):016x}"
    return found
