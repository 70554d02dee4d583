"""`ingest`: rows of a source become problems of the store, or rejects with their reasons.

    report = ingest(VariantStore("store", create=True), "gsm8k.jsonl", PRESETS["gsm8k"])

Every row that is read ends in one of three ways: added, already there, or rejected. So
`added + already_there + rejected` is the number of rows, and reading a source twice adds nothing. Variants that come
with their problems become candidates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from diva_grpo.pipeline.ingest.augmented import read_variants
from diva_grpo.pipeline.ingest.rows import RowError, check_own_answer, read_problem
from diva_grpo.pipeline.ingest.sources import Part, Row, Unreadable, default_name, open_source
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError, SourceError
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.records import LICENSE_SETTING, Problem, Reject, Variant

CHUNK_SIZE = 5_000
"""Problems (or rejects, or variants) that are appended at once: what bounds the memory, and what a crash can cost."""

DEFAULT_SPLIT = "train"
RAW_LIMIT = 2_000
"""Characters of a rejected row that are kept."""

_PROGRESS_ROWS = 50


@dataclass(frozen=True)
class IngestReport:
    """What became of the rows of a source.

    Attributes:
        added: new problems.
        already_there: rows that the store has with the same content.
        rejected: rows that are not problems; the store's `rejects` say why.
        absent_columns: optional columns of the mapping that no row had.
        variants: new variants that came with the problems.
    """

    added: int
    already_there: int
    rejected: int
    absent_columns: tuple[str, ...] = ()
    variants: int = 0

    @property
    def rows(self) -> int:
        """Rows that were read."""
        return self.added + self.already_there + self.rejected


def ingest(
    store: VariantStore,
    source: str,
    mapping: ColumnMapping,
    *,
    source_name: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> IngestReport:
    """Read a source into the store, in bounded memory.

    Args:
        store: gets the problems, their images and variants, and the rejects.
        source: a file (.jsonl, .json, .csv, .parquet), a folder of them, a folder of `save_to_disk`, a data set
            `owner/name` of the Hugging Face hub, or the name of the mapping's preset.
        mapping: which column holds what.
        source_name: first part of the ids, "<source_name>/<id>"; by default the preset's name, else the file's
            stem or the last part of the hub name.
        split: what to read of a source with several splits, and the split that is recorded for rows without
            one of their own. By default all is read; rows of a file named like one (test.jsonl) are of that
            split, all others of `train`.
        limit: rows to read at most.
        progress: told how many rows are newly done.

    Returns:
        Counts of the rows.

    Raises:
        SourceError: the source cannot be read, or has no column of the problem's or the answer's name.
        ConfigError: the source's name is empty or holds a slash.

    Example:
        >>> mapping = ColumnMapping(problem="question", answer="answer", answer_format="gsm8k")
        >>> ingest(store, "data/word_problems.jsonl", mapping, limit=6).added
        6
    """
    name = source_name if source_name is not None else default_name(source, mapping)
    if not name or "/" in name:
        raise ConfigError(f"the source's name {name!r} must not be empty or hold a slash: choose another")
    parts = open_source(source, mapping, split=split, streaming=limit is not None)
    _keep_license(store, name, mapping.license)
    intake = _Intake(store, source, name, mapping, split)
    done = 0
    for part in parts:
        intake.begin(part)
        for row in part.rows:
            if done == limit:
                break
            intake.take(part, row)
            done += 1
            if progress and done % _PROGRESS_ROWS == 0:
                progress(_PROGRESS_ROWS)
    if progress and done % _PROGRESS_ROWS:
        progress(done % _PROGRESS_ROWS)
    return intake.finish()


def _keep_license(store: VariantStore, source_name: str, licence: str | None) -> None:
    setting = LICENSE_SETTING + source_name
    if licence is not None and store.setting(setting) != licence:
        store.put_setting(setting, licence)


class _Intake:
    """What one invocation remembers between rows."""

    def __init__(
        self, store: VariantStore, source: str, name: str, mapping: ColumnMapping, split: str | None
    ) -> None:
        self._store = store
        self._source = source
        self._name = name
        self._mapping = mapping
        self._split = split
        self._known = _known_problems(store, name)
        self._has_variants = bool(mapping.variants or mapping.think_steps)
        self._known_variants = _known_variants(store, name) if self._has_variants else set[str]()
        self._known_rejects: dict[int, bytes] = {}
        self._first_rows: dict[str, tuple[str, int]] = {}
        self._problems: list[Problem] = []
        self._rejects: list[Reject] = []
        self._variants: list[Variant] = []
        self._columns: set[str] = set()
        self._columns_checked = False
        self._added = self._already_there = self._rejected = self._new_variants = 0

    def begin(self, part: Part) -> None:
        """Look up the rejects that an earlier reading of this part left."""
        rows = self._store.query("SELECT row_number, reason, raw FROM rejects WHERE source = ?", [part.label])
        self._known_rejects = {number: _digest([reason, raw]) for number, reason, raw in rows}

    def take(self, part: Part, row: Row | Unreadable) -> None:
        """Turn a row into a problem or a reject, and append what has gathered."""
        try:
            if isinstance(row, Unreadable):
                raise RowError(row.reason)
            self._columns.update(row.values)
            self._admit(part, row)
        except RowError as error:
            self._reject(part.label, row, str(error))
        if max(len(self._problems), len(self._rejects), len(self._variants)) >= CHUNK_SIZE:
            self._flush()

    def finish(self) -> IngestReport:
        """Append the rest."""
        self._flush()
        return IngestReport(
            self._added, self._already_there, self._rejected, self._absent_columns(), self._new_variants
        )

    def _admit(self, part: Part, row: Row) -> None:
        split = self._mapping.recorded_split or part.split or self._split or DEFAULT_SPLIT
        problem, pictures = read_problem(row.values, self._mapping, self._name, split, part.place)
        variants = self._read_variants(row, problem) if self._has_variants else []
        problem_id = problem.problem_id
        if problem_id in self._first_rows:
            label, number = self._first_rows[problem_id]
            where = f"row {number}" if label == part.label else f"row {number} of {label}"
            raise RowError(
                f"duplicate id {problem_id.removeprefix(self._name + '/')!r}: {where} has it already"
            )
        content = _digest(problem.model_dump(exclude={"ingested_at"}))
        known = self._known.get(problem_id)
        if known is None:
            check_own_answer(problem)
        elif known != content:
            raise RowError("id already in the store with another content")
        # Also for a problem that is there: a lost image comes back with its source.
        for picture in pictures:
            self._store.put_image(picture.content, picture.image_format)
        self._first_rows[problem_id] = (part.label, row.number)
        if known is None:
            self._problems.append(problem)
            self._added += 1
        else:
            self._already_there += 1
        # Also of a problem that is there: its variants may have come later, or an interruption before them.
        self._known_variants.update(variant.variant_id for variant in variants)
        self._variants += variants
        self._new_variants += len(variants)

    def _read_variants(self, row: Row, problem: Problem) -> list[Variant]:
        """Variants of the row that the store has not."""
        model = self._mapping.generator_model or self._name
        variants = read_variants(row.values, self._mapping, problem, model)
        return [variant for variant in variants if variant.variant_id not in self._known_variants]

    def _reject(self, label: str, row: Row | Unreadable, reason: str) -> None:
        self._rejected += 1
        raw = row.raw[:RAW_LIMIT]
        if self._known_rejects.get(row.number) != _digest([reason, raw]):
            self._rejects.append(Reject(source=label, row_number=row.number, reason=reason, raw=raw))

    def _flush(self) -> None:
        self._check_columns()
        self._store.append(self._problems)
        self._store.append(self._variants)
        self._store.append(self._rejects)
        self._problems, self._variants, self._rejects = [], [], []

    def _check_columns(self) -> None:
        """Before anything is written: a wrong column name is one error, not a reject for each row."""
        if self._columns_checked or not self._columns:
            return
        needed = {"problem": self._mapping.problem, "answer": self._mapping.answer}
        if self._mapping.id is not None and not self._mapping.id_optional:
            needed["id"] = self._mapping.id
        for field, column in needed.items():
            if column not in self._columns:
                raise SourceError(
                    f"{self._source} has no column {column!r}, it has {', '.join(sorted(self._columns))}: "
                    f"name the right one with --{field}-column"
                )
        self._columns_checked = True

    def _absent_columns(self) -> tuple[str, ...]:
        mapping = self._mapping
        optional = [mapping.images, mapping.options, mapping.solution, mapping.level, mapping.split]
        optional += [mapping.context, mapping.unit, mapping.decimals]
        absent = [column for column in optional if column is not None and column not in self._columns]
        if mapping.images in absent and mapping.images_fallback in self._columns:
            absent.remove(mapping.images)
        return tuple(absent) if self._columns else ()


def _digest(content: object) -> bytes:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:16]


def _known_problems(store: VariantStore, source_name: str) -> dict[str, bytes]:
    """Digest of the content of each problem that the store has of a source, by its id."""
    names = [name for name in Problem.model_fields if name != "ingested_at"]
    known: dict[str, bytes] = {}
    select = f"SELECT {', '.join(names)} FROM problems WHERE source = ?"
    with store.connect(query=select) as connection:
        cursor = connection.execute(select, [source_name])
        while rows := cursor.fetchmany(CHUNK_SIZE):
            known.update((row[0], _digest(dict(zip(names, row, strict=True)))) for row in rows)
    return known


def _known_variants(store: VariantStore, source_name: str) -> set[str]:
    """Ids of the variants that the store has of a source's problems."""
    rows = store.query(
        "SELECT variant_id FROM variants WHERE problem_id IN (SELECT problem_id FROM problems WHERE source = ?)",
        [source_name],
    )
    return {variant_id for (variant_id,) in rows}
