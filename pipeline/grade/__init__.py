r"""Grade a response against a reference answer. Every call returns within its deadline.

    >>> grade(r"Therefore the side is \boxed{\frac{1}{2}} cm.", "0.5")
    Grade(outcome='correct', answer='\\frac{1}{2}', how='boxed')
    >>> grade("The correct answer is (B).", "12 cm", options=["10 cm", "12 cm"]).outcome
    'correct'

Most answers are decided by comparing texts and exact fractions. The others are compared by SymPy and math-verify in
a separate process (`diva_grpo.pipeline.grade._symbolic`). This process does not import SymPy, and no answer can block
or crash it.
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
# A comparison is stopped after this share of the deadline. The rest of the time is for returning to the caller.
_COMPARING = 0.95
_BOXED = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_LABEL = re.compile(r"^\(?\s*[A-J]\s*[).:]\s*")
_HASHES = re.compile(r"(?:^|\n)\s*#{4}\s*(\S[^\n]*)\s*$")


@dataclass(frozen=True, slots=True)
class Grade:
    """The result of grading one response.

    Attributes:
        outcome: `correct`; `wrong`; `no_answer` if the response contains no answer; `error` if the grader could not
            decide (the response may be right or wrong).
        answer: the text of the answer in the response, or None if no answer was found.
        how: how the answer was found (tag, boxed, hashes, stated, option_letter, option_text, last_formula,
            last_number, whole). For `no_answer` and `error`: the reason.
    """

    outcome: Literal["correct", "wrong", "no_answer", "error"]
    answer: str | None
    how: str

    @property
    def score(self) -> float | None:
        """Accuracy: 1 for `correct`, 0 for `wrong` and `no_answer`. None for `error`: do not score this response."""
        return None if self.outcome == "error" else float(self.outcome == "correct")


def grade(
    response: str, reference: str, *, options: Sequence[str] = (), deadline_s: float = DEADLINE_S
) -> Grade:
    """Grade one response. It can be called from any thread, and in a process that has a model in memory.

    Args:
        response: a model's text, of any length.
        reference: the right answer: a value or, if there are `options`, a letter or the text of an option.
        options: texts of the choices A, B, C, ... in order. The response may give the letter or the text.
        deadline_s: the call returns within this number of seconds. If it has not decided by then, the outcome is
            `error`. The first call that needs computer algebra also starts the process for it. That takes about one
            second, which is added to the deadline (see `warm_up`).

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
    """Return the text of the final answer in a response, or None if it contains no answer.

    Args:
        response: a model's text.
        options: texts of the choices; empty for an open question.
    """
    found = find_answer(response, options)
    return found.answer if found else None


def equal_answers(
    answer: str, reference: str, *, options: Sequence[str] = (), deadline_s: float = DEADLINE_S
) -> bool:
    """Whether two answers are equal. Both are given without surrounding text.

    The comparison is not symmetric: a decimal reference also matches some answers that round to it (see
    `_quantity.same_quantity`).

    Args:
        answer: the answer to judge.
        reference: the answer that is known to be right.
        options: texts of the choices; empty for an open question.
        deadline_s: longest time for the comparison, in seconds.

    Raises:
        UndecidedError: the comparison was not decided by the deadline.
    """
    return _matches(answer, reference, options, time.monotonic() + _COMPARING * deadline_s)


def warm_up(timeout_s: float = 60.0) -> None:
    """Start the process for computer algebra and wait until it is ready, so that no later call has to wait for it.

    Args:
        timeout_s: longest time to wait, in seconds.

    Raises:
        UndecidedError: the process did not start, or was not ready in time.
    """
    WORKER.start(time.monotonic() + timeout_s)


def _repeats(response: str, reference: str) -> Extraction | None:
    """Return the response as the answer if it is the same text as the reference, else None."""
    if len(response) > MAX_ANSWER_CHARS or response.strip() != reference.strip():
        return None
    return Extraction(response.strip(), "whole")


def _stated(reference: str) -> str:
    r"""Return the answer in a reference that is a worked solution: its last box, or the text after `####`.

    A reference without a box and without `####` is returned unchanged.
    """
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
    """Whether two answers have different numbers after their option letters, such as `(B) 13` and `(B) 12`."""
    values = [read_quantity(_LABEL.sub("", bare_answer(text), count=1)) for text in (answer, reference)]
    return None not in values and compare(answer, reference) is False
