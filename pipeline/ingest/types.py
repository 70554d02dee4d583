"""Convert cells of Arrow tables: class codes become class names, and a float32 stays short (0.1, not 0.10000000149)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

Convert = Callable[[Any], Any]


def written_rows(batch: Any, features: Any = None) -> list[dict[str, object] | None]:
    """Return the rows of an Arrow batch, with converted cells.

    Args:
        batch: a record batch or a table.
        features: the `datasets` features of its columns; None reads them from the batch's metadata, if any.

    Raises:
        UnicodeDecodeError: a text is not UTF-8.
    """
    wide = pa.schema([field.with_type(_replaced(field.type, pa.float64())) for field in batch.schema])
    if not wide.equals(batch.schema):
        # Converted by way of text, because a direct conversion of the float32 0.1 to float64 gives 0.10000000149.
        text = pa.schema([field.with_type(_replaced(field.type, pa.string())) for field in batch.schema])
        batch = batch.cast(text).cast(wide)
    rows: list[dict[str, object] | None] = batch.to_pylist()
    for column, convert in _class_names(batch.schema, features).items():
        for row in rows:
            if row is not None:
                row[column] = convert(row[column])
    return rows


def _replaced(kind: pa.DataType, floats: pa.DataType) -> pa.DataType:
    """Return a type with its float16 and float32 replaced by `floats`, also inside lists and structs."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return floats
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_replaced(kind.value_type, floats)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_replaced(field.type, floats)) for field in kind])
    return kind


def _class_names(schema: pa.Schema, features: Any) -> dict[str, Convert]:
    """Return, for each column with class codes, the function that converts them to class names."""
    if features is None:
        if b"ClassLabel" not in (schema.metadata or {}).get(b"huggingface", b""):
            return {}
        from datasets import Features

        features = Features.from_arrow_schema(schema)
    found = {name: _converter(feature) for name, feature in features.items()}
    return {name: convert for name, convert in found.items() if convert}


def _converter(feature: Any) -> Convert | None:
    from datasets import ClassLabel, List

    if isinstance(feature, ClassLabel):
        names = feature.names
        return lambda code: names[code] if code is not None and code >= 0 else None
    if isinstance(feature, dict):
        inner = {name: convert for name, part in feature.items() if (convert := _converter(part))}
        if inner:
            return lambda cell: (
                cell and {name: inner[name](part) if name in inner else part for name, part in cell.items()}
            )
    if isinstance(feature, List):
        item = _converter(feature.feature)
        if item:
            return lambda cell: None if cell is None else [item(part) for part in cell]
    return None
