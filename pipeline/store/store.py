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
from diva_grpo.pipeline.store.files.published import Published, rows_of
from diva_grpo.pipeline.store.retention import given_up
from diva_grpo.pipeline.store.snapshot import Snapshot, load_snapshot
from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.arrow import arrow_schema, columns_to_table, to_table
from diva_grpo.schemas.command import diva, word
from diva_grpo.schemas.exceptions import ConfigError, StoreError
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
    """A folder with one sub-folder of immutable Parquet parts a table.

    Any number of processes append, read and compact at once without a lock: a part appears by one rename.

    Args:
        root: the store's folder.
        create: make the folder and its tables where they are missing.

    Attributes:
        place: where its files lie.
        catalogue: which parts each table has.

    Raises:
        StoreError: there is no store at `root` and `create` is false, its folder cannot be written, or a
            newer program wrote it.

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
            # Of the schema as it is now: a view has all columns, also where no part is younger than a column.
            schema = arrow_schema(record)
            if parts.empty_name(schema) not in {part.name for part in self.catalogue.parts(record.table)}:
                parts.publish_empty(self.place, record.table, schema)
        with suppress(StoreError):  # a damaged part is said where it is read
            if missing := Published(self.place, self.catalogue).missing():
                _warn(_missing_line(self.place.url, missing))

    @property
    def root(self) -> Path:
        """The store's folder; of one on an object store, its cache on this machine."""
        return self.place.local

    # --- writing

    def append(self, records: Sequence[Record], *, recorded_at: datetime | None = None) -> None:
        """Add records of one type as one part: all become visible at once, durable on return."""
        if records:
            self._publish(records[0].table, lambda now: to_table(records, recorded_at or now))

    def append_columns(self, record: type[Record], batches: Sequence[Mapping[str, Any]]) -> None:
        """Add rows given as columns, without a model for each: for a trainer's thousands of rollouts a step.

        Args:
            record: of which table.
            batches: by column name, values of all rows, or one value for them all.

        Raises:
            KeyError: a column without a default is missing, or one is not of the table.
            pyarrow.ArrowInvalid: a value is not of its column's type.
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
        """Keep an image's bytes once; returns the SHA-256 that `image_path` finds them by."""
        digest = hashlib.sha256(content).hexdigest()
        suffix = _IMAGE_SUFFIXES.get(image_format, ".img")
        parts.publish_bytes(self.place, f"{parts.IMAGES}/{digest[:2]}/{digest}{suffix}", content)
        return digest

    def put_setting(self, name: str, value: str) -> None:
        """Set a property of the store."""
        self.append([Setting(name=name, value=value)])

    @contextmanager
    def run(
        self, kind: str, config: str, model: str | None = None, run_id: str | None = None
    ) -> Iterator[str]:
        """Record one invocation of a verb in `runs`, with how it ended; yields its run_id.

        Args:
            kind: the verb.
            config: its settings, as JSON.
            model: that it uses, if any.
            run_id: of the run that is resumed; default a new one.
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
        # The first record behind the sign, and the last before it goes: a run without one is not running.
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
        """A DuckDB connection, in memory, with this store's views as it is now. The caller closes it.

        What is appended later needs another connection. One that is held longer than the grace of a
        compaction (see `compact`) may find its parts removed.

        Args:
            query: the SQL that the connection is for: views that it does not name are not prepared, which saves
                a scan of their keys. They are there, and compute more in each query. None prepares all.
            memory_mb: MiB that the engine may use; None is DuckDB's own limit, 80 % of the memory.

        Raises:
            StoreError: a part file is damaged.
            duckdb.OutOfMemoryException: `memory_mb` does not suffice to open the store.
        """
        return self._engine.connect(query=query, memory_mb=memory_mb)

    def naming_damage(self, query: str) -> AbstractContextManager[None]:
        """Goes round what is run on a connection of `connect`: damage of a file is then a StoreError that names it."""
        return self._engine.naming_damage(query)

    def query(
        self, sql: str, parameters: Sequence[object] = (), *, variant_parts: Sequence[str] | None = None
    ) -> list[tuple[Any, ...]]:
        """Rows of a trusted query (for a user's own, see `run_select`).

        Args:
            sql: the query.
            parameters: its values.
            variant_parts: the parts of `variants` to read, see `variant_parts`; None reads all.

        Raises:
            StoreError: a part file is damaged or missing.
        """
        if variant_parts is None:
            return self._engine.query(sql, parameters)
        names = frozenset(variant_parts)
        of_variants = (self.catalogue.holding(Variant.table, names), names)
        with (
            self._engine.connect(query=sql, variant_parts=of_variants) as connection,
            self.naming_damage(sql),
        ):
            return connection.execute(sql, parameters).fetchall()

    def of_problems(self, problem_ids: Sequence[str]) -> VariantStore:
        """This store as far as it is about some problems, for lookups by key: a query reads no other rows.

        Their records in `problems`, `variants`, `verdicts`, `labels` and `rollouts`; the other tables are whole.
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
        """Records of one type as models, in the order of their keys."""
        names = ", ".join(f'"{name}"' for name in record.model_fields)
        key = ", ".join(f'"{name}"' for name in record.key)
        sql = f"SELECT {names} FROM {record.table} WHERE {where} ORDER BY {key}"
        rows = self.query(sql if limit is None else f"{sql} LIMIT {limit}", parameters)
        return [record.model_validate(dict(zip(record.model_fields, row, strict=True))) for row in rows]

    def problems(
        self, problem_ids: Sequence[str] | None = None, *, where: str | None = None, limit: int | None = None
    ) -> list[Problem]:
        """Problems in the order of their ids.

        Args:
            problem_ids: only these; default all.
            where: an SQL condition on the columns of `problems`, such as `source = 'gsm8k'`.
            limit: only the first N.

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
        """The ids of what `problems` would give, without reading it.

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
        """How many problems `problems` would give, without reading them.

        Raises:
            ConfigError: the condition is not valid SQL.
        """
        sql = f"SELECT count(*) FROM (SELECT 1 FROM problems WHERE ({where or 'true'}) LIMIT ?)"
        with _user_condition(where):
            return int(self.query(sql, [limit])[0][0])

    def setting(self, name: str) -> str | None:
        """A property of the store, or None."""
        rows = self.query("SELECT value FROM settings WHERE name = ?", [name])
        return rows[0][0] if rows else None

    def image_path(self, digest: str) -> Path:
        """Where the bytes of an image lie on this machine.

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
        """Names of the parts of `variants`, oldest first; for a merged part, of those that it was made of.

        So what a checkpoint names can be read as long as the store lives, see `snapshot`.

        Args:
            until_ns: only those written up to then, in nanoseconds since 1970; None names all.
        """
        live = self.catalogue.live(Variant.table)
        names = sorted({name for part in live for name in self.catalogue.origins(Variant.table, part)})
        return [name for name in names if until_ns is None or (Part.named(name).written_ns or 0) <= until_ns]

    def snapshot(self, variant_parts: Sequence[str] | None = None) -> Snapshot:
        """The accepted variants in memory, for selection during training.

        Args:
            variant_parts: the parts of `variants` to read, as an earlier snapshot names them
                (a resumed run sees what it had seen, also after a compaction); None reads all.

        Raises:
            StoreError: a part is damaged or missing.
        """
        return load_snapshot(self._engine, self.catalogue, variant_parts or self.variant_parts())

    # --- upkeep

    def compact(
        self, *, grace_s: float = GRACE_S, keep_rollouts: Sequence[str | timedelta] | None = None
    ) -> Compacted:
        """Merge small parts, and remove what was merged or left behind by a crash long enough ago.

        The rows of removed runs are dropped (`pipeline.store.removal.remove_run`).

        Args:
            grace_s: seconds for which a file that was merged stays, for readers that found it before.
            keep_rollouts: training runs whose rollouts stay, by id or by the time since they were last seen; those of
                other runs that are not at work are dropped. None keeps all.

        Raises:
            ConfigError: `keep_rollouts` has the id of a run that has no rollouts.
            StoreError: the store cannot be written.
        """
        without = given_up(self._engine, keep_rollouts)
        return compact(self.place, self.catalogue, grace_s=grace_s, without=without)

    def examine(self, *, repair: bool = False) -> list[Finding]:
        """Read every file and say which are damaged, missing or left behind; see `pipeline.store.doctor`.

        Args:
            repair: move what is damaged to quarantine, so that the store opens again.
        """
        return examine(self._engine, repair=repair)

    def checksums(self) -> dict[str, str]:
        """By view, the number of its rows and a hash of them in which their order plays no part.

        Equal where two stores say the same by the same version of DuckDB.
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
    """Say a line once a process."""
    _LOG.warning(line)


def _one_of(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(map(quoted, values)) or 'NULL'})"


@contextmanager
def _user_condition(where: str | None) -> Iterator[None]:
    """Name a user's condition in the engine's error, in one line."""
    try:
        yield
    except duckdb.Error as error:
        if where is None:
            raise
        raise ConfigError(f"problem filter {where!r}: {str(error).splitlines()[0]}") from error


def _versions() -> str:
    """Versions of all that may change the outcome of a run, as JSON."""
    versions = {"python": platform.python_version()}
    for name in "diva-grpo duckdb numpy openai pillow pyarrow torch transformers trl".split():
        with suppress(PackageNotFoundError):  # of an extra that is not installed
            versions[name] = version(name)
    return json.dumps(versions)
