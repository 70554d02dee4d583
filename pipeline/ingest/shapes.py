"""Find the tables in a JSON file that is one object: a list of rows, one list per split, columns, or rows by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_SPLITS = ("train", "testmini", "test", "validation", "valid", "val", "dev")

_KEYS = ("data", "rows", "examples", "instances", "items", "records", "problems", "questions")


class Table(NamedTuple):
    """The rows of a table, and their split if the key of the table is a split, else None."""

    rows: Iterable[Mapping[str, Any]]
    split: str | None = None


def tables_of(value: object) -> list[Table] | None:
    """Return the tables of a JSON file that is one object; None if the object is a row.

    These forms are known: `{"data": [{...}]}` with any key, `{"train": [{...}], "test": [{...}]}`, one list per column,
    and the output of pandas with `orient` "columns", "index" or "split".
    """
    if not isinstance(value, dict) or not value:
        return None
    if set(value) >= {"columns", "data"} and _is_list_of(value["data"], list):
        return [Table(dict(zip(value["columns"], cells, strict=False)) for cells in value["data"])]
    named = {key: rows for key, rows in value.items() if _is_list_of(rows, dict)}
    if named and set(named) <= set(_SPLITS):
        return [Table(rows, split) for split, rows in named.items()]
    key = next(iter(named), "")
    # If the object also has texts, it may be a row, and the list a part of it, such as its messages.
    if len(named) == 1 and (key in _KEYS or not any(isinstance(cell, str) for cell in value.values())):
        return [Table(named[key])]
    if all(isinstance(cells, list) for cells in value.values()):
        return _columns(value)
    if all(isinstance(cells, dict) and cells for cells in value.values()):
        return _by_key(value)
    return None


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _columns(columns: Mapping[str, list[Any]]) -> list[Table] | None:
    if len({len(cells) for cells in columns.values()}) != 1:
        return None
    return [Table(dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))]


def _by_key(value: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Read an object of objects: columns whose cells have row numbers as keys, or rows whose keys are their ids."""
    if all(key.isdigit() for cells in value.values() for key in cells):
        numbers = dict.fromkeys(key for cells in value.values() for key in cells)
        return [Table({name: cells.get(key) for name, cells in value.items()} for key in numbers)]
    return [Table({"id": key, **cells} for key, cells in value.items())]
