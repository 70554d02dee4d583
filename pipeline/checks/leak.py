"""The check `leak`: the variant does not contain the answer."""

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
"""The answer counts as stated if it is within this number of characters after "the answer is"."""


def check_leak(variant: Variant, problem: Problem) -> Finding:
    """Check that neither the text nor the hint of a variant reveals the answer.

    A hint must not contain the answer at all, in digits or words, as a fraction or as a percentage, unless it is the
    full solution. A text must not state it as the answer ("the answer is 5"), unless the original does. Other numbers
    in a text are left to the check `numbers`.
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
    """Return the texts that a hint must not contain: the answer; if it is a letter of an option, the option's text.

    A letter itself is not included, because any text may contain it.
    """
    if re.fullmatch("[A-Za-z]", problem.answer) and problem.options:
        index = ord(problem.answer.upper()) - ord("A")
        return problem.options[index : index + 1]
    return [] if re.fullmatch("[A-Za-z]", problem.answer) else [problem.answer]


def states(text: str, answer: str) -> bool:
    """Whether a text contains the answer: the same number in any notation, or the same words."""
    wanted = quantities(answer)
    if len(wanted) == 1 and not re.search(r"[A-Za-z]", re.sub(r"\\[a-z]+|[a-z]{2,}", "", answer, flags=re.I)):
        value = wanted[0].value
        return any(found.value == value and found.firm for found in quantities(text))
    return re.search(rf"(?<![\w.\\]){re.escape(answer.strip())}(?![\w]|[.,]\d)", text) is not None


def _tells(text: str, problem: Problem) -> bool:
    """Whether a text states the answer after words such as "the answer is"."""
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
