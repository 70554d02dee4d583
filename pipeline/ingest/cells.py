"""Find a cell of a row by its path, and read it as a text, a list of texts, or a conversation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

_ABSENT = object()
_USERS = ("user", "human")
_REPLIERS = ("assistant", "gpt", "model", "bot")


class RowError(ValueError):
    """A row that cannot become a problem. The message becomes the reason of the reject."""


def _find(values: Any, path: str) -> object:
    """Return the cell at a path such as `a.b.0`, or `_ABSENT`. A column with the name "a.b.0" has precedence."""
    if isinstance(values, list):
        first, _, rest = path.partition(".")
        found = values[int(first)] if first.isdigit() and int(first) < len(values) else _ABSENT
        return _find(found, rest) if rest and found is not _ABSENT else found
    if not isinstance(values, Mapping):
        return _ABSENT
    if path in values:
        return values[path]
    first, dot, rest = path.partition(".")
    return _find(values[first], rest) if dot and first in values else _ABSENT


def has(values: Mapping[str, object], column: str | None) -> bool:
    """Whether the row has a column. The name may be a path to a nested cell, such as `reward_model.ground_truth`."""
    return column is not None and _find(values, column) is not _ABSENT


def cell_of(values: Mapping[str, object], column: str | None) -> object:
    """Return the cell of a column; None if the row has no such column, or if `column` is None."""
    found = _ABSENT if column is None else _find(values, column)
    return None if found is _ABSENT else found


def text_of(value: Any, column: str | None) -> str:
    """Return a cell as text; "" if its value is missing (None or NaN).

    Args:
        value: the cell.
        column: name of the column, for messages.

    Raises:
        RowError: the cell is not a text and not a finite number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        # Infinity, or a number such as 1e400, which JSON and Parquet read as infinity. The value is lost.
        raise RowError(f"the column {column!r} holds a number that is too large")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # an integer column with missing values has floats
    if isinstance(value, list | dict | bytes):
        raise RowError(f"the column {column!r} holds a {type(value).__name__}, not text")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(
            f"the column {column!r} contains half of a surrogate pair, so it is not valid Unicode text"
        ) from None
    return text


def required(values: Mapping[str, object], column: str, complaint: str) -> str:
    """Return the text of a required cell.

    Args:
        values: the row.
        column: name of the column.
        complaint: beginning of the error message.

    Raises:
        RowError: the cell is missing or empty.
    """
    if not has(values, column):
        raise RowError(f"{complaint}: the row has no column {column!r}")
    text = text_of(cell_of(values, column), column)
    if not text:
        raise RowError(f"{complaint}: the column {column!r} is empty")
    return text


def texts_of(value: object, column: str | None) -> list[str]:
    """Return a cell as a list of texts; empty if the cell is missing.

    Args:
        value: a list or, as in CSV files, a text with a JSON array.
        column: name of the column, for messages.

    Raises:
        RowError: the cell contains something else.
    """
    if isinstance(value, str) and value.strip():
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, list):
        return [text_of(item, column) for item in value]
    if not text_of(value, column):
        return []
    raise RowError(f"the column {column!r} is not a list (in text: a JSON array, or A. one; B. two)")


# --- conversations


class Conversation(NamedTuple):
    """A conversation of one question: its text and images, and the last reply ("" if there is none)."""

    question: str
    images: list[object]
    reply: str


def conversation_of(value: object, column: str | None) -> Conversation | None:
    """Read a cell that is a conversation with one question; None if the cell contains something else.

    System messages are ignored.

    Args:
        value: a list of messages `{role, content}` (TRL, veRL) or `{from, value}` (ShareGPT). A content may be a
            list of parts, as for vision-language models.
        column: name of the column, for messages.

    Raises:
        RowError: the conversation has no question, or more than one.
    """
    if not isinstance(value, list) or not value or not all(map(_is_message, value)):
        return None
    questions: list[object] = []
    replies: list[object] = []
    for message in value:
        role = str(message.get("role", message.get("from"))).lower()
        content = message.get("content", message.get("value"))
        (questions if role in _USERS else replies if role in _REPLIERS else []).append(content)
    if len(questions) != 1:
        raise RowError(
            f"the column {column!r} holds a conversation of {len(questions)} questions, not of one"
        )
    images: list[object] = []
    question = _content(questions[0], column, images)
    return Conversation(question, images, _content(replies[-1], column, []) if replies else "")


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and (
        {"role", "content"} <= set(value) or {"from", "value"} <= set(value)
    )


def _content(content: object, column: str | None, images: list[object]) -> str:
    """Return the text of a message, with `<image>` in place of each image. The images are appended to `images`."""
    if not isinstance(content, list):
        return text_of(content, column)
    texts = []
    for part in content:
        if isinstance(part, Mapping) and "image" in str(part.get("type")):
            url = part.get("image_url")
            found = part.get("image") or (url.get("url") if isinstance(url, Mapping) else url)
            images += [found] if found else []
            texts.append("<image>")
        else:
            texts.append(text_of(part.get("text") if isinstance(part, Mapping) else part, column))
    return "".join(texts)
