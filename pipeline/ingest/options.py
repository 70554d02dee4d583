"""Read the choices of a problem in the notations of different sources, and answers that name a choice."""

from __future__ import annotations

import re
from collections.abc import Mapping

from diva_grpo.pipeline.ingest.cells import RowError, text_of, texts_of

_LETTERS = "ABCDEFGHIJ"
_OWN_LETTER = re.compile(r"\(?([A-J])[.:)、．：]\)?\s*(?=\S)")


def read_options(value: object, column: str | None) -> tuple[list[str], list[str]]:
    """Return the labels and the texts of the choices.

    Args:
        value: a list of texts, `{"A": one, ...}`, `{"label": [...], "text": [...]}`, a list of `{label, text}`, or
            one text: a JSON array, `A. one; B. two`, or `(A) one (B) two`.
        column: name of the column, for messages.

    Returns:
        The labels (empty if the cell has none of its own), and the texts without letters.

    Raises:
        RowError: the cell contains something else.
    """
    if isinstance(value, str) and (options := split_options(value)):
        return [], options
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {
            key: [item.get(key) for item in value] for key in dict.fromkeys(k for item in value for k in item)
        }
    if isinstance(value, Mapping):
        return _labelled(value, column)
    return [], _without_letters(texts_of(value, column))


def _labelled(value: Mapping[str, object], column: str | None) -> tuple[list[str], list[str]]:
    texts = next(
        (value[key] for key in ("text", "content", "value") if isinstance(value.get(key), list)), None
    )
    if texts is not None:
        labels = next(
            (value[key] for key in ("label", "key", "id") if isinstance(value.get(key), list)), None
        )
        return texts_of(labels, column), texts_of(texts, column)
    # In a table, each row has a cell for every letter. An empty cell is not a choice of this row.
    found = {key: text for key, cell in value.items() if (text := text_of(cell, column))}
    labels = [key.strip("(). ") for key in found]
    return labels, list(found.values())


def _without_letters(options: list[str]) -> list[str]:
    """Remove the letters of options such as `A. one` if each option begins with its letter."""
    marks = [_OWN_LETTER.match(option) for option in options]
    if len(options) > 1 and all(
        mark and mark[1] == letter for mark, letter in zip(marks, _LETTERS[: len(options)], strict=False)
    ):
        return [option[mark.end() :] for option, mark in zip(options, marks, strict=True) if mark]
    return options


def split_options(text: str) -> list[str]:
    """Split a text into choices, each after its letter. Empty if the text does not have this form.

    >>> split_options("A. 300, 400;B. 400, 300; C. No correct answer")
    ['300, 400', '400, 300', 'No correct answer']
    >>> split_options("(A) 3 (B) 4")
    ['3', '4']
    """
    options: list[str] = []
    rest = text.strip()
    for letter in _LETTERS:
        found = re.search(rf"(?:^|[;\s])(?:{letter}[.:、．：)]|\({letter}\))", rest)
        if found is None:
            break
        options.append(rest[: found.start()])
        rest = rest[found.end() :]
    before, *options = [*options, rest]
    options = [option.strip("; \t\n") for option in options]
    return options if len(options) > 1 and not before and all(options) else []


def resolved(answer: str, labels: list[str], options: list[str], first: int | None) -> str:
    """Return the letter of an answer that is a label or the number of an option. Other answers are returned unchanged.

    Args:
        answer: the answer in the source.
        labels: the labels of the options in the source; may be empty.
        options: the texts of the options.
        first: number of the first option if answers are numbers of options (usually 0 or 1), else None.

    Raises:
        RowError: no option has that number.
    """
    if options and first is not None:
        number = int(answer) - first if answer.lstrip("-").isdigit() else -1
        if not 0 <= number < len(options):
            raise RowError(
                f"the answer {answer!r} is not the number of one of the {len(options)} options, counted from {first}"
            )
        return _LETTERS[number]
    if labels and answer in labels and labels != list(_LETTERS[: len(labels)]):
        return _LETTERS[labels.index(answer)]
    return answer
