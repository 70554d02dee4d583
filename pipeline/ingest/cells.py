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
    """The cell at a path, or `_ABSENT`. A column whose name contains the dots has precedence."""
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
    """Whether the row has such a column, which may be nested: `reward_model.ground_truth`."""
    return column is not None and _find(values, column) is not _ABSENT


def cell_of(values: Mapping[str, object], column: str | None) -> object:
    """The cell of an optional column."""
    found = _ABSENT if column is None else _find(values, column)
    return None if found is _ABSENT else found


def text_of(value: Any, column: str | None) -> str:
    """A cell as text; empty for the usual marks of a missing value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        # Infinity, or 1e400, of which JSON and Parquet make the same: nothing can be meant by it.
        raise RowError(f"the column {column!r} holds a number that is too large")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # an integer column with missing values has floats
    if isinstance(value, list | dict | bytes):
        raise RowError(f"the column {column!r} holds a {type(value).__name__}, not text")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"the column {column!r} holds half of a surrogate pair, which is not text") from None
    return text


def required(values: Mapping[str, object], column: str, complaint: str) -> str:
    """The text of a required cell.

    Raises:
        RowError: it is missing or empty.
    """
    if not has(values, column):
        raise RowError(f"{complaint}: the row has no column {column!r}")
    text = text_of(cell_of(values, column), column)
    if not text:
        raise RowError(f"{complaint}: the column {column!r} is empty")
    return text


def texts_of(value: object, column: str | None) -> list[str]:
    """A list of texts; in a text cell a JSON array (CSV)."""
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
    """The question of the user with its images, and the reply. A system message is ignored."""

    question: str
    images: list[object]
    reply: str


def conversation_of(value: object, column: str | None) -> Conversation | None:
    """A conversation with one question; None if the cell contains something else.

    Args:
        value: a list of messages `{role, content}` (TRL, veRL) or `{from, value}` (ShareGPT). A content may be a
            list of parts, as for vision-language models.
        column: name of the column, for messages.

    Raises:
        RowError: it has no question or several.
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
    """The text of a message, with `<image>` for each image. The images are appended to `images`."""
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
