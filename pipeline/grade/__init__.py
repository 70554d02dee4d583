r"""Grades a response against a reference answer; every call ends within its deadline.

    >>> grade(r"Therefore the side is \boxed{\frac{1}{2}} cm.", "0.5")
    Grade(outcome='correct', answer='\\frac{1}{2}', how='boxed')
    >>> grade("The correct answer is (B).", "12 cm", options=["10 cm", "12 cm"]).outcome
    'correct'

Text and exact fractions decide most answers. What they leave open goes to math-verify, in a process of its own
(`diva_grpo.pipeline.grade._symbolic`), so nothing here imports SymPy and no answer can stop the caller.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from diva_grpo.pipeline.grade._answer_text import bare_answer
from diva_grpo.pipeline.grade._choices import CONTRADICTION, LETTERS, option_named, read_choice
from diva_grpo.pipeline.grade._compare import MAX_ANSWER_CHARS, compare
from diva_grpo.pipeline.grade._extract import Extraction, find_answer
from diva_grpo.pipeline.grade._quantity import read_quantity
from diva_grpo.pipeline.grade._symbolic import WORKER, UndecidedError

__all__ = ["Grade", "UndecidedError", "equal_answers", "extract_answer", "grade", "warm_up"]

DEADLINE_S = 5.0
# The share of a deadline after which a comparison is stopped; the rest is for the return from it.
_COMPARING = 0.95
_BOXED = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_LABEL = re.compile(r"^\(?\s*[A-J]\s*[).:]\s*")
_HASHES = re.compile(r"(?:^|\n)\s*#{4}\s*(\S[^\n]*)\s*$")


@dataclass(frozen=True, slots=True)
class Grade:
    """The result of grading one response.

    Attributes:
        outcome: `correct`; `wrong`; `no_answer` if the response states none; `error` if the grader could not
            decide, which says nothing about the response.
        answer: the text of the answer in the response, or None.
        how: how the answer was found (tag, boxed, hashes, stated, option_letter, option_text, last_formula,
            last_number, whole); for `no_answer` and `error`, why.
    """

    outcome: Literal["correct", "wrong", "no_answer", "error"]
    answer: str | None
    how: str

    @property
    def score(self) -> float | None:
        """Accuracy: 1 for `correct`, 0 for `wrong` and `no_answer`, None for `error`, which must not be scored."""
        return None if self.outcome == "error" else float(self.outcome == "correct")


def grade(
    response: str, reference: str, *, options: Sequence[str] = (), deadline_s: float = DEADLINE_S
) -> Grade:
    """Grades one response. Safe in any thread, and in a process that holds a model.

    Args:
        response: a model's text, of any length.
        reference: the right answer: a value, or with `options` a letter or an option's text.
        options: texts of the choices in order A, B, C, ...; the response may give the letter or the value.
        deadline_s: seconds within which this returns; what is undecided by then is an `error`. The first call
            that needs algebra also starts its process, in about a second that does not count: see `warm_up`.

    Example:
        >>> grade("The answer is 0.5.", "1/2").outcome
        'correct'
    """
    deadline = time.monotonic() + _COMPARING * deadline_s
    if not reference.strip():
        return Grade("error", None, "the reference is empty")
    found = _repeats(response, reference) or find_answer(response, options)
    if found is None:
        return Grade("no_answer", None, "nothing reads as an answer")
    try:
        equal = _matches(found.answer, reference, options, deadline)
    except UndecidedError as error:
        return Grade("error", found.answer, str(error))
    return Grade("correct" if equal else "wrong", found.answer, found.how)


def extract_answer(response: str, *, options: Sequence[str] = ()) -> str | None:
    """The text of the final answer in a response, or None.

    Args:
        response: a model's text.
        options: texts of the choices, if there are any.
    """
    found = find_answer(response, options)
    return found.answer if found else None


def equal_answers(
    answer: str, reference: str, *, options: Sequence[str] = (), deadline_s: float = DEADLINE_S
) -> bool:
    """Whether two answers, without text around them, are equal.

    Args:
        answer: the answer to judge.
        reference: the answer to compare with. Not symmetric: some decimal references take what rounds to them (the
            rules are those of `_quantity.same_quantity`).
        options: texts of the choices, if there are any.
        deadline_s: seconds that the comparison may take.

    Raises:
        UndecidedError: if it was not decided by the deadline.
    """
    return _matches(answer, reference, options, time.monotonic() + _COMPARING * deadline_s)


def warm_up(timeout_s: float = 60.0) -> None:
    """Starts the process for symbolic comparisons, so that no call's deadline is spent on it.

    Raises:
        UndecidedError: if it cannot start.
    """
    WORKER.start(time.monotonic() + timeout_s)


def _repeats(response: str, reference: str) -> Extraction | None:
    """Whether a response is the reference itself, in any form."""
    if len(response) > MAX_ANSWER_CHARS or response.strip() != reference.strip():
        return None
    return Extraction(response.strip(), "whole")


def _stated(reference: str) -> str:
    r"""The answer of a reference that is a worked solution: its last box, or what follows `####`."""
    if _BOXED.search(reference):
        found = find_answer(reference)
        return found.answer if found else reference
    hashes = _HASHES.search(reference)
    return hashes[1] if hashes else reference


def _matches(answer: str, reference: str, options: Sequence[str], deadline: float) -> bool:
    reference = _stated(reference)
    if not options:
        chosen, wanted = read_choice(answer, ()), read_choice(reference, ())
        if wanted is not None and chosen is not None:
            return chosen == wanted and not _values_differ(answer, reference)
        return WORKER.decide(compare(answer, reference), deadline)
    wanted = option_named(reference, options)
    if wanted is None or len(wanted) != 1 or wanted == CONTRADICTION:
        if wanted is not None and wanted != CONTRADICTION and option_named(answer, options) == wanted:
            return True
        return WORKER.decide(compare(answer, reference), deadline)
    given = option_named(answer, options)
    if given is not None:
        return given == wanted
    (letter,) = wanted
    return WORKER.decide(compare(answer, options[LETTERS.index(letter)]), deadline)


def _values_differ(answer: str, reference: str) -> bool:
    """Whether two answers with the same letter have different numbers after it: `(B) 13` and `(B) 12`."""
    values = [read_quantity(_LABEL.sub("", bare_answer(text), count=1)) for text in (answer, reference)]
    return None not in values and compare(answer, reference) is False
