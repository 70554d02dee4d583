r"""Structured answers as plain text between marks, in which nothing is escaped (output mode `delimited`).

In JSON a model has to double the backslashes of LaTeX, and many do not. Between marks there is nothing to double:

    <rewordings>
    Find $\beta$ if $2\beta = 6$.
    </rewordings>
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_origin

from diva_grpo.pipeline.quantities.escapes import is_escaped, read_string
from diva_grpo.schemas.replies import Reply


def in_words(shape: type[Reply]) -> str:
    """The request for an answer of a shape, as text for the model."""
    return (
        "Answer in exactly this form and with nothing else. Between the marks is plain text: escape nothing, write "
        f"LaTeX with single backslashes.\n{_form(shape)}"
    )


def blocks(text: str, shape: type[Reply], otherwise: list[str]) -> dict[str, Any] | None:
    """Return the values between the marks of a text, by field; None if it has no mark of the shape.

    A field that is no list gets the text of its first block.

    Args:
        text: text of the answer.
        shape: the requested shape.
        otherwise: `\\\\` is appended to it for each text that was read as a JSON string.

    Raises:
        ValueError: a mark is not closed.
    """
    found: dict[str, Any] = {}
    for name, inner, is_list in _fields(shape):
        if len(re.findall(rf"<\s*{name}\s*>", text)) > len(re.findall(rf"</\s*{name}\s*>", text)):
            raise ValueError(f"<{name}> is not closed")
        bodies = re.findall(rf"<\s*{name}\s*>(.*?)</\s*{name}\s*>", text, re.DOTALL)
        values = [
            blocks(body, inner, otherwise) or {} if _is_shape(inner) else _plain(body, otherwise)
            for body in bodies
        ]
        if values:
            found[name] = values if is_list else values[0]
    return found or None


def _plain(body: str, otherwise: list[str]) -> str:
    """The text of a block. If a model doubled its backslashes as in JSON, by habit, it is read as a JSON string."""
    text = body.strip()
    if r"\\" not in text or not is_escaped(text):
        return text
    otherwise.append(r"\\")
    return read_string(text).text


def _form(shape: type[Reply]) -> str:
    lines = []
    for name, inner, is_list in _fields(shape):
        told = shape.model_fields[name].description or name
        if isinstance(inner, type) and issubclass(inner, Enum):
            told = f"{told}: {', '.join(str(value) for value in inner)}"
        elif inner is bool:
            told = f"{told}: true or false"
        body = _form(inner) if _is_shape(inner) else f"(one of: {told})" if is_list else f"({told})"
        lines += [f"<{name}>", body, f"</{name}>"]
        if is_list:
            lines.append(f"(and such a block <{name}> for each further one)")
    return "\n".join(lines)


def _fields(shape: type[Reply]) -> Iterator[tuple[str, Any, bool]]:
    """Name of each field, the type of its values, and whether it is a list of them."""
    for name, field in shape.model_fields.items():
        is_list = get_origin(field.annotation) is list
        yield name, get_args(field.annotation)[0] if is_list else field.annotation, is_list


def _is_shape(inner: Any) -> bool:
    return isinstance(inner, type) and issubclass(inner, Reply)
