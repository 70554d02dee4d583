"""Read files as numbered rows, in bounded memory (except JSON, which is read as a whole).

The formats are JSON Lines, JSON, CSV, TSV, Parquet and Arrow. Text formats may be compressed (.gz, .bz2, .xz, .zst).
Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. A row that cannot be read is returned as `Unreadable`, so
that no row is lost silently.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diva_grpo.pipeline.ingest.shapes import Table, tables_of
from diva_grpo.pipeline.ingest.types import written_rows
from diva_grpo.schemas.exceptions import SourceError

# Rows per batch. A few hundred embedded images take tens of megabytes.
_BATCH_ROWS = 256
# Largest cell. An image in base64 may have megabytes, but after an unclosed quote the rest of a CSV file must not be
# read as one cell.
_CELL_CHARS = 2**24
# Largest batch of a Parquet table in bytes, if each of its rows had the largest value of the column.
_BATCH_BYTES = 2**28
_SEPARATORS = (",", ";", "\t", "|")
# Errors that the readers raise for a damaged file.
DAMAGED = (OSError, ValueError, EOFError, lzma.LZMAError, pa.ArrowException)


@dataclass(frozen=True)
class Row:
    """A row that could be read.

    Attributes:
        number: from 1: for JSON Lines and CSV the line where the row begins, for other formats the row.
        values: the cells by column.
        line: the text of the row in the file; None if the format is not text.
        split: the split of the row if its JSON file has one table per split, else None.
    """

    number: int
    values: Mapping[str, object]
    line: str | None = None
    split: str | None = None

    @property
    def raw(self) -> str:
        """The row as text: its line in the file, or its values as JSON."""
        if self.line is not None:
            return self.line
        return json.dumps(self.values, ensure_ascii=False, default=_summary)


@dataclass(frozen=True)
class Unreadable:
    """A row that could not be read.

    Attributes:
        number: see `Row`.
        reason: why it could not be read.
        raw: its text. Bytes that are not UTF-8 are escaped.
        split: see `Row`.
    """

    number: int
    reason: str
    raw: str
    split: str | None = None


Rows = Iterator[Row | Unreadable]


def _summary(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


def format_of(path: Path) -> str | None:
    """Return the format of a file, by its name: `.jsonl` for `a.jsonl.gz`. None if the format is unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _UNPACKED:
        return suffixes[0] if len(suffixes) == 2 and suffixes[0] in _TEXT else None
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


def stem_of(path: Path) -> str:
    """Return the name of a file without the endings for format and compression."""
    return path.name[: -len("".join(path.suffixes[-1 - (path.suffix.lower() in _UNPACKED) :]))]


# --- text


def _open(path: Path) -> BinaryIO:
    unpacked = _UNPACKED.get(path.suffix.lower())
    return unpacked(path) if unpacked else path.open("rb")


def _open_zst(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(cast(Any, pa.input_stream(str(path), compression="zstd"))))


class _Lines:
    """The lines of a text file as UTF-8 bytes. A file in another encoding (by its byte order mark) is converted."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        with _open(path) as start:
            encoding = json.detect_encoding(start.read(4).ljust(4, b" "))
        self._other = (
            io.TextIOWrapper(self._file, encoding, newline="\n") if "utf-8" not in encoding else None
        )
        if encoding == "utf-8-sig":
            self._file.read(3)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        (self._other or self._file).close()

    def __iter__(self) -> Iterator[bytes]:
        return (line.encode() for line in self._other) if self._other else iter(self._file)

    def read(self) -> bytes:
        """Return the rest of the text as UTF-8 bytes."""
        return self._other.read().encode() if self._other else self._file.read()


def _escaped(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace").rstrip("\r\n")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1} of the row"


class _Twice(dict[str, object]):
    """A JSON object that contains a key twice, itself or in a value. Either value of the key could be the right one.

    Attributes:
        key: the key, after those of the objects around it ("a.b").
    """

    key: str


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next((key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number])), None)
    else:
        twice = next((f"{key}.{inner}" for key, value in pairs if (inner := _twice_in(value))), None)
    if twice is None:
        return made
    found = _Twice(made)
    found.key = twice
    return found


def _twice_in(value: object) -> str | None:
    """Return the key that an object in a value contains twice; None if there is none."""
    if isinstance(value, _Twice):
        return value.key
    if isinstance(value, list):
        return next((key for item in value if (key := _twice_in(item))), None)
    return None


def _object(number: int, value: object, line: str) -> Row | Unreadable:
    if isinstance(value, _Twice):
        return Unreadable(number, f"it has the key {value.key!r} twice", line)
    if isinstance(value, dict):
        return Row(number, value, line)
    return Unreadable(number, "not a JSON object", line)


def _jsonl_rows(path: Path) -> Rows:
    with _Lines(path) as lines:
        for number, content in enumerate(lines, start=1):
            if not content.strip():
                continue
            try:
                line = content.decode().rstrip("\r\n")
                yield _object(number, _DECODER.decode(line), line)
            except UnicodeDecodeError as error:
                yield Unreadable(number, _not_utf8(error), _escaped(content))
            except (ValueError, RecursionError) as error:
                yield Unreadable(number, f"invalid JSON: {error}", _escaped(content))


def _json_rows(path: Path) -> Rows:
    """Read a JSON file: an array of objects, objects one after the other, or one object that contains tables.

    The whole text is kept in memory (use JSON Lines or Parquet for large files). The objects of an array are parsed one
    at a time. After a syntax error the following objects cannot be found, so it is an error of the whole file.
    """
    with _Lines(path) as lines:
        # Bytes that are not UTF-8 become surrogates, so that only the row with them is unreadable.
        text = lines.read().decode("utf-8", "surrogateescape")
    start = _skip_space(text, 0)
    in_array = text.startswith("[", start)
    if not in_array:
        value, end = _value(path, text, start, 1) if start < len(text) else (None, start)
        tables = tables_of(value) if _skip_space(text, end) == len(text) else None
        if tables is not None:
            del text
            yield from _rows_of(tables)
            return
    yield from _objects(path, text, start, in_array)


def _rows_of(tables: list[Table]) -> Rows:
    for table in tables:
        for number, values in enumerate(table.rows, start=1):
            line = json.dumps(values, ensure_ascii=False)
            found = _checked_object(number, values, line)
            if table.split:
                found = type(found)(**{**vars(found), "split": table.split})
            yield found


def _objects(path: Path, text: str, start: int, in_array: bool) -> Rows:
    position = _skip_space(text, start + in_array)
    number = 0
    while position < len(text) and not text.startswith("]", position):
        number += 1
        value, end = _value(path, text, position, number)
        yield _checked_object(number, value, text[position:end])
        position = _skip_space(text, end)
        if in_array and text.startswith(",", position):
            position = _skip_space(text, position + 1)
        elif in_array and not text.startswith("]", position):
            raise SourceError(f"{path} is not valid JSON after row {number}: a comma or ] is missing")
    if text[position:].strip() != ("]" if in_array else ""):
        raise SourceError(f"{path} is not one JSON array: it ends early, or something follows it")


def _value(path: Path, text: str, position: int, number: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not valid JSON in row {number}: {error}: correct it") from error


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _checked_object(number: int, value: object, line: str) -> Row | Unreadable:
    content = line.encode("utf-8", "surrogateescape")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return Unreadable(number, _not_utf8(error), _escaped(content))
    return _object(number, value, line)


class _CsvLines:
    """The decoded lines of a CSV file. The lines of the current record are kept, to read them again after an error.

    Attributes:
        record: number and bytes of each line of the current record.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._numbered = enumerate(lines, start=1)
        self._again: deque[tuple[int, bytes]] = deque()
        self.record: list[tuple[int, bytes]] = []

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        item = self._again.popleft() if self._again else next(self._numbered)
        self.record.append(item)
        return item[1].decode("utf-8", "surrogateescape")

    def keep_first(self) -> None:
        """Put all lines of the record except the first back into the input, so that one wrong quote spoils one row."""
        self._again.extendleft(reversed(self.record[1:]))
        del self.record[1:]

    def separator(self) -> str:
        """Return the separator of the file, guessed from its first non-blank line. The line stays in the input."""
        first = next((line for line in self if line.strip()), "")
        self._again.extendleft(reversed(self.record))
        self.record.clear()
        return max(_SEPARATORS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))


def _csv_records(lines: _CsvLines, separator: str) -> Iterator[tuple[list[str] | None, str | None]]:
    """Yield (cells, None) for each record, or (None, error message).

    Until the next record is read, `lines.record` contains its lines.
    """
    csv.field_size_limit(_CELL_CHARS)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    while True:
        lines.record.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            lines.keep_first()
            yield None, f"invalid CSV: {error}"
            continue
        if cells is None:
            return
        yield cells, None


def _csv_rows(path: Path, separator: str | None = None) -> Rows:
    with _Lines(path) as content_lines:
        lines = _CsvLines(content_lines)
        header: list[str] | None = None
        for cells, problem in _csv_records(lines, separator or lines.separator()):
            content = b"".join(line for _, line in lines.record)
            if not content.strip():
                continue
            number, line = lines.record[0][0], _escaped(content)
            try:
                content.decode()
            except UnicodeDecodeError as error:
                problem = _not_utf8(error)
            if header is None:
                header = _header(path, cells, problem)
            elif cells is None or problem is not None:
                yield Unreadable(number, problem or "invalid CSV", line)
            elif len(cells) != len(header):
                yield Unreadable(number, f"{len(cells)} cells where the header has {len(header)}", line)
            else:
                yield Row(number, dict(zip(header, cells, strict=True)), line)


def _tsv_rows(path: Path) -> Rows:
    return _csv_rows(path, "\t")


def _header(path: Path, cells: list[str] | None, problem: str | None) -> list[str]:
    if cells is None or problem:
        raise SourceError(f"the header of {path} could not be read: {problem}")
    if len(set(cells)) != len(cells):
        raise SourceError(f"the header of {path} has a column twice: {', '.join(cells)}")
    return cells


# --- tables


def _parquet_rows(path: Path) -> Rows:
    with pq.ParquetFile(path) as file:
        yield from _table_rows(_parquet_batches(file))


def _parquet_batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        columns = [about.column(i) for i in range(about.num_columns)]
        # A few compressed kilobytes can contain a value of gigabytes, or one value that every row refers to.
        largest = max((column.total_uncompressed_size for column in columns), default=0)
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, largest)))
        yield from file.iter_batches(rows, row_groups=[group])


def _too_large(batch: Any) -> list[str | None]:
    """Return a message for each row that has a too large cell, and None for the other rows."""
    said: list[str | None] = [None] * batch.num_rows
    for name in batch.schema.names:
        for row, size in enumerate(_text_sizes(batch.column(name))):
            if size > _CELL_CHARS:
                said[row] = f"a cell of {size >> 20} MiB in {name}: at most {_CELL_CHARS >> 20}"
    return said


def _text_sizes(column: Any) -> Iterable[int]:
    """Return the bytes of text in each cell of a column; empty if no cell can be too large.

    Columns with binary values are skipped, because images have their own limit.
    """
    kind = column.type
    texts = column.dictionary if pa.types.is_dictionary(kind) else column
    if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
        sizes = pc.binary_length(texts).fill_null(0)
        if (pc.max(sizes).as_py() or 0) <= _CELL_CHARS:
            return ()
        # In a dictionary column, every row may refer to the same large text.
        by_row = sizes.take(column.indices) if pa.types.is_dictionary(kind) else sizes
        return cast(list[int], by_row.fill_null(0).to_pylist())
    if pa.types.is_nested(kind) and column.nbytes > _CELL_CHARS and "binary" not in str(kind):
        return [column.slice(row, 1).nbytes for row in range(len(column))]
    return ()


def _arrow_rows(path: Path) -> Rows:
    """Read a file in Arrow's file format (Feather) or in its stream format, which `datasets` writes."""
    with pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            batches: Iterable[Any] = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            source.seek(0)
            batches = pa.ipc.open_stream(source)
        yield from _table_rows(_sliced(batches))


def _sliced(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(start, _BATCH_ROWS)


def dataset_rows(data: Any) -> Rows:
    """Read the rows of a `datasets` data set. Images are not decoded."""
    batches = data.with_format("arrow").iter(batch_size=_BATCH_ROWS)
    return _table_rows(batches, data.features)


def _table_rows(batches: Iterable[Any], features: Any = None) -> Rows:
    number = 0
    for batch in batches:
        large = _too_large(batch)
        if any(large):
            for index, reason in enumerate(large):
                number += 1
                alone = batch.slice(index, 1)
                yield Unreadable(number, reason, "") if reason else _row_alone(number, alone, features)
            continue
        try:
            rows = written_rows(batch, features)
        except UnicodeDecodeError:
            rows = [None] * batch.num_rows
        for index, values in enumerate(rows):
            number += 1
            if values is not None:
                yield Row(number, values)
            else:
                yield _row_alone(number, batch.slice(index, 1), features)


def _row_alone(number: int, batch: Any, features: Any) -> Row | Unreadable:
    try:
        return Row(number, cast(dict[str, object], written_rows(batch, features)[0]))
    except UnicodeDecodeError as error:
        reason = _not_utf8(error).replace("the row", "the cell")
        return Unreadable(number, reason, _escaped(error.object))


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_UNPACKED: Mapping[str, Callable[[Path], BinaryIO]] = {
    ".gz": cast(Callable[[Path], BinaryIO], gzip.open),
    ".bz2": cast(Callable[[Path], BinaryIO], bz2.open),
    ".xz": cast(Callable[[Path], BinaryIO], lzma.open),
    ".zst": _open_zst,
}
_TEXT: Mapping[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
}
READERS: Mapping[str, Callable[[Path], Rows]] = {
    **_TEXT,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
"""The reader for each ending of a file name."""

FORMATS = f"{', '.join(READERS)} (text also with the further ending {', '.join(_UNPACKED)})"
"""The list of formats for messages."""
