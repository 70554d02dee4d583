"""Checks of a variant that need no model. Each returns a verdict with its reason; `verify` runs them.

The `answer` check, which asks a solver, stands in `verify`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from schemas.records import Kind, Problem, Variant

_PLACEHOLDER = re.compile(r"<image\d*>")
_PREAMBLE = re.compile(
    r"^\s*(sure|certainly|of course|here (is|are)|here's|reworded|rewritten|rewording|variant \d)\b", re.I
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `passed` is None where it could not decide."""

    passed: bool | None
    detail: str | None = None


PASSED = Finding(True)


def normalised(text: str) -> str:
    """Text for comparison: case, white space and punctuation at the ends do not count."""
    return " ".join(text.casefold().split()).strip(" .?!:;")


def check_format(variant: Variant, problem: Problem) -> Finding:
    """A text is there, of a sane length, without a preamble, with the original's image placeholders."""
    text = variant.text or ""
    if not text.strip() or any(not step.strip() for step in variant.hint):
        return Finding(False, "empty text")
    if _PREAMBLE.match(text) and not _PREAMBLE.match(problem.text):
        return Finding(False, f"preamble: {text[:40]!r}")
    if (
        variant.kind != Kind.THINK_STEP
        and not len(problem.text) / 4 <= len(text) <= 8 * len(problem.text) + 400
    ):
        return Finding(False, f"length {len(text)} against {len(problem.text)} of the original")
    wanted, found = (sorted(_PLACEHOLDER.findall(t)) for t in (problem.text, text))
    if wanted != found:
        return Finding(False, f"image placeholders {found}, the original has {wanted}")
    return PASSED


def _states(text: str, answer: str) -> bool:
    """Whether the answer stands in the text on its own: as that number, or as those words."""
    number = _NUMBER.fullmatch(answer.strip())
    if number:
        value = float(number.group().replace(",", ""))
        return any(float(found.replace(",", "")) == value for found in _NUMBER.findall(text))
    return re.search(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", text) is not None


def check_leak(variant: Variant, problem: Problem) -> Finding:
    """The answer is not given away: not by a hint short of the full solution, nor by a new text.

    A text may hold what the original holds already.
    """
    if variant.kind == Kind.THINK_STEP:
        if variant.hint_steps == variant.hint_total:
            return PASSED
        shown = "\n".join(variant.hint)
        answers = [problem.answer]
        if re.fullmatch("[A-Za-z]", problem.answer):
            # The letter of a choice stands in any text by chance; the value that it stands for does not.
            index = ord(problem.answer.upper()) - ord("A")
            answers = problem.options[index : index + 1]
        leaked = next((answer for answer in answers if _states(shown, answer)), None)
        return Finding(False, f"the hint states the answer {leaked!r}") if leaked else PASSED
    stated = rf"(?:\banswer\s*(?:is|=|:)|\\boxed\{{)\s*\$?{re.escape(problem.answer)}(?!\w|[.,]\d)"
    if re.search(stated, variant.text or "", re.I) and not re.search(stated, problem.text, re.I):
        return Finding(False, f"the text states the answer {problem.answer!r}")
    return PASSED


def check_duplicate(variant: Variant, problem: Problem, seen: Collection[str]) -> Finding:
    """A text is neither the original's nor a sibling's; a hint is not a sibling's.

    Args:
        variant: the variant.
        problem: its original.
        seen: `identity` of the siblings that were accepted before it.
    """
    if variant.kind != Kind.THINK_STEP and normalised(variant.text or "") == normalised(problem.text):
        return Finding(False, "copy of the original")
    return Finding(False, "copy of a sibling") if identity(variant) in seen else PASSED


def identity(variant: Variant) -> str:
    """What makes a variant the same as a sibling: its text and its hint."""
    return normalised(variant.text or "") + "\n" + "\n".join(map(normalised, variant.hint))
