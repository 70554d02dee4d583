"""Writers of exported rows: Parquet with embedded images, and JSON Lines with images beside it."""

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
"""A row group ends at so many bytes of images: what bounds the memory."""


class Writer(Protocol):
    """Takes rows, one after the other."""

    def write(self, values: Mapping[str, Any], pictures: Sequence[Picture]) -> None:
        """Add a row with its images."""

    def close(self) -> None:
        """Write what is left."""


class ParquetWriter:
    """One Parquet file, a row group at a time.

    Args:
        path: the file.
        schema: of the rows; with a column `images` of {bytes, path} where rows have images.
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
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


class JsonWriter:
    """One JSON Lines file; images go into a folder beside it, by the paths that the rows name.

    Args:
        path: the file.
        folder: of the images; made with the first one.
        with_images: whether rows have a column of images.
        shown: where the folder will lie. Its path is whole: trainers open images from where they run.
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
            if not target.exists():  # names are of the content
                target.write_bytes(picture.content)
        self._file.write(json.dumps(row, ensure_ascii=False, default=_json_value) + "\n")

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def write_batches(path: Path, batches: pa.RecordBatchReader, output_format: str) -> Iterator[int]:
    """Write a view as it is; yields the rows of each batch as it is done."""
    if output_format == "jsonl":
        with path.open("w", encoding="utf-8") as out:
            for batch in batches:
                for row in batch.to_pylist():
                    out.write(json.dumps(row, ensure_ascii=False, default=_json_value) + "\n")
                yield batch.num_rows
        return
    with pq.ParquetWriter(path, _plain_schema(batches.schema), compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]).cast(_plain_schema(batches.schema)))
            yield batch.num_rows


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Without extension types: JSON is text to a reader that does not know DuckDB's."""
    fields = [
        field.with_type(field.type.storage_type) if isinstance(field.type, pa.BaseExtensionType) else field
        for field in schema
    ]
    return pa.schema(fields)


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
