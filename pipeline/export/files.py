"""Write exported rows: as Parquet with embedded images, or as JSON Lines with a folder of images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from diva_grpo.pipeline.export.rows import Picture

_GROUP_ROWS = 1_000
_GROUP_BYTES = 2**25
"""A row group is written when its images have this number of bytes, to limit the memory."""


class Writer(Protocol):
    """Writes rows to a file, one after the other."""

    def write(self, values: Mapping[str, Any], pictures: Sequence[Picture]) -> None:
        """Add a row with its images."""

    def close(self) -> None:
        """Write the remaining rows."""


class ParquetWriter:
    """Writes one Parquet file, one row group at a time.

    Args:
        path: the file.
        schema: schema of the rows. If they have images, it has a column `images` of {bytes, path}.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, values: Mapping[str, Any], pictures: Sequence[Picture]) -> None:
        """Add a row with its images."""
        images = [{"bytes": picture.content, "path": picture.name} for picture in pictures]
        self._rows.append({**values, "images": images})
        self._bytes += sum(len(picture.content) for picture in pictures)
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write the remaining rows."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


class JsonWriter:
    """Writes one JSON Lines file, and a folder of images. The rows contain the paths of their images.

    Args:
        path: the file.
        folder: folder to write images to. It is created for the first image.
        with_images: whether the rows have a column `images`.
        shown: final path of the image folder, as written in the rows. It is absolute, because trainers run in other
            working directories.
    """

    def __init__(self, path: Path, folder: Path, with_images: bool, shown: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._folder, self._with_images, self._shown = folder, with_images, shown

    def write(self, values: Mapping[str, Any], pictures: Sequence[Picture]) -> None:
        """Add a row with its images."""
        row = dict(values)
        if self._with_images:
            row["images"] = [str(self._shown / picture.name) for picture in pictures]
        for picture in pictures:
            self._folder.mkdir(exist_ok=True)
            target = self._folder / picture.name
            if not target.exists():  # the name is a hash of the content
                target.write_bytes(picture.content)
        self._file.write(_line(row))

    def close(self) -> None:
        """Write the remaining rows."""
        self._file.close()


def write_batches(path: Path, batches: pa.RecordBatchReader, output_format: str) -> Iterator[int]:
    """Write the rows of a view; yield the number of rows in each batch after it is written."""
    if output_format == "jsonl":
        with path.open("w", encoding="utf-8") as out:
            for batch in batches:
                out.writelines(map(_line, batch.to_pylist()))
                yield batch.num_rows
        return
    with pq.ParquetWriter(path, _plain_schema(batches.schema), compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]).cast(_plain_schema(batches.schema)))
            yield batch.num_rows


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Replace extension types by their storage types, so that DuckDB's JSON is text for every reader."""
    fields = [
        field.with_type(field.type.storage_type) if isinstance(field.type, pa.BaseExtensionType) else field
        for field in schema
    ]
    return pa.schema(fields)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=_json_value) + "\n"


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
