"""Reading structured answers: strictly first, then as models write them around their JSON."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import ValidationError

from diva_grpo.pipeline.teacher.wire.outcome import fault
from diva_grpo.schemas.replies import Reply

T = TypeVar("T", bound=Reply)

_MOST_OBJECTS = 50
"""Beginnings of an object that are tried in one answer."""


class ShapeError(ValueError):
    """An answer has not the asked shape.

    Attributes:
        kind: `parse` (no JSON object in it) or `schema` (one of another shape).
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def read_reply(text: str, shape: type[T]) -> T:
    """The structured answer in a text.

    Words, thoughts in `<think>` tags and Markdown fences around the JSON object are passed over, line breaks
    within strings are taken, and so are backslashes that begin no escape, as in LaTeX. What is cut short is
    never completed.

    Args:
        text: an answer.
        shape: what it must hold.

    Raises:
        ShapeError: it does not.
    """
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        kind, detail = fault(error)
        strict = ShapeError("parse" if kind == "json_invalid" else "schema", detail)
    if strict.kind == "schema":
        raise strict
    first: ShapeError | None = None
    for value in _objects(text.rpartition("</think>")[2]):
        try:
            # Through JSON again: pydantic's reader refuses halves of surrogate pairs, which are no text.
            return shape.model_validate_json(json.dumps(value))
        except ValidationError as error:
            kind, detail = fault(error)
            first = first or ShapeError("parse" if kind == "json_invalid" else "schema", detail)
        except RecursionError:  # a thousand brackets, as of a model that repeats itself
            first = first or ShapeError("parse", "nested too deep")
    raise first or strict


def _objects(text: str) -> list[Any]:
    """The JSON objects in a text, outermost ones only."""
    decoder = json.JSONDecoder(strict=False)
    found, start = [], text.find("{")
    for _ in range(_MOST_OBJECTS):
        if start < 0:
            break
        for candidate in (text[start:], _escaped(text[start:])):
            try:
                value, length = decoder.raw_decode(candidate)
            except (ValueError, RecursionError):
                continue
            found.append(value)
            start += length - 1
            break
        start = text.find("{", start + 1)
    return found


def _escaped(text: str) -> str:
    """The text with each backslash doubled that begins no escape of JSON."""
    return re.sub(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})|\\', lambda m: m[0] if m[1] else r"\\", text)
