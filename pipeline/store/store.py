"""`VariantStore`: append records, query views, take snapshots for training."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from diva_grpo.pipeline.store import engine
from diva_grpo.pipeline.store.doctor import Finding, examine
from diva_grpo.pipeline.store.files import parts
from diva_grpo.pipeline.store.files.address import place_of
from diva_grpo.pipeline.store.files.compaction import GRACE_S, Compacted, compact
from diva_grpo.pipeline.store.files.database import quoted
from diva_grpo.pipeline.store.files.liveness import mark_killed, run_lock
from diva_grpo.pipeline.store.files.parts import Part
from diva_grpo.pipeline.store.files.progress import Progress, ignore
from diva_grpo.pipeline.store.files.published import Published, rows_of
from diva_grpo.pipeline.store.query_errors import in_one_line
from diva_grpo.pipeline.store.retention import given_up
from diva_grpo.pipeline.store.snapshot import Snapshot, load_snapshot
from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.arrow import arrow_schema, columns_to_table, to_table
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.exceptions import ConfigError, QueryError, StoreError
from diva_grpo.schemas.records import (
    RECORDS,
    Label,
    Problem,
    Record,
    Rollout,
    Run,
    Setting,
    Variant,
    Verdict,
    utc_now,
)

R = TypeVar("R", bound=Record)
_LOG = logging.getLogger(__name__)

_IMAGE_SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
}


class VariantStore:
    """A folder with one sub-folder for each table, which holds the table's immutable Parquet parts.

    Any number of processes can append, read and compact at the same time without a lock, because a single rename
    makes a complete part visible.

    Args:
        root: the store's folder, or its URL on an object store.
        create: create the folder and its tables if they are missing.

    Attributes:
        place: location of the store's files.
        catalogue: lists the parts of each table.

    Raises:
        StoreError: there is no store at `root` and `create` is false, the folder cannot be written, or a newer
            program wrote the store.

    Example:
        >>> store = VariantStore("runs/store", create=True)
        >>> store.query("SELECT count(*) FROM problems")
        [(0,)]
    """

    def __init__(self, root: str | Path, *, create: bool = False) -> None:
        self.place = place_of(root)
        self.catalogue = parts.Catalogue(self.place)
        self._engine = engine.Engine(self.place, self.catalogue)
        if not create and not self.catalogue.parts(Problem.table):
            cure = diva("ingest", "SOURCE", "--store", root)
            raise StoreError(f"no store at {word(root)}: make one with `{cure}`")
        for record in RECORDS:
            # An empty part with the present schema gives a view all columns, even if all other parts lack some.
            schema = arrow_schema(record)
            if parts.empty_name(schema) not in {part.name for part in self.catalogue.parts(record.table)}:
                parts.publish_empty(self.place, record.table, schema)
        with suppress(StoreError):  # a damaged part is reported when it is read
            if missing := Published(self.place, self.catalogue).missing():
                _warn(_missing_line(self.place.url, missing))

    @property
    def root(self) -> Path:
        """The store's folder; for a store on an object store, its cache folder on this machine."""
        return self.place.local

    # --- writing

    def append(self, records: Sequence[Record], *, recorded_at: datetime | None = None) -> None:
        """Write records of one type as one part.

        All records become visible at the same time. When the method returns, they are durable.

        Args:
            records: all of the same type; nothing is written if there are none.
            recorded_at: time that the records get, UTC; default now.

        Raises:
            TypeError: the records are of several types.
        """
        if len(kinds := {type(record).__name__ for record in records}) > 1:
            raise TypeError(
                f"append records of one type at a time, not {' and '.join(sorted(kinds))} together"
            )
        if records:
            self._publish(records[0].table, lambda now: to_table(records, recorded_at or now))

    def append_columns(self, record: type[Record], batches: Sequence[Mapping[str, Any]]) -> None:
        """Write rows that are given as columns, without a Pydantic model for each row.

        A trainer writes thousands of rollouts per step in this way.

        Args:
            record: the record type of the table.
            batches: for each batch, a mapping from column name to the values of all rows, or to one value that all
                rows share.

        Raises:
            KeyError: a column without a default is missing, or the table has no column of that name.
            pyarrow.ArrowInvalid: a value does not have its column's type.
        """
        if batches:
            self._publish(record.table, lambda now: columns_to_table(record, batches, now))

    def _publish(self, table: str, rows_at: Callable[[datetime], pa.Table]) -> None:
        now_ns = self.catalogue.now_ns(table)
        if now_ns > time.time_ns() + parts.AHEAD_NS:
            _warn(
                f"{table} of the store {word(self.place.url)} has parts dated in the future: the clock is wrong here "
                "or where they were written; what is written now counts as later than they"
            )
        part = parts.publish(self.place, table, rows_at(parts.as_time(now_ns)), now_ns)
        self.catalogue.saw(table, part)

    def put_image(self, content: bytes, image_format: str) -> str:
        """Store an image's bytes, unless the store already has them.

        Args:
            content: the bytes of the image file.
            image_format: Pillow's name of the format, such as `PNG`.

        Returns:
            The SHA-256 of the bytes in hex digits, which `image_path` takes.
        """
        digest = hashlib.sha256(content).hexdigest()
        suffix = _IMAGE_SUFFIXES.get(image_format, ".img")
        parts.publish_bytes(self.place, f"{parts.IMAGES}/{digest[:2]}/{digest}{suffix}", content)
        return digest

    def put_setting(self, name: str, value: str) -> None:
        """Set a property of the store; `setting` returns its value."""
        self.append([Setting(name=name, value=value)])

    @contextmanager
    def run(
        self, kind: str, config: str, model: str | None = None, run_id: str | None = None
    ) -> Iterator[str]:
        """Record one execution of a command in the table `runs`, with its outcome. Yields the run_id.

        The outcome is `ok`, `interrupted` (after KeyboardInterrupt) or `failed` (after another exception).

        Args:
            kind: name of the command.
            config: settings of the command, as JSON.
            model: name of the model that the command uses, if any.
            run_id: id of the run to resume; default a new id.
        """
        run = Run(
            run_id=run_id or f"{kind}-{utc_now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}",
            kind=kind,
            model=model,
            config=config,
            versions=_versions(),
        )
        mark_killed(self.root, self._record_death)
        outcome = "failed"
        # The lock is taken before the first record and freed after the last one. A run that is recorded as running
        # without a lock is therefore dead.
        with run_lock(self.root, run.run_id):
            self.append([run])
            try:
                yield run.run_id
                outcome = "ok"
            except KeyboardInterrupt:
                outcome = "interrupted"
                raise
            finally:
                self.append([run.model_copy(update={"ended_at": utc_now(), "outcome": outcome})])

    def _record_death(self, run_id: str) -> None:
        left = self.read(Run, "run_id = ? AND outcome = 'running'", [run_id])
        self.append([run.model_copy(update={"outcome": "killed"}) for run in left])

    # --- reading

    def connect(self, *, query: str | None = None, memory_mb: int | None = None) -> duckdb.DuckDBPyConnection:
        """Return an in-memory DuckDB connection with the views of the store. The caller must close it.

        The connection shows the store as it is now. To see records that are appended later, open another
        connection. If a connection is held longer than `grace_s` of a compaction (see `compact`), its parts may be
        removed.

        Args:
            query: SQL for which the connection is used. A view that it does not name is not prepared, which saves
                a scan of the view's keys. Such a view can still be queried, but each query takes longer. None
                prepares all views.
            memory_mb: memory limit of DuckDB, in MiB; None keeps DuckDB's default, 80 % of the memory.

        Raises:
            StoreError: a part file is damaged.
            duckdb.OutOfMemoryException: `memory_mb` is too small to open the store.
        """
        return self._engine.connect(query=query, memory_mb=memory_mb)

    def cursor(self, query: str) -> duckdb.DuckDBPyConnection:
        """Return a connection to the database of `query`, whose views stay prepared. The caller must close it.

        Args:
            query: text of all trusted queries that will run on it. Only views that it names are there.

        Raises:
            StoreError: a part file is damaged or missing.
        """
        return self._engine.cursor(query)

    def naming_damage(self, query: str) -> AbstractContextManager[None]:
        """Return a context for queries on a connection from `connect`.

        If a damaged file makes such a query fail, the context raises a StoreError that names the file.

        Args:
            query: SQL that runs inside the context.
        """
        return self._engine.naming_damage(query)

    def query(
        self, sql: str, parameters: Sequence[object] = (), *, variant_parts: Sequence[str] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a trusted query and return its rows. For a query that a user wrote, see `run_select`.

        Args:
            sql: the query.
            parameters: values for the placeholders `?` of the query.
            variant_parts: names of the parts of `variants` to read, see the method `variant_parts`; None reads all.

        Raises:
            QueryError: DuckDB reports an error in the query.
            StoreError: a part file is damaged or missing.
        """
        if variant_parts is None:
            return self._engine.query(sql, parameters)
        names = frozenset(variant_parts)
        of_variants = (self.catalogue.holding(Variant.table, names), names)
        with (
            self._engine.connect(query=sql, variant_parts=of_variants) as connection,
            in_one_line(connection, sql),
            self.naming_damage(sql),
        ):
            return connection.execute(sql, parameters).fetchall()

    def of_problems(self, problem_ids: Sequence[str]) -> VariantStore:
        """Return this store restricted to some problems, for fast lookups.

        Its queries on `problems`, `variants`, `verdicts`, `labels` and `rollouts` read only the records of these
        problems. The other tables are not restricted.
        """
        ids = _one_of("problem_id", problem_ids)
        of_ids = dict.fromkeys([Problem.table, Variant.table, Rollout.table], ids)
        narrow = copy.copy(self)
        narrow._engine = engine.Engine(self.place, self.catalogue, of_ids)
        variant_ids = narrow._engine.recorded(Variant.table, "variant_id")
        narrow._engine.narrow(
            {
                Verdict.table: _one_of("variant_id", variant_ids),
                Label.table: _one_of("subject_id", [*problem_ids, *variant_ids]),
            }
        )
        return narrow

    def read(
        self,
        record: type[R],
        where: str = "true",
        parameters: Sequence[object] = (),
        *,
        limit: int | None = None,
    ) -> list[R]:
        """Return records of one type as Pydantic models, in the order of their keys.

        Args:
            record: the record type.
            where: SQL condition on the columns of its view. It must be trusted.
            parameters: values for the placeholders `?` of the condition.
            limit: maximum number of records; None returns all.
        """
        names = ", ".join(f'"{name}"' for name in record.model_fields)
        key = ", ".join(f'"{name}"' for name in record.key)
        sql = f"SELECT {names} FROM {record.table} WHERE {where} ORDER BY {key}"
        rows = self.query(sql if limit is None else f"{sql} LIMIT {limit}", parameters)
        return [record.model_validate(dict(zip(record.model_fields, row, strict=True))) for row in rows]

    def problems(
        self, problem_ids: Sequence[str] | None = None, *, where: str | None = None, limit: int | None = None
    ) -> list[Problem]:
        """Return problems in the order of their ids.

        Args:
            problem_ids: return only problems with these ids; default all.
            where: an SQL condition on the columns of `problems`, such as `source = 'gsm8k'`.
            limit: return only the first `limit` problems; None returns all.

        Raises:
            ConfigError: the condition is not valid SQL.
        """
        condition, parameters = f"({where or 'true'})", list[object]()
        if problem_ids is not None:
            condition += " AND problem_id IN (SELECT unnest(?))"
            parameters = [list(problem_ids)]
        with _user_condition(where):
            return self.read(Problem, condition, parameters, limit=limit)

    def problem_ids(
        self, problem_ids: Sequence[str] | None = None, *, where: str | None = None, limit: int | None = None
    ) -> list[str]:
        """Return the ids of the problems that `problems` would return, without reading their other columns.

        Raises:
            ConfigError: the condition is not valid SQL.
        """
        sql = (
            f"SELECT problem_id FROM problems WHERE ({where or 'true'}) "
            "AND (? IS NULL OR problem_id IN (SELECT unnest(?))) ORDER BY problem_id LIMIT ?"
        )
        only = None if problem_ids is None else list(problem_ids)
        with _user_condition(where):
            return [found for (found,) in self.query(sql, [only, only or [], limit])]

    def count_problems(self, *, where: str | None = None, limit: int | None = None) -> int:
        """Return the number of problems that `problems` would return, without reading them.

        Raises:
            ConfigError: the condition is not valid SQL.
        """
        sql = f"SELECT count(*) FROM (SELECT 1 FROM problems WHERE ({where or 'true'}) LIMIT ?)"
        with _user_condition(where):
            return int(self.query(sql, [limit])[0][0])

    def setting(self, name: str) -> str | None:
        """Return a property of the store (see `put_setting`), or None if it was never set."""
        rows = self.query("SELECT value FROM settings WHERE name = ?", [name])
        return rows[0][0] if rows else None

    def image_path(self, digest: str) -> Path:
        """Return the local path of an image. An image on an object store is first copied to the cache.

        Args:
            digest: SHA-256 of the image's bytes, from `put_image`.

        Raises:
            StoreError: the store has no such image.
        """
        folder = f"{parts.IMAGES}/{digest[:2]}"
        name = next((name for name in self.place.names(folder) if name.startswith(f"{digest}.")), None)
        if name is None:
            raise StoreError(f"image {digest[:12]} is missing from {self.place.url}: ingest its source again")
        self.place.fetch([f"{folder}/{name}"])
        return self.root / folder / name

    def variant_parts(self, until_ns: int | None = None) -> list[str]:
        """Return the names of the parts of `variants`, oldest first.

        A merged part is replaced by the names of the parts from which it was made. Compaction therefore does not
        change the names, and `snapshot` can read the parts that an old checkpoint names.

        Args:
            until_ns: return only parts written up to this time, in nanoseconds since 1970; None returns all.
        """
        live = self.catalogue.live(Variant.table)
        names = sorted({name for part in live for name in self.catalogue.origins(Variant.table, part)})
        return [name for name in names if until_ns is None or (Part.named(name).written_ns or 0) <= until_ns]

    def snapshot(self, variant_parts: Sequence[str] | None = None) -> Snapshot:
        """Load the accepted variants into memory, for selection during training.

        Args:
            variant_parts: names of the parts of `variants` to read, from `Snapshot.parts` of an earlier snapshot.
                A resumed run then sees the same variants as before, even after a compaction. None reads all parts.

        Raises:
            StoreError: a part is damaged or missing.
        """
        return load_snapshot(self._engine, self.catalogue, variant_parts or self.variant_parts())

    # --- upkeep

    def compact(
        self,
        *,
        grace_s: float = GRACE_S,
        keep_rollouts: Sequence[str | timedelta] | None = None,
        progress: Progress = ignore,
    ) -> Compacted:
        """Merge small parts, and delete old files that are no longer needed.

        These are parts that were merged, and files that a crashed writer left, both at least `grace_s` ago. Rows of
        removed runs (see `pipeline.store.removal.remove_run`) are dropped from the merged parts.

        Args:
            grace_s: seconds for which a merged part is kept, because readers may still use it.
            keep_rollouts: selects the training runs whose rollouts are kept: by run id, or by the maximum time since
                the run was last active. Rollouts of other runs are dropped, unless the run is still running. None
                keeps all rollouts.
            progress: called with the number of parts that were looked at since the previous call.

        Raises:
            ConfigError: `keep_rollouts` contains the id of a run that has no rollouts.
            StoreError: the store cannot be written.
        """
        without = given_up(self._engine, keep_rollouts)
        return compact(self.place, self.catalogue, grace_s=grace_s, without=without, progress=progress)

    def examine(self, *, repair: bool = False, progress: Progress = ignore) -> list[Finding]:
        """Read every file of the store and return what is wrong; see `pipeline.store.doctor`.

        Args:
            repair: move damaged files to quarantine, so that the store can be opened again.
            progress: called with the number of files that were read since the previous call.
        """
        return examine(self._engine, repair=repair, progress=progress)

    def checksums(self) -> dict[str, str]:
        """Return, for each view, the number of its rows and a hash of them that does not depend on their order.

        Two stores with the same rows have the same checksums, if both are computed by the same version of DuckDB.
        """
        with self.connect() as connection, self.naming_damage(" ".join(view_names())):
            return engine.checksums(connection)


def _missing_line(url: str, paths: Sequence[str]) -> str:
    rows = sum(rows_of(path) or 0 for path in paths)
    return (
        f"the store {word(url)} lacks {len(paths)} of its parts, with {rows} rows ({paths[0]} is one): "
        f"`{diva('doctor', '--store', url)}`"
    )


@cache
def _warn(line: str) -> None:
    """Log a warning. A process logs each line only once."""
    _LOG.warning(line)


def _one_of(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(map(quoted, values)) or 'NULL'})"


@contextmanager
def _user_condition(where: str | None) -> Iterator[None]:
    """Turn the error about a user's condition into a ConfigError of one line that quotes the condition.

    If `where` is None, the error is raised unchanged.
    """
    try:
        yield
    except QueryError as error:
        if where is None:
            raise
        raise ConfigError(f"problem filter {where!r}: {error}") from error


def _versions() -> str:
    """Return the versions of Python and of the packages that can change the outcome of a run, as JSON."""
    versions = {"python": platform.python_version()}
    for name in "diva-grpo duckdb numpy openai pillow pyarrow torch transformers trl".split():
        with suppress(PackageNotFoundError):  # the package belongs to an extra that is not installed
            versions[name] = version(name)
    return json.dumps(versions)
