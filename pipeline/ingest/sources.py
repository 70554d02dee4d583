"""Reading a source of problems row by row, in bounded memory.

A source is a file (JSON Lines, JSON, CSV, Parquet), a folder of such files, a folder written by
`datasets.save_to_disk`, or a data set of the Hugging Face hub. Whatever it is, it becomes parts, and a part
becomes numbered rows. A row that cannot be read is a value too (`Unreadable`), so that none vanishes.
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from diva_grpo.pipeline.images.sources import Place
from diva_grpo.schemas.exceptions import SourceError
from diva_grpo.schemas.mapping import ColumnMapping

_BOM = b"\xef\xbb\xbf"
# Rows a batch: some hundred embedded images are tens of megabytes.
_BATCH_ROWS = 256
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SPLIT_IN_NAME = re.compile(r"(train|testmini|test|validation|valid|val|dev)(?![a-z])")


@dataclass(frozen=True)
class Row:
    """A row that could be read.

    Attributes:
        number: line of the file where the row begins, or row of the table, from 1.
        values: the cells by column.
        line: the row as it stands in the file; None where the format is not text.
    """

    number: int
    values: Mapping[str, object]
    line: str | None = None

    @property
    def raw(self) -> str:
        """The row as text."""
        if self.line is not None:
            return self.line
        return json.dumps(self.values, ensure_ascii=False, default=_summary)


@dataclass(frozen=True)
class Unreadable:
    """A row that could not be read, with the reason; what of it is not UTF-8 is escaped in `raw`."""

    number: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Part:
    """One file or one split of a source.

    Attributes:
        label: the source as the user gave it; for one of several files or splits, with its name behind.
        split: the split that its name or the user states, if any.
        rows: read lazily; raises SourceError where the file itself is damaged.
        place: where paths of images lead.
    """

    label: str
    split: str | None
    rows: Iterator[Row | Unreadable]
    place: Place


def default_name(source: str, mapping: ColumnMapping) -> str:
    """Name of a source where the user gives none: the preset's, else the file's stem or the last part."""
    path = Path(source)
    return mapping.name or (path.stem if path.suffix.lower() in _READERS else path.resolve().name)


def open_source(
    source: str, mapping: ColumnMapping, *, split: str | None = None, streaming: bool = False
) -> list[Part]:
    """The parts of a source. What exists on disk is local; the rest is looked for on the hub.

    Args:
        source: a file, a folder, the hub name `owner/name`, or the name of the mapping's preset.
        mapping: for the hub's name, configuration and split that a preset knows.
        split: the split to read where the source has several; None reads all of them (of a preset's hub data
            set: the preset's).
        streaming: read from the hub as needed, instead of downloading the whole data set first.

    Raises:
        SourceError: there is no such source or split, or its format is not known.
    """
    path = Path(source)
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return _saved_parts(source, path, split)
        return _folder_parts(source, path, split)
    if path.exists():
        if path.suffix.lower() not in _READERS:
            raise SourceError(f"cannot tell the format of {source}: name it {_or_list(_READERS)}")
        return [_file_part(source, path, split or _split_in_name(path), path.parent)]
    if source == mapping.name and mapping.hub:
        return _hub_parts(source, mapping.hub, mapping.hub_config, split or mapping.hub_split, streaming)
    if path.suffix.lower() in _READERS or not _HUB_NAME.fullmatch(source):
        raise SourceError(
            f"no file or folder {source}: check the path (a data set of the Hugging Face hub is owner/name)"
        )
    if source == mapping.hub:
        return _hub_parts(source, source, mapping.hub_config, split or mapping.hub_split, streaming)
    return _hub_parts(source, source, None, split, streaming)


def _or_list(names: Iterable[str]) -> str:
    *most, last = names
    return ", ".join(most) + f" or {last}"


# --- parts


def _split_in_name(path: Path) -> str | None:
    """`train` of `train-00000-of-00002.parquet`: what else would mix a test set into the training data."""
    found = _SPLIT_IN_NAME.match(path.stem.lower())
    return found.group(1) if found else None


def _file_part(label: str, path: Path, split: str | None, root: Path) -> Part:
    rows = _guarded(label, _READERS[path.suffix.lower()](path))
    return Part(label, split, rows, Place(path.parent, root))


def _folder_parts(source: str, folder: Path, split: str | None) -> list[Part]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in _READERS and f.is_file())
    files = [f for f in files if not any(name.startswith(".") for name in f.relative_to(folder).parts)]
    if not files:
        raise SourceError(f"the folder {source} holds no {_or_list(_READERS)} file")
    wanted = [(f, _split_in_name(f) or split) for f in files]
    parts = [
        _file_part(f"{source.rstrip('/')}/{f.relative_to(folder).as_posix()}", f, file_split, folder)
        for f, file_split in wanted
        if split is None or file_split == split
    ]
    if not parts:
        found = sorted({str(file_split) for _, file_split in wanted})
        raise SourceError(f"the folder {source} has no split {split}: it has {', '.join(found)}")
    return parts


def _saved_parts(source: str, folder: Path, split: str | None) -> list[Part]:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise SourceError(f"the saved data set {source} is damaged: {_first_line(error)}") from error
    return _dataset_parts(source, data, split, folder)


def _hub_parts(source: str, name: str, config: str | None, split: str | None, streaming: bool) -> list[Part]:
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split, streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(
            f"{source} is neither a file or folder here, nor could it be read from the Hugging Face hub: "
            f"{_first_line(error)}"
        ) from error
    return _dataset_parts(source, data, split, Path(datasets.config.HF_CACHE_HOME))


def _dataset_parts(source: str, data: Any, split: str | None, folder: Path) -> list[Part]:
    place = Place(folder, folder)
    if not isinstance(data, dict):
        name = split or (str(data.split) if data.split else None)
        return [Part(source, name, _guarded(source, _dataset_rows(data)), place)]
    if split is not None and split not in data:
        raise SourceError(f"{source} has no split {split}: it has {', '.join(data)}")
    labels = {name: f"{source.rstrip('/')}/{name}" for name in data if split in (None, name)}
    return [
        Part(label, name, _guarded(label, _dataset_rows(data[name])), place) for name, label in labels.items()
    ]


def _guarded(label: str, rows: Iterator[Row | Unreadable]) -> Iterator[Row | Unreadable]:
    """The rows, with what goes wrong in the file itself as one line."""
    try:
        yield from rows
    except SourceError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"{label} could not be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# --- text


def _open_utf8(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.read(len(_BOM)) != _BOM:
        file.seek(0)
    return file


def _escaped(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace").rstrip("\r\n")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1} of the row"


def _object(number: int, value: object, line: str) -> Row | Unreadable:
    if isinstance(value, dict):
        return Row(number, value, line)
    return Unreadable(number, "not a JSON object", line)


def _jsonl_rows(path: Path) -> Iterator[Row | Unreadable]:
    with _open_utf8(path) as file:
        for number, content in enumerate(file, start=1):
            if not content.strip():
                continue
            try:
                line = content.decode().rstrip("\r\n")
                yield _object(number, json.loads(line), line)
            except UnicodeDecodeError as error:
                yield Unreadable(number, _not_utf8(error), _escaped(content))
            except (ValueError, RecursionError) as error:
                yield Unreadable(number, f"invalid JSON: {error}", _escaped(content))


def _json_rows(path: Path) -> Iterator[Row | Unreadable]:
    """The objects of an array, or those that stand one after the other without one.

    The text is held whole (JSON Lines and Parquet are the formats for what memory cannot hold), its objects
    are parsed one at a time. Behind a syntax error no further object can be found, so that is the file's.
    """
    with _open_utf8(path) as file:
        # Bytes that are not UTF-8 become surrogates, which concern no more than the row that holds them.
        text = file.read().decode("utf-8", "surrogateescape")
    decoder = json.JSONDecoder()
    position = _skip_space(text, 0)
    in_array = text.startswith("[", position)
    position = _skip_space(text, position + in_array)
    number = 0
    while position < len(text) and not text.startswith("]", position):
        number += 1
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path} is not valid JSON in row {number}: {error}: mend it") from error
        yield _checked_object(number, value, text[position:end])
        position = _skip_space(text, end)
        if in_array and text.startswith(",", position):
            position = _skip_space(text, position + 1)
        elif in_array and not text.startswith("]", position):
            raise SourceError(f"{path} is not valid JSON behind row {number}: a comma or ] is missing")
    if text[position:].strip() != ("]" if in_array else ""):
        raise SourceError(f"{path} is not one JSON array: it ends early, or something stands behind it")


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
    """Lines of a CSV file, decoded; those of the current record are kept, to be read again after an error."""

    def __init__(self, file: BinaryIO) -> None:
        self._numbered = enumerate(file, start=1)
        self._again: deque[tuple[int, bytes]] = deque()
        self.record: list[tuple[int, bytes]] = []

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        item = self._again.popleft() if self._again else next(self._numbered)
        self.record.append(item)
        return item[1].decode("utf-8", "surrogateescape")

    def keep_first(self) -> None:
        """Give back all lines of the record but its first: a stray quote must not swallow good rows."""
        self._again.extendleft(reversed(self.record[1:]))
        del self.record[1:]


def _csv_records(lines: _CsvLines) -> Iterator[tuple[list[str] | None, str | None]]:
    """Cells of each record, or what is wrong with it; `lines.record` holds its lines meanwhile."""
    reader = csv.reader(lines, strict=True)
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


def _csv_rows(path: Path) -> Iterator[Row | Unreadable]:
    with _open_utf8(path) as file:
        lines = _CsvLines(file)
        header: list[str] | None = None
        for cells, problem in _csv_records(lines):
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


def _header(path: Path, cells: list[str] | None, problem: str | None) -> list[str]:
    if cells is None or problem:
        raise SourceError(f"the header of {path} could not be read: {problem}")
    if len(set(cells)) != len(cells):
        raise SourceError(f"the header of {path} names a column twice: {', '.join(cells)}")
    return cells


# --- tables


def _parquet_rows(path: Path) -> Iterator[Row | Unreadable]:
    with pq.ParquetFile(path) as file:
        yield from _table_rows(file.iter_batches(batch_size=_BATCH_ROWS))


def _dataset_rows(data: Any) -> Iterator[Row | Unreadable]:
    """Rows as stored: images stay the bytes that they were saved as, instead of being decoded and lost."""
    return _table_rows(data.with_format("arrow").iter(batch_size=_BATCH_ROWS))


def _table_rows(batches: Iterable[Any]) -> Iterator[Row | Unreadable]:
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [None] * batch.num_rows
        for index, values in enumerate(rows):
            number += 1
            yield Row(number, values) if values is not None else _row_alone(number, batch.slice(index, 1))


def _row_alone(number: int, batch: Any) -> Row | Unreadable:
    try:
        return Row(number, batch.to_pylist()[0])
    except UnicodeDecodeError as error:
        reason = _not_utf8(error).replace("the row", "the cell")
        return Unreadable(number, reason, _escaped(error.object))


def _summary(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


_READERS: Mapping[str, Callable[[Path], Iterator[Row | Unreadable]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
