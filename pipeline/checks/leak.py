"""The check `leak`: the variant does not give the answer away."""

from __future__ import annotations

import re

from diva_grpo.pipeline.checks.finding import PASSED, Finding, failed
from diva_grpo.pipeline.checks.steps import unlabelled
from diva_grpo.pipeline.quantities.texts import quantities
from diva_grpo.schemas.records import Kind, Problem, Variant

_STATEMENT = re.compile(
    r"(?:\b(?:answer|result|solution)\s*(?:is|=|:|equals|comes\s+to|would\s+be)"
    r"|\\boxed\s*\{|\bit\s+comes\s+to\b)\s*(?:exactly|just|simply)?\s*[:$(\s*]*",
    re.IGNORECASE,
)
_LETTER = re.compile("[A-J]")
_CHOSEN = (
    r"\b(?i:answer|options?|choice|choose|pick|select|figure|picture)\b[^.\n]{{0,15}}?(?<![\w\\])\(?{0}\)?(?![\w'’])"
    r"|\({0}\) is\b|\\boxed\{{\s*(?:\\text\{{)?\(?{0}\b"
)
_STATED = 60
"""Within this many characters after "the answer is", the answer counts as stated."""


def check_leak(variant: Variant, problem: Problem) -> Finding:
    """Neither a new text nor a hint (unless it is the full solution) gives the answer away.

    A hint must not contain the answer at all, in digits, as a word, as a fraction or as a percentage. A text must not
    state it as the answer. What the original contains is allowed. Numbers that only occur in a text are left to the
    check `numbers`.
    """
    if variant.kind == Kind.THINK_STEP:
        if variant.hint_steps == variant.hint_total:
            return PASSED
        shown = "\n".join(map(unlabelled, variant.hint))
        if _LETTER.fullmatch(problem.answer) and re.search(_CHOSEN.format(problem.answer), shown):
            return failed(f"the hint names the choice {problem.answer!r}")
        leaked = next((answer for answer in _forms(problem) if states(shown, answer)), None)
        return failed(f"the hint states the answer {leaked!r}") if leaked else PASSED
    if _tells(variant.text or "", problem) and not _tells(problem.text, problem):
        return failed(f"the text states the answer {problem.answer!r}")
    return PASSED


def _forms(problem: Problem) -> list[str]:
    """The answer that a hint must not contain: for a choice, its value and not its letter.

    Any text may contain the letter of a choice, but not its value.
    """
    if re.fullmatch("[A-Za-z]", problem.answer) and problem.options:
        index = ord(problem.answer.upper()) - ord("A")
        return problem.options[index : index + 1]
    return [] if re.fullmatch("[A-Za-z]", problem.answer) else [problem.answer]


def states(text: str, answer: str) -> bool:
    """Whether the text contains the answer: as the same number in any notation, or as the same words."""
    wanted = quantities(answer)
    if len(wanted) == 1 and not re.search(r"[A-Za-z]", re.sub(r"\\[a-z]+|[a-z]{2,}", "", answer, flags=re.I)):
        value = wanted[0].value
        return any(found.value == value and found.firm for found in quantities(text))
    return re.search(rf"(?<![\w.\\]){re.escape(answer.strip())}(?![\w]|[.,]\d)", text) is not None


def _tells(text: str, problem: Problem) -> bool:
    """Whether a text states the answer, as by "the answer is"."""
    for statement in _STATEMENT.finditer(text):
        said = re.split(
            r"[.?!](?:\s|$)|[\n})]", text[statement.end() : statement.end() + _STATED], maxsplit=1
        )[0]
        plain = re.match(rf"{re.escape(problem.answer)}(?!\w|[.,]\d)", said, re.IGNORECASE)
        numbers = quantities(said)
        wanted = quantities(problem.answer)
        if plain or (len(wanted) == 1 and numbers[:1] and numbers[0].value == wanted[0].value):
            return True
    return False
