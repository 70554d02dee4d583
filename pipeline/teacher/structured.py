"""Read structured answers: strict JSON, JSON within other text and with LaTeX in its strings, or text between marks."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from json.scanner import py_make_scanner  # type: ignore[attr-defined]  # not in the stubs
from typing import Any, TypeVar

from pydantic import ValidationError

from diva_grpo.pipeline.quantities.escapes import read_string
from diva_grpo.pipeline.teacher import delimited
from diva_grpo.pipeline.teacher.thoughts import before_thoughts, without_thoughts
from diva_grpo.pipeline.teacher.wire.outcome import fault
from diva_grpo.schemas.replies import Reply

T = TypeVar("T", bound=Reply)

_MOST_OBJECTS = 50
"""Largest number of positions in one answer at which a JSON object is looked for."""

_STRING = re.compile(r'((?:[^"\\]|\\.)*)"', re.DOTALL)


class ShapeError(ValueError):
    """An answer does not have the requested shape.

    Attributes:
        kind: `parse` (it has no JSON object), `schema` (its JSON object has another shape), or `no_answer` (it has only
            thoughts).
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def read_reply(text: str, shape: type[T]) -> T:
    """Read the structured answer in a text; see `read_mended`."""
    return read_mended(text, shape)[0]


def read_mended(text: str, shape: type[T]) -> tuple[T, str | None]:
    """Read the structured answer in a text, and report what was corrected.

    Words, thoughts and Markdown fences around the JSON object are ignored, line breaks within strings are accepted,
    and LaTeX is distinguished from escapes (see `escapes`). A text without such an object may have the values between
    marks (see `delimited`), whatever the output mode. A truncated answer is never completed.

    Returns:
        The answer, and one line about backslashes that were read as LaTeX instead of escapes; None if there are none.

    Raises:
        ShapeError: the text has no such answer.
    """
    try:
        value = shape.model_validate_json(text)
    except ValidationError as error:
        kind, detail = fault(error)
        strict = ShapeError("parse" if kind == "json_invalid" else "schema", detail)
    else:
        if "\\" not in text:
            return value, None
        strict = ShapeError("parse", "no JSON object")  # never raised, because the text is valid JSON
    if strict.kind == "schema":
        raise strict
    answer = without_thoughts(text)
    first: ShapeError | None = None
    whole = _is_json(text)
    outside = [] if whole else _objects(text, before_thoughts(text))
    for found, otherwise in itertools.chain(_objects(text if whole else answer), outside):
        try:
            # Written as JSON again, because pydantic's JSON parser refuses unpaired surrogates, which are invalid text.
            value = shape.model_validate_json(json.dumps(found))
        except ValidationError as error:
            kind, detail = fault(error)
            first = first or ShapeError("parse" if kind == "json_invalid" else "schema", detail)
        except RecursionError:  # a thousand brackets, from a model that repeats itself
            first = first or ShapeError("parse", "nested too deep")
        else:
            return value, _told(otherwise)
    marked: list[str] = []
    if (between := _between_marks(answer, shape, marked)) is not None:
        return between, _told(marked)
    if first is None and text.strip() and not answer:
        raise ShapeError("no_answer", "only thoughts came: raise --max-tokens, or lower --reasoning-effort")
    raise first or strict


def _between_marks(answer: str, shape: type[T], otherwise: list[str]) -> T | None:
    try:
        found = delimited.blocks(answer, shape, otherwise)
        return shape.model_validate(found) if found else None
    except ValidationError as error:  # which is a ValueError too
        raise ShapeError("schema", fault(error)[1]) from None
    except ValueError as error:
        raise ShapeError("parse", str(error)) from None


def _told(otherwise: list[str]) -> str | None:
    if not otherwise:
        return None
    names = list(dict.fromkeys(otherwise))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"mended: {len(otherwise)} backslashes read as LaTeX ({' '.join(names[:5])}{more})"


def _is_json(text: str) -> bool:
    """Whether the whole text is JSON. If it is, marks of thoughts in it are part of its strings."""
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


class _Decoder(json.JSONDecoder):
    """A JSON decoder that reads strings with `escapes.read_string`.

    Attributes:
        otherwise: the backslash sequences that were read as LaTeX instead of JSON escapes.
    """

    def __init__(self) -> None:
        super().__init__(strict=False)
        self.otherwise: list[str] = []
        self.parse_string = self._string
        self.scan_once = py_make_scanner(self)

    def _string(self, text: str, start: int, strict: bool = False) -> tuple[str, int]:
        found = _STRING.match(text, start)
        if found is None:
            raise json.JSONDecodeError("Unterminated string", text, start - 1)
        mended = read_string(found[1])
        self.otherwise += mended.otherwise
        return mended.text, found.end()


def _objects(text: str, end: int | None = None) -> Iterator[tuple[Any, list[str]]]:
    """Yield each outermost JSON object that begins before `end`, and a list of the backslash sequences in it that were
    read as LaTeX. If `end` is None, objects may begin anywhere.
    """
    start = text.find("{", 0, end)
    for _ in range(_MOST_OBJECTS):
        if start < 0:
            return
        decoder = _Decoder()
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
        else:
            yield value, decoder.otherwise
        start = text.find("{", start, end)
