"""`ingest`: rows of a source become problems of the store, or rejects with their reasons.

    report = ingest(VariantStore("store", create=True), "gsm8k.jsonl", PRESETS["gsm8k"])

Every row that is read ends in one of three ways: added, already there, or rejected. So
`added + already_there + rejected` is the number of rows, and reading a source twice adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.grade import grade
from pipeline.images import ImageError, Picture, Place, read_pictures
from pipeline.sources import Part, Row, Unreadable, default_name, open_source
from pipeline.store import VariantStore
from schemas.exceptions import ConfigError, SourceError
from schemas.mapping import AnswerFormat, ColumnMapping
from schemas.records import LICENSE_SETTING, Problem, Reject

CHUNK_SIZE = 5_000
"""Problems (or rejects) that are appended at once: what bounds the memory, and what a crash can cost."""

DEFAULT_SPLIT = "train"
RAW_LIMIT = 2_000
"""Characters of a rejected row that are kept."""

_PROGRESS_ROWS = 50
_ID_DIGITS = 12
# Long: once for a problem, and a machine under load must not cost a good one.
_OWN_ANSWER_DEADLINE_S = 30.0
_PLACEHOLDER = re.compile(r"<image(\d{0,4})>")
_UNDERSCORED = re.compile(r"<image_(\d{1,4})>")
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LETTER = re.compile(r"\(?([A-Z])[.:]?\)?")
_LEVEL_WORD = re.compile(r"[^\W\d]+\s+")


class RowError(ValueError):
    """A row that cannot become a problem; the message is the reason that the reject states."""


@dataclass(frozen=True)
class IngestReport:
    """What became of the rows of a source.

    Attributes:
        added: new problems.
        already_there: rows that the store has with the same content.
        rejected: rows that are not problems; the store's `rejects` say why.
        absent_columns: optional columns of the mapping that no row had.
    """

    added: int
    already_there: int
    rejected: int
    absent_columns: tuple[str, ...] = ()

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
        store: gets the problems, their images, and the rejects.
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
        self._known_rejects: dict[int, bytes] = {}
        self._first_rows: dict[str, tuple[str, int]] = {}
        self._problems: list[Problem] = []
        self._rejects: list[Reject] = []
        self._columns: set[str] = set()
        self._columns_checked = False
        self._added = self._already_there = self._rejected = 0

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
        if max(len(self._problems), len(self._rejects)) >= CHUNK_SIZE:
            self._flush()

    def finish(self) -> IngestReport:
        """Append the rest."""
        self._flush()
        return IngestReport(self._added, self._already_there, self._rejected, self._absent_columns())

    def _admit(self, part: Part, row: Row) -> None:
        split = self._mapping.recorded_split or part.split or self._split or DEFAULT_SPLIT
        problem, pictures = read_problem(row.values, self._mapping, self._name, split, part.place)
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

    def _reject(self, label: str, row: Row | Unreadable, reason: str) -> None:
        self._rejected += 1
        raw = row.raw[:RAW_LIMIT]
        if self._known_rejects.get(row.number) != _digest([reason, raw]):
            self._rejects.append(Reject(source=label, row_number=row.number, reason=reason, raw=raw))

    def _flush(self) -> None:
        self._check_columns()
        self._store.append(self._problems)
        self._store.append(self._rejects)
        self._problems, self._rejects = [], []

    def _check_columns(self) -> None:
        """Before anything is written: a wrong column name is one error, not a reject for each row."""
        if self._columns_checked or not self._columns:
            return
        needed = {"problem": self._mapping.problem, "answer": self._mapping.answer}
        if self._mapping.id is not None:
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
    with store.connect() as connection:
        cursor = connection.execute(
            f"SELECT {', '.join(names)} FROM problems WHERE source = ?", [source_name]
        )
        while rows := cursor.fetchmany(CHUNK_SIZE):
            known.update((row[0], _digest(dict(zip(names, row, strict=True)))) for row in rows)
    return known


# --- one row


def read_problem(
    values: Mapping[str, object], mapping: ColumnMapping, source_name: str, split: str, place: Place
) -> tuple[Problem, list[Picture]]:
    """A row as a problem with its images, which are not in the store yet.

    Raises:
        RowError: the row is not a problem; the message says why.
    """
    text = _question(values, mapping)
    answer = _answer(values, mapping.answer)
    steps = _steps(_cell(values, mapping.solution), mapping.solution)
    if mapping.answer_format == AnswerFormat.GSM8K:
        steps, answer = split_gsm8k(answer)
    options = [
        _plain_placeholders(option) for option in _texts(_cell(values, mapping.options), mapping.options)
    ]
    try:
        pictures = read_pictures(_image_cell(values, mapping), place)
    except ImageError as error:
        raise RowError(str(error)) from error
    if mapping.labelled_figures and len(pictures) == 1:
        text, options = _name_figures(text, options)
    _check_placeholders(" ".join([text, *options]), len(pictures))
    if mapping.id is not None:
        row_id = _required(values, mapping.id, "no id")
    else:
        row_id = content_id(text, answer, options, [picture.record.hash for picture in pictures])
    problem = Problem(
        problem_id=f"{source_name}/{row_id}",
        source=source_name,
        split=_text(_cell(values, mapping.split), mapping.split) or split,
        text=text,
        answer=answer,
        options=options,
        images=[picture.record for picture in pictures],
        solution_steps=steps,
        human_level=_level(_cell(values, mapping.level)),
    )
    return problem, pictures


def check_own_answer(problem: Problem) -> None:
    """See that the grader accepts the reference answer: it could never reward a rollout otherwise.

    Raises:
        RowError: it does not, or the answer is the letter of an option that is not there.
    """
    if problem.options and _is_letter_beyond(problem.answer, problem.options):
        raise RowError(f"the answer {problem.answer!r} is none of the {len(problem.options)} options")
    boxed = f"\\boxed{{{problem.answer}}}"
    graded = grade(boxed, problem.answer, options=problem.options, deadline_s=_OWN_ANSWER_DEADLINE_S)
    if graded.outcome != "correct":
        raise RowError(
            f"the grader does not accept the problem's own answer {problem.answer!r}: {graded.how}"
        )


def _is_letter_beyond(answer: str, options: list[str]) -> bool:
    found = _LETTER.fullmatch(answer)
    return found is not None and ord(found[1]) - ord("A") >= len(options) and answer not in options


def content_id(text: str, answer: str, options: list[str], image_hashes: list[str]) -> str:
    """Id of a problem whose source states none: 12 hex digits of the SHA-256 of its content."""
    content = json.dumps([text, answer, options, image_hashes], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:_ID_DIGITS]


def split_gsm8k(answer: str) -> tuple[list[str], str]:
    """Solution steps and final answer of a GSM8K answer (arXiv 2110.14168).

    Calculator annotations go, and so do the answer's thousands separators:

    >>> split_gsm8k("48 / 2 = <<48/2=24>>24 clips\\nshe sold 24 thousand\\n#### 24,000")
    (['48 / 2 = 24 clips', 'she sold 24 thousand'], '24000')

    Raises:
        RowError: there is no `####`, or nothing behind it.
    """
    solution, marker, final = answer.rpartition("####")
    if not marker:
        raise RowError("no answer: the solution has no '####'")
    final = _THOUSANDS.sub("", final.strip())
    if not final:
        raise RowError("no answer: nothing stands behind '####'")
    return _lines(_CALCULATION.sub("", solution)), final


def _name_figures(text: str, options: list[str]) -> tuple[str, list[str]]:
    """Put the one picture first, where a question refers to several figures that it shows.

    In the picture each figure bears its label (<image2>), so the references stay as names: [image2].
    """
    if len(_PLACEHOLDER.findall(" ".join([text, *options]))) <= 1:
        return text, options
    text, *options = (_PLACEHOLDER.sub(r"[image\1]", part) for part in [text, *options])
    return f"<image>\n{text}", options


def _check_placeholders(text: str, images: int) -> None:
    numbers = _PLACEHOLDER.findall(text)
    # A figure may be mentioned again by its number, but <image> stands for a new one each time.
    wanted = numbers.count("") + len(set(numbers) - {""})
    if wanted > images:
        raise RowError(f"{wanted} <image> placeholders, but {images or 'no'} images")
    for number in numbers:
        if number and not 1 <= int(number) <= images:
            raise RowError(f"<image{number}> is none of the problem's images, which are counted from 1")


# --- one cell


def _cell(values: Mapping[str, object], column: str | None) -> object:
    return None if column is None else values.get(column)


def _image_cell(values: Mapping[str, object], mapping: ColumnMapping) -> object:
    if mapping.images not in values and mapping.images_fallback is not None:
        first = values.get(mapping.images_fallback)
    else:
        first = _cell(values, mapping.images)
    more = [cell for cell in map(values.get, mapping.more_images) if cell not in (None, "")]
    if not more:
        return first
    return [*(first if isinstance(first, list) else [first]), *more] if first not in (None, "") else more


def _question(values: Mapping[str, object], mapping: ColumnMapping) -> str:
    """The question, with what stands before it and with the form that its answer is asked in."""
    text = _required(values, mapping.problem, "empty problem")
    context, unit, decimals = (
        _text(_cell(values, column), column) for column in (mapping.context, mapping.unit, mapping.decimals)
    )
    if context:
        text = f"{context}\n{text}"
    if unit:
        text += f" (Unit: {unit})"
    if decimals not in ("", "0"):
        text += f"\nGive the answer with {decimals} decimal place{'' if decimals == '1' else 's'}."
    return _plain_placeholders(text)


def _plain_placeholders(text: str) -> str:
    """<image_1> as <image1>, the form of the store."""
    return _UNDERSCORED.sub(r"<image\1>", text)


def _answer(values: Mapping[str, object], column: str) -> str:
    """The reference answer; several in a list are joined by commas."""
    cell = values.get(column)
    if isinstance(cell, list) and cell:
        return _required({column: ", ".join(_texts(cell, column))}, column, "no answer")
    return _required(values, column, "no answer")


def _required(values: Mapping[str, object], column: str, complaint: str) -> str:
    if column not in values:
        raise RowError(f"{complaint}: the row has no column {column!r}")
    text = _text(values[column], column)
    if not text:
        raise RowError(f"{complaint}: the column {column!r} is empty")
    return text


def _text(value: Any, column: str | None) -> str:
    """A cell as text; empty for what tables write where there is nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # an integer column with gaps is one of floats
    if isinstance(value, list | dict | bytes):
        raise RowError(f"the column {column!r} holds a {type(value).__name__}, not text")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"the column {column!r} holds half of a surrogate pair, which is not text") from None
    return text


def _texts(value: object, column: str | None) -> list[str]:
    """A list of texts; in a text cell as a JSON array (CSV), or as `A. one; B. two`."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            value = split_options(str(value)) or value
    if isinstance(value, list):
        return [_text(item, column) for item in value]
    if not _text(value, column):
        return []
    raise RowError(f"the column {column!r} is not a list (in text: a JSON array, or A. one; B. two)")


def split_options(text: str) -> list[str]:
    """Choices that stand in one text, each behind its letter; empty where the text is none of that kind.

    >>> split_options("A. 300, 400;B. 400, 300; C. No correct answer")
    ['300, 400', '400, 300', 'No correct answer']
    """
    options: list[str] = []
    rest = text.strip()
    for letter in "ABCDEFGHIJ":
        found = re.search(rf"(?:^|[;\s]){letter}[.:]", rest)
        if found is None:
            break
        options.append(rest[: found.start()])
        rest = rest[found.end() :]
    before, *options = [*options, rest]
    options = [option.strip("; \t\n") for option in options]
    return options if len(options) > 1 and not before and all(options) else []


def _steps(value: object, column: str | None) -> list[str]:
    """Steps of a worked solution: the items of a list, or the lines of a text."""
    if isinstance(value, list):
        return [step for step in (_text(item, column) for item in value) if step]
    return _lines(_text(value, column))


def _lines(text: str) -> list[str]:
    return [line for line in (line.strip() for line in text.splitlines()) if line]


def _level(value: object) -> float | None:
    """The number of a level, which may follow a word ("Level 5")."""
    text = _text(value, "level")
    if not text:
        return None
    try:
        level = float(_LEVEL_WORD.sub("", text, count=1))
    except ValueError:
        raise RowError(f"the level {text!r} is not a number") from None
    if not math.isfinite(level):
        raise RowError(f"the level {text!r} is not a number")
    return level
