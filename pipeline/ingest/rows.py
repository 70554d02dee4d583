"""One row of a source as a problem: what its cells hold, and why it may not be one."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from diva_grpo.pipeline.grade import grade
from diva_grpo.pipeline.images.sources import ImageError, Picture, Place, read_pictures
from diva_grpo.schemas.mapping import AnswerFormat, ColumnMapping
from diva_grpo.schemas.records import Problem

_ID_DIGITS = 12
# Long: once for a problem, and a machine under load must not cost a good one.
_OWN_ANSWER_DEADLINE_S = 30.0
_PLACEHOLDER = re.compile(r"<image(\d{0,4})>")
_UNDERSCORED = re.compile(r"<image_(\d{1,4})>")
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LETTER = re.compile(r"\(?([A-Z])[.:]?\)?")
_LEVEL_WORD = re.compile(r"[^\W\d]+\s+")


class RowError(ValueError):
    """A row that cannot become a problem; the message is the reason that the reject states."""


def read_problem(
    values: Mapping[str, object], mapping: ColumnMapping, source_name: str, split: str, place: Place
) -> tuple[Problem, list[Picture]]:
    """A row as a problem with its images, which are not in the store yet.

    Raises:
        RowError: the row is not a problem; the message says why.
    """
    text = _question(values, mapping)
    answer = _answer(values, mapping.answer)
    steps = _steps(cell_of(values, mapping.solution), mapping.solution)
    if mapping.answer_format == AnswerFormat.GSM8K:
        steps, answer = split_gsm8k(answer)
    options = [
        _plain_placeholders(option) for option in texts_of(cell_of(values, mapping.options), mapping.options)
    ]
    try:
        pictures = read_pictures(_image_cell(values, mapping), place)
    except ImageError as error:
        raise RowError(str(error)) from error
    if mapping.labelled_figures and len(pictures) == 1:
        text, options = _name_figures(text, options)
    _check_placeholders(" ".join([text, *options]), len(pictures))
    if mapping.id is not None and not (mapping.id_optional and mapping.id not in values):
        row_id = _required(values, mapping.id, "no id")
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


def check_own_answer(problem: Problem) -> None:
    """See that the grader accepts the reference answer: it could never reward a rollout otherwise.

    Raises:
        RowError: it does not, or the answer is the letter of an option that is not there.
    """
    if problem.options and _is_letter_beyond(problem.answer, problem.options):
        raise RowError(f"the answer {problem.answer!r} is none of the {len(problem.options)} options")
    boxed = f"\\boxed{{{problem.answer}}}"
    graded = grade(boxed, problem.answer, options=problem.options, deadline_s=_OWN_ANSWER_DEADLINE_S)
    if graded.outcome != "correct":
        raise RowError(
            f"the grader does not accept the problem's own answer {problem.answer!r}: {graded.how}"
        )


def _is_letter_beyond(answer: str, options: list[str]) -> bool:
    found = _LETTER.fullmatch(answer)
    return found is not None and ord(found[1]) - ord("A") >= len(options) and answer not in options


def content_id(text: str, answer: str, options: list[str], image_hashes: list[str]) -> str:
    """Id of a problem whose source states none: 12 hex digits of the SHA-256 of its content."""
    content = json.dumps([text, answer, options, image_hashes], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:_ID_DIGITS]


def split_gsm8k(answer: str) -> tuple[list[str], str]:
    """Solution steps and final answer of a GSM8K answer (arXiv 2110.14168).

    Calculator annotations go, and so do the answer's thousands separators:

    >>> split_gsm8k("48 / 2 = <<48/2=24>>24 clips\\nshe sold 24 thousand\\n#### 24,000")
    (['48 / 2 = 24 clips', 'she sold 24 thousand'], '24000')

    Raises:
        RowError: there is no `####`, or nothing behind it.
    """
    solution, marker, final = answer.rpartition("####")
    if not marker:
        raise RowError("no answer: the solution has no '####'")
    final = _THOUSANDS.sub("", final.strip())
    if not final:
        raise RowError("no answer: nothing stands behind '####'")
    return _lines(_CALCULATION.sub("", solution)), final


def _name_figures(text: str, options: list[str]) -> tuple[str, list[str]]:
    """Put the one picture first, where a question refers to several figures that it shows.

    In the picture each figure bears its label (<image2>), so the references stay as names: [image2].
    """
    if len(_PLACEHOLDER.findall(" ".join([text, *options]))) <= 1:
        return text, options
    text, *options = (_PLACEHOLDER.sub(r"[image\1]", part) for part in [text, *options])
    return f"<image>\n{text}", options


def _check_placeholders(text: str, images: int) -> None:
    numbers = _PLACEHOLDER.findall(text)
    # A figure may be mentioned again by its number, but <image> stands for a new one each time.
    wanted = numbers.count("") + len(set(numbers) - {""})
    if wanted > images:
        raise RowError(f"{wanted} <image> placeholders, but {images or 'no'} images")
    for number in numbers:
        if number and not 1 <= int(number) <= images:
            raise RowError(f"<image{number}> is none of the problem's images, which are counted from 1")


# --- one cell


def cell_of(values: Mapping[str, object], column: str | None) -> object:
    """The cell of a column that may not be there."""
    return None if column is None else values.get(column)


def _image_cell(values: Mapping[str, object], mapping: ColumnMapping) -> object:
    if mapping.images not in values and mapping.images_fallback is not None:
        first = values.get(mapping.images_fallback)
    else:
        first = cell_of(values, mapping.images)
    more = [cell for cell in map(values.get, mapping.more_images) if cell not in (None, "")]
    if not more:
        return first
    return [*(first if isinstance(first, list) else [first]), *more] if first not in (None, "") else more


def _question(values: Mapping[str, object], mapping: ColumnMapping) -> str:
    """The question, with what stands before it and with the form that its answer is asked in."""
    text = _required(values, mapping.problem, "empty problem")
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
    return _plain_placeholders(text)


def _plain_placeholders(text: str) -> str:
    """<image_1> as <image1>, the form of the store."""
    return _UNDERSCORED.sub(r"<image\1>", text)


def _answer(values: Mapping[str, object], column: str) -> str:
    """The reference answer; several in a list are joined by commas."""
    cell = values.get(column)
    if isinstance(cell, list) and cell:
        return _required({column: ", ".join(texts_of(cell, column))}, column, "no answer")
    return _required(values, column, "no answer")


def _required(values: Mapping[str, object], column: str, complaint: str) -> str:
    if column not in values:
        raise RowError(f"{complaint}: the row has no column {column!r}")
    text = text_of(values[column], column)
    if not text:
        raise RowError(f"{complaint}: the column {column!r} is empty")
    return text


def text_of(value: Any, column: str | None) -> str:
    """A cell as text; empty for what tables write where there is nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # an integer column with gaps is one of floats
    if isinstance(value, list | dict | bytes):
        raise RowError(f"the column {column!r} holds a {type(value).__name__}, not text")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"the column {column!r} holds half of a surrogate pair, which is not text") from None
    return text


def texts_of(value: object, column: str | None) -> list[str]:
    """A list of texts; in a text cell as a JSON array (CSV), or as `A. one; B. two`."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            value = split_options(str(value)) or value
    if isinstance(value, list):
        return [text_of(item, column) for item in value]
    if not text_of(value, column):
        return []
    raise RowError(f"the column {column!r} is not a list (in text: a JSON array, or A. one; B. two)")


def split_options(text: str) -> list[str]:
    """Choices that stand in one text, each behind its letter; empty where the text is none of that kind.

    >>> split_options("A. 300, 400;B. 400, 300; C. No correct answer")
    ['300, 400', '400, 300', 'No correct answer']
    """
    options: list[str] = []
    rest = text.strip()
    for letter in "ABCDEFGHIJ":
        found = re.search(rf"(?:^|[;\s]){letter}[.:]", rest)
        if found is None:
            break
        options.append(rest[: found.start()])
        rest = rest[found.end() :]
    before, *options = [*options, rest]
    options = [option.strip("; \t\n") for option in options]
    return options if len(options) > 1 and not before and all(options) else []


def _steps(value: object, column: str | None) -> list[str]:
    """Steps of a worked solution: the items of a list, or the lines of a text."""
    if isinstance(value, list):
        return [step for step in (text_of(item, column) for item in value) if step]
    return _lines(text_of(value, column))


def _lines(text: str) -> list[str]:
    return [line for line in (line.strip() for line in text.splitlines()) if line]


def _level(value: object) -> float | None:
    """The number of a level, which may follow a word ("Level 5")."""
    text = text_of(value, "level")
    if not text:
        return None
    try:
        level = float(_LEVEL_WORD.sub("", text, count=1))
    except ValueError:
        raise RowError(f"the level {text!r} is not a number") from None
    if not math.isfinite(level):
        raise RowError(f"the level {text!r} is not a number")
    return level
