"""Read the reference answer of a row, also from a worked solution, and check that a response can match it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from diva_grpo.pipeline.grade import grade
from diva_grpo.pipeline.grade._extract import find_answer
from diva_grpo.pipeline.ingest.cells import RowError, cell_of, conversation_of, required, texts_of
from diva_grpo.schemas.mapping import AnswerFormat, ColumnMapping
from diva_grpo.schemas.records import Problem

# A long deadline: it is used once per problem, and a good problem must not be rejected because the machine is busy.
_DEADLINE_S = 30.0
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BOX = re.compile(r"\\f?boxed\s*\{")
_JOINED = re.compile(r"(?:[\s$,;.\\()]|and|or)*")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_SYMBOL = re.compile("[∅∞]")
# A text with more words than `_FEW_WORDS` and a full stop is a sentence and not an answer. A text with more words than
# `_LONG` is not an answer even without a full stop.
_FEW_WORDS = 4
_LONG = 12
# Values of `Extraction.how` for answers that the solution marks as its answer.
_NAMED = ("tag", "boxed", "hashes", "stated")
# Words that data sets use for a missing answer (NuminaMath: proof, notfound).
_NO_ANSWERS = set("proof|notfound|not found|see solution|n/a|nan|null|无|略|证明见解析".split("|"))


def read_answer(values: Mapping[str, object], mapping: ColumnMapping) -> tuple[list[str], str]:
    """Return the steps of the solution and the answer of a row.

    The steps are empty if the answer's column has no solution. A list of answers is joined by commas. A text that
    contains a box or `####` is read as a solution.

    Args:
        values: the row.
        mapping: names the column of the answer and its format.

    Raises:
        RowError: the row has no answer.
    """
    column = mapping.answer
    cell = cell_of(values, column)
    conversation = conversation_of(cell, column)
    if conversation and not conversation.reply:
        raise RowError(f"no answer: the conversation in the column {column!r} has no reply")
    if isinstance(cell, list) and cell and not conversation:
        cell = ", ".join(texts_of(cell, column))
    text = (
        conversation.reply
        if conversation
        else required({column: cell} if cell is not None else values, column, "no answer")
    )
    if text.strip(" .。").casefold() in _NO_ANSWERS:
        raise RowError(f"no answer: the column {column!r} says {text!r}")
    if mapping.answer_format == AnswerFormat.GSM8K:
        return split_gsm8k(text)
    if mapping.answer_format == AnswerFormat.SOLUTION:
        return split_solution(text)
    return _split_plain(text)


def _split_plain(text: str) -> tuple[list[str], str]:
    boxes = list(_BOX.finditer(text))
    if len(boxes) > 1 and _JOINED.fullmatch(_without_boxes(text)):
        return [], ", ".join(
            split_solution(part[: part.rfind("}") + 1])[1]
            for part in _split_at(text, [box.start() for box in boxes])
        )
    if not boxes and "####" not in text:
        return [], text
    steps, answer = split_solution(text)
    return (steps if _without_boxes(text).strip(" $.。") else []), answer


def _split_at(text: str, starts: Sequence[int]) -> list[str]:
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _without_boxes(text: str) -> str:
    """Return a text without its boxes and their content."""
    kept, depth, position = [], 0, 0
    for box in re.finditer(r"\\f?boxed\s*\{|[{}]", text):
        if depth == 0 and box.group() not in "{}":
            kept.append(text[position : box.start()])
        depth += 1 if box.group() != "}" and (depth or box.group() != "{") else -1 if depth else 0
        position = box.end() if depth == 0 and box.group() == "}" else position
    return "".join([*kept, text[position:]])


def split_solution(text: str) -> tuple[list[str], str]:
    r"""Split a worked solution or a reply into its steps (lines) and its final answer.

    >>> split_solution("We add.\nSo we get $\\boxed{\\frac{3}{4}}$.")
    (['We add.', 'So we get $\\boxed{\\frac{3}{4}}$.'], '\\frac{3}{4}')

    Raises:
        RowError: the solution does not state an answer.
    """
    if "####" in text and not _BOX.search(text):
        return split_gsm8k(text)
    found = find_answer(text)
    if found is None or found.how not in _NAMED:
        raise RowError("no answer: the solution has no box, no '####', and does not say what its answer is")
    thought, _, after = text.rpartition("</think>")
    return lines_of(after or thought), found.answer


def split_gsm8k(answer: str) -> tuple[list[str], str]:
    """Split a GSM8K answer (arXiv 2110.14168) into solution steps and final answer.

    Calculator annotations, and the thousands separators of the final answer, are removed:

    >>> split_gsm8k("48 / 2 = <<48/2=24>>24 clips\\nshe sold 24 thousand\\n#### 24,000")
    (['48 / 2 = 24 clips', 'she sold 24 thousand'], '24000')

    Raises:
        RowError: there is no `####`, or nothing after it.
    """
    solution, marker, final = answer.rpartition("####")
    if not marker:
        raise RowError("no answer: the solution has no '####'")
    final = _THOUSANDS.sub("", final.strip())
    if not final:
        raise RowError("no answer: nothing follows '####'")
    return lines_of(_CALCULATION.sub("", solution)), final


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that are not blank, without white space at both ends."""
    return [line for line in (line.strip() for line in text.splitlines()) if line]


def check_own_answer(problem: Problem) -> None:
    """Check that a response can match the reference answer. Otherwise no rollout could be rewarded.

    The grader grades a test response: a sentence with the reference answer in a box. If the reference answer is a
    sentence itself, the box contains only the value in it. The answer of a problem with options must name one or more
    of them.

    Raises:
        RowError: the grader does not accept the test response, or the answer names none of the options.
    """
    answer, options = problem.answer, problem.options
    if options and not _names_option(answer, options):
        raise RowError(
            f"the answer {answer!r} is none of the {len(options)} options: where it counts them, say from which "
            "number with --answer-index"
        )
    given, why = answer, ""
    if not options and _is_statement(answer):
        stated = find_answer(answer)
        given, why = stated.answer if stated else "", ": a statement that no response repeats"
    if not any(character.isalnum() for character in answer) and not _SYMBOL.search(answer):
        raise RowError(f"the grader does not accept the problem's own answer {answer!r}: it states nothing")
    graded = grade(f"So the answer is $\\boxed{{{given}}}$.", answer, options=options, deadline_s=_DEADLINE_S)
    if graded.outcome != "correct":
        why = f": {graded.how}" if graded.outcome == "error" else why
        raise RowError(f"the grader does not accept the problem's own answer {answer!r}{why}")


def _is_statement(answer: str) -> bool:
    """Whether an answer is a sentence or a longer text, so that it is an explanation and not an answer."""
    words = len(_WORD.findall(answer))
    return words > _LONG or (words > _FEW_WORDS and answer.rstrip("$ ").endswith((".", "!", "?")))


def _names_option(answer: str, options: Sequence[str]) -> bool:
    """Whether an answer is one or more letters of existing options, or the text of one."""
    letters = [chr(ord("A") + i) for i in range(len(options))]
    named = re.findall(r"[^\W\d_]+", answer)
    if named and re.fullmatch(r"(?:[A-Za-z]|[\s,;.:()、，和]|and)+", answer):
        spelled = [letter for name in named if name != "and" for letter in name]
        if all(letter.upper() in letters for letter in spelled) and len(set(spelled)) == len(spelled):
            return True
    return any(
        grade(f"\\boxed{{{letter}}}", answer, options=options, deadline_s=_DEADLINE_S).outcome == "correct"
        for letter in letters
    )
