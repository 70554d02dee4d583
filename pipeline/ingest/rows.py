"""Turn one row of a source into a problem, or raise an error with the reason why it is not one."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence

from diva_grpo.pipeline.images.sources import ImageError, Picture, Place, read_pictures
from diva_grpo.pipeline.ingest.answers import lines_of, read_answer
from diva_grpo.pipeline.ingest.cells import (
    RowError,
    cell_of,
    conversation_of,
    has,
    required,
    text_of,
)
from diva_grpo.pipeline.ingest.options import read_options, resolved
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.records import ORIGINAL, Problem

_ID_DIGITS = 12
_PLACEHOLDER = re.compile(r"<image(\d{0,4})>")
_UNDERSCORED = re.compile(r"<image_(\d{1,4})>")
_LEVEL_WORD = re.compile(r"[^\W\d]+\s+")


def read_problem(
    values: Mapping[str, object], mapping: ColumnMapping, source_name: str, split: str, place: Place
) -> tuple[Problem, list[Picture]]:
    """Convert a row to a problem and its images. Nothing is stored.

    Args:
        values: the row.
        mapping: the names of its columns.
        source_name: first part of the problem's id.
        split: the split if the row has no column for it.
        place: how image paths are resolved.

    Raises:
        RowError: the row is not a problem. The message is the reason.
    """
    kind = text_of(cell_of(values, mapping.kind), mapping.kind)
    if kind not in ("", ORIGINAL):
        raise RowError(
            f"a variant ({kind}), not a problem: `diva export --what problems` leaves variants out"
        )
    text, images = _question(values, mapping)
    steps, answer = read_answer(values, mapping)
    steps = _steps(cell_of(values, mapping.solution), mapping.solution) or steps
    labels, options = read_options(cell_of(values, mapping.options), mapping.options)
    answer = resolved(answer, labels, options, mapping.answer_index)
    options = [_plain_placeholders(option) for option in options]
    try:
        pictures = read_pictures(_image_cell(values, mapping) or images, place)
    except ImageError as error:
        raise RowError(str(error)) from error
    if mapping.labelled_figures and len(pictures) == 1:
        text, options = _name_figures(text, options)
    _check_placeholders(" ".join([text, *options]), len(pictures))
    if mapping.id is not None and not (mapping.id_optional and not has(values, mapping.id)):
        row_id = required(values, mapping.id, "no id")
    else:
        row_id = content_id(text, answer, options, [picture.record.hash for picture in pictures])
    problem = Problem(
        problem_id=f"{source_name}/{row_id}",
        source=source_name,
        split=text_of(cell_of(values, mapping.split), mapping.split) or split,
        text=text,
        answer=answer,
        options=options,
        images=[picture.record for picture in pictures],
        solution_steps=steps,
        human_level=_level(cell_of(values, mapping.level)),
    )
    return problem, pictures


def content_id(text: str, answer: str, options: list[str], image_hashes: list[str]) -> str:
    """Return an id for a problem whose source has no ids: 12 hex digits of the SHA-256 of its content."""
    content = json.dumps([text, answer, options, image_hashes], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:_ID_DIGITS]


def _name_figures(text: str, options: list[str]) -> tuple[str, list[str]]:
    """Put the image before the text if the text refers to several figures in this one image.

    The image contains a label for each figure. A placeholder such as <image2> therefore becomes the name [image2].
    """
    if len(_PLACEHOLDER.findall(" ".join([text, *options]))) <= 1:
        return text, options
    text, *options = (_PLACEHOLDER.sub(r"[image\1]", part) for part in [text, *options])
    return f"<image>\n{text}", options


def _check_placeholders(text: str, images: int) -> None:
    numbers = _PLACEHOLDER.findall(text)
    # A numbered placeholder may occur several times, but each <image> is another image.
    wanted = numbers.count("") + len(set(numbers) - {""})
    if wanted > images:
        raise RowError(f"{wanted} <image> placeholders, but {images or 'no'} images")
    for number in numbers:
        if number and not 1 <= int(number) <= images:
            raise RowError(f"<image{number}> is not one of the problem's images, which are counted from 1")


# --- parts of a row


def _image_cell(values: Mapping[str, object], mapping: ColumnMapping) -> object:
    fallback = mapping.images_fallback is not None and not has(values, mapping.images)
    first = cell_of(values, mapping.images_fallback if fallback else mapping.images)
    more = [cell for name in mapping.more_images if (cell := values.get(name)) not in (None, "")]
    if not more:
        return first
    return [*(first if isinstance(first, list) else [first]), *more] if first not in (None, "") else more


def _question(values: Mapping[str, object], mapping: ColumnMapping) -> tuple[str, Sequence[object]]:
    """Return the question, and the images if the question is a conversation.

    The question includes the context before it, and the unit and decimal places of the answer, if the mapping has
    columns for them.
    """
    asked = conversation_of(cell_of(values, mapping.problem), mapping.problem)
    text = asked.question if asked else required(values, mapping.problem, "empty problem")
    context, unit, decimals = (
        text_of(cell_of(values, column), column)
        for column in (mapping.context, mapping.unit, mapping.decimals)
    )
    if context:
        text = f"{context}\n{text}"
    if unit:
        text += f" (Unit: {unit})"
    if decimals not in ("", "0"):
        text += f"\nGive the answer with {decimals} decimal place{'' if decimals == '1' else 's'}."
    return _plain_placeholders(text), list(asked.images) if asked else []


def _plain_placeholders(text: str) -> str:
    """Convert placeholders such as <image_1> to the form in the store, <image1>."""
    return _UNDERSCORED.sub(r"<image\1>", text)


def _steps(value: object, column: str | None) -> list[str]:
    """Return the steps of a worked solution: the items of a list, or the lines of a text."""
    if isinstance(value, list):
        return [step for step in (text_of(item, column) for item in value) if step]
    return lines_of(text_of(value, column))


def _level(value: object) -> float | None:
    """Return a level as a number; a word before the number is ignored ("Level 5"). None without a number ("Hard")."""
    try:
        level = float(_LEVEL_WORD.sub("", text_of(value, "level"), count=1))
    except ValueError:
        return None
    return level if math.isfinite(level) else None
