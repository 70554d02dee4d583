"""`ingest`: turn each row of a source into a problem in the store, or into a reject with a reason.

    report = ingest(VariantStore("store", create=True), "gsm8k.jsonl", PRESETS["gsm8k"])

Each row is counted as added, already there, or rejected, so the sum of these counts is the number of rows. Ingesting a
source again adds nothing. Variants in the source are stored as candidates.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from diva_grpo.pipeline.images.sources import is_image
from diva_grpo.pipeline.ingest.answers import check_own_answer
from diva_grpo.pipeline.ingest.augmented import read_variants
from diva_grpo.pipeline.ingest.cells import RowError, has
from diva_grpo.pipeline.ingest.opening import open_with_layout
from diva_grpo.pipeline.ingest.readers import Row, Unreadable
from diva_grpo.pipeline.ingest.rows import read_problem
from diva_grpo.pipeline.ingest.sources import Part, default_name
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import SourceError
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.records import LICENSE_SETTING, Problem, Reject, Variant

CHUNK_SIZE = 5_000
"""Number of problems (or rejects, or variants) that are appended together. It limits the memory and what a crash can
lose."""

DEFAULT_SPLIT = "train"
RAW_LIMIT = 2_000
"""Number of characters of a rejected row that are stored."""

_PROGRESS_ROWS = 50
# Parts of a reason that depend on the row. They are removed before reasons are counted.
_OWN_PART = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|\d+")


@dataclass(frozen=True)
class IngestReport:
    """Counts of the rows of a source by result.

    Attributes:
        added: number of new problems.
        already_there: number of rows that the store already has with the same content.
        rejected: number of rows that are not problems. The table `rejects` contains the reasons.
        absent_columns: optional columns of the mapping that no row had.
        variants: number of new variants from the source.
        unread_images: columns that contain images but are not in the mapping.
        commonest: an example of the most common kind of reason; None if no row was rejected.
    """

    added: int
    already_there: int
    rejected: int
    absent_columns: tuple[str, ...] = ()
    variants: int = 0
    unread_images: tuple[str, ...] = ()
    commonest: str | None = field(default=None, compare=False)

    @property
    def rows(self) -> int:
        """Number of rows read."""
        return self.added + self.already_there + self.rejected


def ingest(
    store: VariantStore,
    source: str,
    mapping: ColumnMapping | None = None,
    *,
    changes: Mapping[str, object] | None = None,
    source_name: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> IngestReport:
    """Read a source into the store, in bounded memory.

    Args:
        store: receives the problems, their images and variants, and the rejects.
        source: a file of a format in `readers.READERS`, a folder of such files, a folder written by `save_to_disk`, a
            data set `owner/name` of the Hugging Face hub, or the name of the mapping's preset.
        mapping: the columns; None recognises them from the first rows.
        changes: fields that replace fields of the mapping, whether it was given or recognised.
        source_name: first part of the ids, "<source_name>/<id>". By default the preset's name; without a preset the
            file's stem or the last part of the hub name.
        split: the split to read if the source has several, and the split to record for all rows. By default all
            splits are read, and the split of a row is taken from its column, its file or its folder, else `train`.
        limit: largest number of rows to read; None reads all.
        progress: called with the number of rows that were read since the previous call.
        announce: called once, before the rows are read, with one line about their layout.

    Returns:
        Counts of the rows.

    Raises:
        SourceError: the source cannot be read, or has no column for the problem or the answer.
        ConfigError: the source's name is empty or contains a slash.

    Example:
        >>> mapping = ColumnMapping(problem="question", answer="answer", answer_format="gsm8k")
        >>> ingest(store, "data/word_problems.jsonl", mapping, limit=6).added
        6
    """
    opened = open_with_layout(
        source, mapping, changes, source_name=source_name, split=split, streaming=limit is not None
    )
    name, parts, mapping = opened.name, opened.parts, opened.layout.mapping
    if announce:
        announce(opened.layout.line())
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


def same_name(store: VariantStore, source: str, name: str) -> str | None:
    """Return another source that was ingested with the same name, or None. It reads the runs of `diva ingest`.

    Args:
        store: the store.
        source: the path or hub name of the present source. A path with the same last part is the same source.
        name: its source name.
    """
    rows = store.query(
        "SELECT DISTINCT config->>'source' FROM runs WHERE kind = 'ingest' AND config->>'source_name' = ? "
        "AND EXISTS (FROM problems WHERE source = ?)",
        [name, name],
    )
    others = sorted(other for (other,) in rows if other and PurePath(other).name != PurePath(source).name)
    return others[0] if others else None


def run_config(
    source: str, mapping: ColumnMapping | None, changes: Mapping[str, object], name: str | None
) -> str:
    """Return the settings of one call of `ingest` as JSON, for the table `runs`.

    Args:
        source: as for `ingest`.
        mapping: as for `ingest`.
        changes: as for `ingest`.
        name: the source name; None for the default.
    """
    given = (mapping or ColumnMapping()).model_copy(update=changes)
    named = name if name is not None else default_name(source, given)
    return json.dumps({"source": source, "source_name": named, **json.loads(given.model_dump_json())})


def split_of(row: Row, part: Part, split: str | None, mapping: ColumnMapping) -> str:
    """Return the split of a row that has no column for it.

    Args:
        row: the row.
        part: the file or split that contains it.
        split: the split that the user gave, if any.
        mapping: may name the split to record.
    """
    return mapping.recorded_split or split or row.split or part.split or DEFAULT_SPLIT


def unread_images(values: Mapping[str, object], read: frozenset[str]) -> set[str]:
    """Return the columns of a row that contain images and are not in `read`."""
    return {column for column, cell in values.items() if column not in read and is_image(cell)}


def read_columns(mapping: ColumnMapping) -> frozenset[str]:
    """Return the columns of a mapping. For a dotted name, its top-level column is included too."""
    cells = mapping.model_dump(
        exclude={"name", "license", "hub", "hub_config", "hub_split", "recorded_split"}
    )
    named = [name for cell in cells.values() for name in (cell if isinstance(cell, tuple) else (cell,))]
    texts = [name for name in named if isinstance(name, str)]
    return frozenset(texts) | {name.partition(".")[0] for name in texts}


class _Intake:
    """The state of one call of `ingest` between rows."""

    def __init__(
        self, store: VariantStore, source: str, name: str, mapping: ColumnMapping, split: str | None
    ) -> None:
        self._store = store
        self._source = source
        self._name = name
        # If the user gives a split, it applies to all rows that are read, and the split column is ignored.
        self._mapping = mapping.model_copy(update={"split": None}) if split is not None else mapping
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
        self._sought = [column for column in _columns_of(mapping) if column is not None]
        self._read = read_columns(mapping)
        self._unread: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._reason_counts: Counter[str] = Counter()
        self._added = self._already_there = self._rejected = self._new_variants = 0

    def begin(self, part: Part) -> None:
        """Load the rejects of this part from earlier runs, so that they are not stored again."""
        rows = self._store.query("SELECT row_number, reason, raw FROM rejects WHERE source = ?", [part.label])
        self._known_rejects = {number: _digest([reason, raw]) for number, reason, raw in rows}

    def take(self, part: Part, row: Row | Unreadable) -> None:
        """Turn a row into a problem or a reject. Batches that are full are appended to the store."""
        try:
            if isinstance(row, Unreadable):
                raise RowError(row.reason)
            self._columns.update(row.values)
            self._sought = [column for column in self._sought if not has(row.values, column)]
            self._unread |= unread_images(row.values, self._read)
            self._admit(part, row)
        except RowError as error:
            self._reject(part.label, row, str(error))
        if max(len(self._problems), len(self._rejects), len(self._variants)) >= CHUNK_SIZE:
            self._flush()

    def finish(self) -> IngestReport:
        """Append the remaining batches and return the counts."""
        self._flush()
        common = self._reason_counts.most_common(1)
        return IngestReport(
            self._added,
            self._already_there,
            self._rejected,
            self._absent_columns(),
            self._new_variants,
            tuple(sorted(self._unread)),
            self._reasons[common[0][0]] if common else None,
        )

    def _admit(self, part: Part, row: Row) -> None:
        split = split_of(row, part, self._split, self._mapping)
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
            raise RowError(
                "id already in the store with another content: if this is another source, give it a name "
                "with --source-name"
            )
        # Images of a known problem are stored too, so that ingesting the source again restores a lost image.
        for picture in pictures:
            self._store.put_image(picture.content, picture.image_format)
        self._first_rows[problem_id] = (part.label, row.number)
        if known is None:
            self._problems.append(problem)
            self._added += 1
        else:
            self._already_there += 1
        # Variants of a known problem are stored too: they may be new, or were lost when a run was interrupted.
        self._known_variants.update(variant.variant_id for variant in variants)
        self._variants += variants
        self._new_variants += len(variants)

    def _read_variants(self, row: Row, problem: Problem) -> list[Variant]:
        """Return the variants of the row that are not yet in the store."""
        model = self._mapping.generator_model or self._name
        variants = read_variants(row.values, self._mapping, problem, model)
        return [variant for variant in variants if variant.variant_id not in self._known_variants]

    def _reject(self, label: str, row: Row | Unreadable, reason: str) -> None:
        self._rejected += 1
        kind = _OWN_PART.sub("", reason)
        self._reasons.setdefault(kind, reason)
        self._reason_counts[kind] += 1
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
        """Check the column names before the first write, so that a wrong name is one error and not one per row."""
        if self._columns_checked or not self._columns:
            return
        needed = {"problem": self._mapping.problem, "answer": self._mapping.answer}
        if self._mapping.id is not None and not self._mapping.id_optional:
            needed["id"] = self._mapping.id
        for role, column in needed.items():
            if column in self._sought:
                raise SourceError(
                    f"{self._source} has no column {column!r}, it has {', '.join(sorted(self._columns))}: "
                    f"name the right one with --{role}-column"
                )
        self._columns_checked = True

    def _absent_columns(self) -> tuple[str, ...]:
        mapping = self._mapping
        absent = [column for column in _optional(mapping) if column in self._sought]
        if mapping.images in absent and mapping.images_fallback in self._columns:
            absent.remove(mapping.images)
        return tuple(absent) if self._columns else ()


def _optional(mapping: ColumnMapping) -> list[str | None]:
    optional = [mapping.images, mapping.options, mapping.solution, mapping.level, mapping.split]
    return [*optional, mapping.context, mapping.unit, mapping.decimals]


def _columns_of(mapping: ColumnMapping) -> list[str | None]:
    return list(dict.fromkeys([mapping.id, mapping.problem, mapping.answer, *_optional(mapping)]))


def _digest(content: object) -> bytes:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:16]


def _known_problems(store: VariantStore, source_name: str) -> dict[str, bytes]:
    """Return a hash of the content of each stored problem of a source, by problem id."""
    names = [name for name in Problem.model_fields if name != "ingested_at"]
    known: dict[str, bytes] = {}
    select = f"SELECT {', '.join(names)} FROM problems WHERE source = ?"
    with store.connect(query=select) as connection, store.naming_damage(select):
        cursor = connection.execute(select, [source_name])
        while rows := cursor.fetchmany(CHUNK_SIZE):
            known.update((row[0], _digest(dict(zip(names, row, strict=True)))) for row in rows)
    return known


def _known_variants(store: VariantStore, source_name: str) -> set[str]:
    """Return the ids of the stored variants of a source's problems."""
    rows = store.query(
        "SELECT variant_id FROM variants WHERE problem_id IN (SELECT problem_id FROM problems WHERE source = ?)",
        [source_name],
    )
    return {variant_id for (variant_id,) in rows}
