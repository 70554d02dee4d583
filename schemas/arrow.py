"""Arrow schemas, derived from the records, so that writer and reader use the same column names."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence, Sized
from datetime import datetime
from enum import StrEnum
from typing import Any, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel

from diva_grpo.schemas.records import Record

# Columns that order the records of a key: by the time at which they were appended, then by position within the append.
ORDER_FIELDS = (pa.field("recorded_at", pa.timestamp("us")), pa.field("record_no", pa.int32()))

_SCALARS: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us"),
}


def _arrow_type(annotation: Any) -> pa.DataType:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not types.NoneType]
        return _arrow_type(inner[0])
    if origin is list:
        return pa.list_(_arrow_type(get_args(annotation)[0]))
    if hasattr(annotation, "__metadata__"):  # `Annotated` inside an optional type
        return _arrow_type(annotation.__origin__)
    if issubclass(annotation, BaseModel):
        return pa.struct([(name, _arrow_type(f.annotation)) for name, f in annotation.model_fields.items()])
    if issubclass(annotation, StrEnum):
        return pa.string()
    return _SCALARS[annotation]


def arrow_schema(record: type[Record]) -> pa.Schema:
    """The Arrow schema of the parts of a record's table. The two ordering columns come last."""
    fields = [pa.field(name, _arrow_type(f.annotation)) for name, f in record.model_fields.items()]
    return pa.schema([*fields, *ORDER_FIELDS])


def to_table(records: Sequence[Record], recorded_at: datetime) -> pa.Table:
    """Convert records of one type to an Arrow table with the schema of their table.

    Args:
        records: one or more records, all of the same type.
        recorded_at: time of the append, UTC.
    """
    rows = [{**r.model_dump(), "recorded_at": recorded_at, "record_no": i} for i, r in enumerate(records)]
    return pa.Table.from_pylist(rows, schema=arrow_schema(type(records[0])))


def _is_column(value: Any) -> bool:
    """Whether a value is a column with one value per row. Otherwise it is a single value for all rows."""
    return isinstance(value, Sized) and not isinstance(value, str) and getattr(value, "ndim", 1) > 0


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """Convert values to an Arrow column without changing any. By itself, Arrow would convert 3.5 to the integer 3.

    Raises:
        pyarrow.ArrowInvalid: a value is not of this type.
    """
    if pa.types.is_integer(kind):
        found = pa.array(values)
        if pa.types.is_floating(found.type):
            return found.cast(kind)
    return pa.array(values, kind)


def columns_to_table(
    record: type[Record], batches: Sequence[Mapping[str, Any]], recorded_at: datetime
) -> pa.Table:
    """Convert batches of columns to one Arrow table with the record's schema.

    Args:
        record: type of the records.
        batches: each with columns by name. A single value instead of a column is used for all rows of the batch.
            Columns with a default may be left out.
        recorded_at: time of the append, UTC.

    Raises:
        KeyError: a column without a default is missing, or a column does not belong to the record.
        pyarrow.ArrowInvalid: a value is not of its column's type, or a column of the key has a missing value.
    """
    schema = arrow_schema(record)
    tables, total = [], 0
    for batch in batches:
        if unknown := sorted(batch.keys() - set(record.model_fields)):
            raise KeyError(f"{record.table} has no column {unknown[0]}")
        rows = max((len(values) for values in batch.values() if _is_column(values)), default=1)
        order = {"recorded_at": [recorded_at] * rows, "record_no": range(total, total + rows)}
        spread = {
            name: value if _is_column(value) else [value] * rows for name, value in {**batch, **order}.items()
        }
        for name, field in record.model_fields.items():
            if name not in spread and not field.is_required():
                spread[name] = [field.get_default(call_default_factory=True)] * rows
        made = pa.table([_array(spread[field.name], field.type) for field in schema], schema=schema)
        if missing := [name for name in record.key if made[name].null_count]:
            raise pa.ArrowInvalid(f"{missing[0]} is part of the key of {record.table}, and has no value")
        tables.append(made)
        total += rows
    return pa.concat_tables(tables)
