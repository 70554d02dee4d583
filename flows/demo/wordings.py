"""Rewordings and harder texts of a problem by template, without a language model.

The scripted teacher answers with these texts, and the demo's model was pretrained on them
(``data/scripts/make_demo_model.py``). A run without a network therefore takes the same path as one with a real teacher.
A template can neither change a number nor remove an image, so every text here has the original's answer.

    >>> rewordings("What is 12 + 34 - 5?")[1]
    'Calculate 12 + 34 - 5.'
"""

import re
from typing import NamedTuple
from zlib import crc32

from diva_grpo.schemas.question import PLACEHOLDER
from diva_grpo.schemas.records import Aspect

ARITHMETIC_FRAMES = (
    "What is the value of {expression}?",
    "Calculate {expression}.",
    "Work out {expression}.",
    "Find the value of {expression}.",
    "What number does {expression} give?",
    "Compute {expression}.",
)
"""Ways to ask for the value of an expression. Five are used; the sixth replaces one that the original already uses."""

ARITHMETIC_STORIES = (
    "Noor keeps the books of a village shop. Tonight the page reads {expression}, and she writes the result "
    "below it. Which number does she write?",
    "A conductor notes who gets on and who gets off along the line: {expression}. "
    "Which number closes the note?",
    "In an old diary Tom finds the line {expression}, but the result is torn off. Which number stood there?",
)

IRRELEVANT_FACTS = (
    "The clock on the wall was made in 1987.",
    "The nearest library is 460 metres away.",
    "This notebook has 196 pages.",
    "Last month it rained on 11 days.",
)

_ABSTRACT = (
    "Denote by x the quantity that is asked for in this statement: {text} Determine x.",
    "Let Q be the value that satisfies all conditions of the following. {text} State Q.",
)

_SUB_QUESTIONS = (
    "First say which facts the following states and which of them the answer needs; then, by means of these, "
    "answer it. {text}",
    "Name the first step towards an answer to what follows, carry it out, and then go on to the answer. {text}",
)

_STORIES = (
    "On a long train ride Noor's grandfather sets her puzzles to pass the time, and this one lasts "
    "until the final stop. {text}",
    "The storm has put out the lights in the village, so the neighbours sit around a candle and one of them "
    "reads from a worn book of riddles. {text}",
    "Tom finds a letter between two boards in the attic. Whoever wrote it left no name, only this. {text}",
)


class _Template(NamedTuple):
    """A wording of a whole problem, and the conditions under which it applies.

    Attributes:
        wording: the template, with the fields ``text``, ``body`` and ``question``.
        needs_body: whether the problem must have text before its question.
        moves_question: whether the template moves the question to another place, which is not possible if the question
            has an image placeholder.
    """

    wording: str
    needs_body: bool = False
    moves_question: bool = False


_TEMPLATES = (
    _Template("Question: {question} Known facts: {body}", needs_body=True, moves_question=True),
    _Template("Read the situation and then solve it. {text}"),
    _Template("A student was asked this: {text}"),
    _Template("Known facts: {body} What has to be found: {question}", needs_body=True),
    _Template("{question} To answer, use what follows. {body}", needs_body=True, moves_question=True),
    _Template("Solve the following problem. {text}"),
    _Template("Use the information given to find the answer. {text}"),
    _Template("The problem to solve is this: {text}"),
)

# A line break also ends a sentence, since problems put images and options on separate lines.
_BOUNDARY = re.compile(r"[.!?][\"'”’)\]]*\s+|\s*\n\s*")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|No|Fig|vs|approx|e\.g|i\.e|a\.m|p\.m)|\b[A-Z])\.\s+\Z")
_ARITHMETIC = re.compile(
    r"(?:what is|what's|what is the value of|compute|calculate|evaluate|work out|find|find the value of"
    r"|what number does|state the final answer to the following arithmetic problem:)?\s*"
    r"(?P<expression>[-(]*\d[\d\s+\-−*/×÷().]*[\d)])\s*(?:give)?\s*=?\s*[.?]?",
    re.IGNORECASE,
)
_OPERATION = re.compile(r"[\d)]\s*[+\-−*/×÷]\s*[-(]*\d")


def rewordings(text: str) -> list[str]:
    """Return five rewordings of a problem that ask for the same answer.

    A problem of bare arithmetic ("What is 12 + 34 - 5?") is put in other words. For any other problem, the question
    is moved, or an introduction is added. A question with an image placeholder is never moved, because the order of
    placeholders determines which image each one means.

    Args:
        text: The problem's text, with image placeholders such as ``<image>`` or ``<image1>`` in place.

    Returns:
        Five texts that differ from each other and from ``text``. Each has exactly the numbers and placeholders of
        ``text``. Every call returns the same five.

    Raises:
        ValueError: If ``text`` is blank.
    """
    text = _stripped(text)
    expression = _arithmetic_expression(text)
    if expression is not None:
        wordings = [frame.format(expression=expression) for frame in ARITHMETIC_FRAMES]
    else:
        body, question = split_question(text)
        has_body = bool(PLACEHOLDER.sub("", body).strip())
        may_move = has_body and not PLACEHOLDER.search(question)
        wordings = [
            template.wording.format(text=text, body=body, question=question)
            for template in _TEMPLATES
            if (has_body or not template.needs_body) and (may_move or not template.moves_question)
        ]
    return [wording for wording in dict.fromkeys(wordings) if wording != text][:5]


def harder(text: str) -> list[str]:
    """Return two harder texts of a problem: one with an irrelevant fact, one set in a story.

    Args:
        text: The problem's text, with image placeholders in place.

    Returns:
        Two texts with the answer of ``text``, which differ from each other and from ``text``. The first has one number
        more than ``text``, the second has the same numbers. Every call returns the same two.

    Raises:
        ValueError: If ``text`` is blank.
    """
    return [harder_in(text, Aspect.IRRELEVANT), harder_in(text, Aspect.STORY)]


def harder_in(text: str, aspect: Aspect) -> str:
    """Return a text that is harder in one aspect and has the answer of ``text``. Every call returns the same text.

    Args:
        text: The problem's text, with image placeholders in place.
        aspect: What makes the text harder.

    Raises:
        ValueError: If ``text`` is blank.
    """
    text = _stripped(text)
    if aspect == Aspect.IRRELEVANT:
        body, question = split_question(text)
        fact = _choice(IRRELEVANT_FACTS, text)
        return f"{body} {fact} {question}" if body else f"{fact} {question}"
    expression = _arithmetic_expression(text)
    if aspect == Aspect.STORY and expression is not None:
        return _choice(ARITHMETIC_STORIES, text).format(expression=expression)
    frames = {Aspect.STORY: _STORIES, Aspect.ABSTRACT: _ABSTRACT, Aspect.SUB_QUESTION: _SUB_QUESTIONS}
    return _choice(frames[aspect], text).format(text=text)


def split_question(text: str) -> tuple[str, str]:
    """Split a problem into its facts and its question.

    The question is the last sentence with a question mark and everything after it, such as answer options. Without a
    question mark, the question is the last sentence.

    Args:
        text: The problem's text.

    Returns:
        ``(body, question)``; the body is empty if the problem is a single sentence.
    """
    text = text.strip()
    boundaries = _BOUNDARY.finditer(text)
    starts = [
        0,
        *(b.end() for b in boundaries if not _ABBREVIATION.search(text, max(0, b.start() - 8), b.end())),
    ]
    ends = [*starts[1:], len(text)]
    asking = [start for start, end in zip(starts, ends, strict=True) if "?" in text[start:end]]
    start = asking[-1] if asking else starts[-1]
    return text[:start].rstrip(), text[start:]


def _arithmetic_expression(text: str) -> str | None:
    """Return the expression of a problem of bare arithmetic; None for any other problem."""
    match = _ARITHMETIC.fullmatch(text)
    if match is None or not _OPERATION.search(match["expression"]):
        return None
    return match["expression"]


def _choice(options: tuple[str, ...], text: str) -> str:
    """Choose an option by a hash of the text, so that the choice is the same in every process."""
    return options[crc32(text.encode("utf-8", "surrogatepass")) % len(options)]


def _stripped(text: str) -> str:
    stripped = text.strip()
    if not stripped:
        raise ValueError("a blank text cannot be reworded")
    return stripped
