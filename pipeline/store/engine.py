"""DuckDB connections with the views of a store. The views are created again whenever the parts change."""

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
from diva_grpo.pipeline.store.query_errors import in_one_line
from diva_grpo.pipeline.store.sources import Source, source
from diva_grpo.pipeline.store.views import (
    PREPARED,
    any_left_out,
    hidden_rows,
    hidden_table,
    named_views,
    names_offsets,
    prepared,
    view_names,
    view_statements,
)
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.exceptions import StoreError, first_line
from diva_grpo.schemas.records import RECORDS, Variant

_TABLES = tuple(record.table for record in RECORDS)
_OF_A_QUERY = tuple(
    f"{kind} Error"
    for kind in "Binder|Catalog|Parser|Syntax|Permission|Conversion|Out of Range|INTERRUPT|Out of Memory|"
    "Not implemented|Constraint".split("|")
)
"""Parts of the messages of errors that a damaged file cannot cause: the query or the limits cause them."""


class Engine:
    """Creates DuckDB connections to a store's views.

    Several threads may share an engine. A forked process gets a database of its own.

    Args:
        place: location of the store's files.
        catalogue: lists the store's parts.
        only: SQL conditions by table: only rows that meet the condition are read. A condition must hold for all
            records of a key or for none of them.
    """

    def __init__(self, place: Place, catalogue: Catalogue, only: Mapping[str, str] | None = None) -> None:
        self.place = place
        self._only = only or {}
        self.catalogue = catalogue
        self._lock = threading.Lock()
        # One database per process id, because a forked process can neither use nor close its parent's database.
        self._databases: dict[int, tuple[duckdb.DuckDBPyConnection, dict[str, str]]] = {}

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a trusted query and return its rows.

        The database and its prepared views are kept, so that later queries can reuse them.

        Raises:
            QueryError: DuckDB reports an error in the query.
            StoreError: a part file is damaged or missing.
        """
        with self.cursor(sql) as cursor, in_one_line(cursor, sql), self.naming_damage(sql):
            return cursor.execute(sql, parameters).fetchall()

    def cursor(self, sql: str) -> duckdb.DuckDBPyConnection:
        """Return a connection to the database of `query`, for trusted queries. The caller must close it.

        Args:
            sql: text of all queries. The views that it names are prepared.

        Raises:
            StoreError: a part file is damaged or missing.
        """
        with self._lock:
            database, known = self._database()
            self._prepare(database, named_views(sql), known, offsets=names_offsets(sql))
            return database.cursor()

    @contextmanager
    def naming_damage(self, query: str) -> Iterator[None]:
        """Replace an error of DuckDB or Arrow by a StoreError if a damaged file of the store caused it.

        DuckDB's message about a damaged file ("Out of buffer") often does not name the file. After an error, the
        parts that the query reads are therefore compared with their hashes. If all parts are whole, the original
        error is raised again, unless its message names a path in the store's folder.

        Args:
            query: SQL that runs inside the context.

        Raises:
            StoreError: a part file is damaged, missing or cannot be read.
        """
        try:
            yield
        except (duckdb.Error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # Arrow's errors have no errno
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
        """Return a new in-memory connection with all views over the present parts. The caller must close it.

        Args:
            query: SQL for which the connection is used. Only the views that it names are prepared, and the others
                are live (see `pipeline.store.views`). None prepares all views.
            schema: name of the schema in which the views are created.
            variant_parts: the parts of `variants` to read, and the names of the origins whose rows are read from them
                (see `pipeline.store.files.parts`). None reads all live parts.
            memory_mb: memory limit of DuckDB, in MiB; None keeps DuckDB's default.

        Raises:
            StoreError: a part file is damaged or missing.
            duckdb.OutOfMemoryException: `memory_mb` is too small to prepare the views.
        """
        needed = named_views(" ".join(view_names()) if query is None else query)
        connection = open_database()
        try:
            if memory_mb is not None:
                connection.execute(f"SET memory_limit = '{memory_mb}MiB'")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; SET schema = '{schema}'")
            offsets = query is None or names_offsets(query)
            self._prepare(connection, needed, {}, variant_parts, offsets=offsets)
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
        *,
        offsets: bool,
    ) -> None:
        """Prepare the views whose sources differ from those in `known`, and update `known`.

        Args:
            connection: on which the views are created.
            views: names of the views, each after those that it reads.
            known: the sources from which each view was last prepared, by view.
            variant_parts: see `connect`.
            offsets: see `names_offsets`.
        """
        parts = {table: self.catalogue.live(table) for table in _TABLES if table in views}
        without_rows = {table for table in parts if all(part.is_empty for part in parts[table])}
        sources = {table: self._source(table, parts[table]) for table in parts}
        if variant_parts is not None and Variant.table in views:
            sources[Variant.table] = self._source(Variant.table, *variant_parts)
        for name in views:
            read = "\n".join(sources[view].rows for view in named_views(name) if view in sources)
            if name == Variant.table and offsets:
                read += "\noffsets"
            if known.get(name) not in (read, f"{read}\noffsets"):
                known.pop(name, None)
                try:
                    # One transaction, so that other threads never see a view that is prepared only in part.
                    connection.begin()
                    self._make_prepared(
                        connection, name, sources.get(name, Source("")), without_rows, offsets
                    )
                    connection.commit()
                except duckdb.OutOfMemoryException:
                    connection.rollback()
                    raise
                except duckdb.Error as error:
                    connection.rollback()
                    raise (self._damage(error, name) or _unreadable(self.place, error)) from error
                known[name] = read

    def _make_prepared(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        rows: Source,
        without_rows: Collection[str],
        offsets: bool,
    ) -> None:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {PREPARED}")
        if name in self._only:
            # The condition leaves few rows. They are copied once, so that the views need not search the parts again.
            connection.execute(f"CREATE OR REPLACE TABLE {PREPARED}.rows_{name} AS FROM {rows.rows}")
            rows = Source(f"{PREPARED}.rows_{name}")
        ask = any_left_out(name)
        left_out = ask is not None and connection.execute(ask).fetchall() == [(True,)]
        hidden = None if name in without_rows else hidden_rows(name, rows, left_out=left_out)
        hides = False
        if hidden is not None:
            connection.execute(f"CREATE OR REPLACE TABLE {hidden_table(name)} AS {hidden}")
            [(hides,)] = connection.execute(f"SELECT EXISTS (FROM {hidden_table(name)})").fetchall()
        # Without hidden rows the view is a plain scan, and DuckDB need not number the rows of the files.
        tables, view = prepared(name, rows, without_rows, offsets=offsets, hides=hides)
        for table, select in tables.items():
            connection.execute(f"CREATE OR REPLACE TABLE {PREPARED}.{table} AS {select}")
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {view}")

    def _make_live(self, connection: duckdb.DuckDBPyConnection, there: Collection[str]) -> None:
        """Create the views that are not in `there` as live views.

        A query may use them although its text does not name them.
        """
        sources = {
            table: "" if table in there else self._source(table, self.catalogue.live(table)).rows
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
        """Add conditions on the rows to read (see `only` of `Engine`).

        Args:
            only: SQL conditions by table. No query may have named these tables before.
        """
        self._only = {**self._only, **only}

    def recorded(self, table: str, column: str) -> list[Any]:
        """Return the distinct values of a column over all records of a table, including superseded records.

        Raises:
            StoreError: a part file is damaged or missing.
        """
        with self._lock, self._database()[0].cursor() as cursor:
            rows = self._source(table, self.catalogue.live(table)).rows
            with self.naming_damage(table):
                found = cursor.execute(f"SELECT DISTINCT {column} FROM {rows}").fetchall()
        return [value for (value,) in found]

    def _source(self, table: str, parts: Sequence[Part], origins: Collection[str] | None = None) -> Source:
        self.place.fetch([f"{table}/{part.name}" for part in parts])
        found = source(self.catalogue, str(self.place.local), table, parts, origins)
        if table in self._only:
            return Source(f"(SELECT * FROM {found.rows} WHERE {self._only[table]})")
        return found


def _unreadable(place: Place, error: Exception) -> StoreError:
    line = first_line(error)
    cure = diva("doctor", "--store", place.url)
    return StoreError(f"store {word(place.url)} cannot be read: {line} (`{cure}` finds what is damaged)")


def checksums(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return, for each view, the number of its rows and a hash of them that does not depend on their order."""
    found = {}
    for view in view_names():
        [(rows, total)] = connection.execute(
            f"SELECT count(*), coalesce(sum(hash(v)::HUGEINT) % 18446744073709551616, 0) FROM {view} v"
        ).fetchall()
        found[view] = f"{rows}-{int(total):016x}"
    return found
