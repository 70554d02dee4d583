"""Finding the final answer in a response: what is marked as one first, then what stands last."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from diva_grpo.pipeline.grade._answer_text import undress
from diva_grpo.pipeline.grade._compare import MAX_ANSWER_CHARS, is_prose
from diva_grpo.pipeline.grade._quantity import read_quantity

# Marks are looked for in so many characters around the last of their kind, so that time stays linear in the
# response's length; unmarked answers only stand at the end.
_WINDOW = 50_000
_END = 4_000
_STATEMENT = 600
_WHOLE_CHARS = 200
_FEW_WORDS = 8
_MAX_MARKS = 100

_BOX_OR_BRACE = re.compile(r"\\(?P<box>boxed|fbox)\s*\{|\\[{}\\]|[{}]")
_HASHES = re.compile(r"^[ \t]*#{4}(?!#)[ \t]*(?P<value>\S[^\n]*)", re.MULTILINE)
_HEADING = re.compile(
    r"(?:step|case|part|method|solution|explanation|conclusion|summary|answer)\b", re.IGNORECASE
)
_STATED = re.compile(
    r"""
    (?:\b(?P<noun>answers?|choice|option)\b
        (?:\s{1,3}(?:to|for|of)\b[^.\n:=]{0,80}?)?
        [*_\s]{0,9}
        (?:\b(?:is|are|was|equals|(?:would|should|must|will)\s+be)\b[*_\s]{0,9}:?|[:=]|-\s)
      | ^[*_ \t]{0,9}A:)
    [*_:\s]{0,20}(?P<value>[^*_:\s])
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_CHOICE_LINE = re.compile(r"^[*_ \t]{0,9}B[:.)]", re.MULTILINE)
_LETTER_IS_RIGHT = re.compile(
    r"(?:\b(?:option|choice|answer)\s+)?(?<![A-Za-z])(?P<value>\(?[A-J]\)?)[*\s]+is\s+(?:the\s+)?(?:correct|right)\b"
)
_LEADING_LETTER = re.compile(r"\(?[A-J]\)(?=[*_.:,]*(?:\s|$))|[A-J](?=[*_.:,]*(?:\s|$))(?!\s+[a-z])")
_NAMED_LETTER = re.compile(r"\(\s*([A-J])\s*\)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+\(?([A-J])\b")
_BARE_LETTER = re.compile(r"(?<![A-Za-z\\{$'’])([A-J])(?![A-Za-z'’(_^}$]|\s*[-+*/=]|\s+[a-z])")
_ENDING_LETTER = re.compile(r"(?<![A-Za-z\\{$'’])[A-J][.!*\s]*$")
_MATHS = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\$([^$\n]+)\$|\\\((.+?)\\\)", re.DOTALL)
_RANGE = re.compile(r"\bbetween\b|\d\s(?:or|to)\s\d")
_JOINT = re.compile(r"\s*(?:,|,?\s*(?:and|or))\s*(?=\$|\\\(|\\\[)")
_VALUE = re.compile(r"\d|[-+*/^=]|\\(?:pi|sqrt|frac|infty)")
_PLAIN_WORD = re.compile(r"(?<![A-Za-z\\])(?!(?:and|or|sin|cos|tan|log|ln|pi)\b)[A-Za-z]{2,}")
_DANGLING = re.compile(r"[-+*/=,(]\s*$")
_NUMERAL = re.compile(
    r"""
    (?:(?<![\w.)}\]])-\s?)?[$€£¥]?(?<![\d.^_])(?<!\^\{)
    (?:\d+[ ]\d+/\d+|\d+/\d+(?![\d/])|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
    (?:[eE][-+]?\d+)?(?:\s?%)?
    """,
    re.VERBOSE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_CLAUSE_END = re.compile(r",?\s(?:because|since|which|so|as|where|when|if|for|after)\s|\s\((?![A-J]\))|;\s")


class Extraction(NamedTuple):
    """An answer, as it stands in the response, and how it was found."""

    answer: str
    how: str


def find_answer(response: str, options: Sequence[str] = ()) -> Extraction | None:
    """Finds the final answer: tag, box, hashes or statement, option letter, last formula or number.

    Args:
        response: any text; time and memory are linear in its length.
        options: texts of the choices, if the problem has any; letters count as answers only then.

    Returns:
        None where nothing reads as an answer. What stands after a closing `</think>` goes first.
    """
    thought, mark, after = response.rpartition("</think>")
    found = _find(after, options)
    return found if found or not mark else _find(thought, options)


def _find(text: str, options: Sequence[str]) -> Extraction | None:
    tagged = _tagged(text)
    if tagged is not None:
        inside = _find(tagged, options)
        return Extraction(inside.answer if inside else tagged, "tag")
    boxed = _last_box(text)
    if boxed is not None:
        return Extraction(boxed, "boxed")
    marked = _last_mark(text[-2 * _WINDOW :], options)
    if marked:
        return marked
    text = text.strip()
    if _is_bare_answer(text):
        return Extraction(text, "whole")
    end = text[-_END:]
    if options:
        chosen = _chosen_option(end, options)
        if chosen:
            return chosen
    value = _last_value(end)
    if value or len(text) > _WHOLE_CHARS or len(text.split()) > _FEW_WORDS:
        return value
    return Extraction(text, "whole") if any(sign.isalnum() for sign in undress(text)) else None


def _tagged(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end if end >= 0 else len(text))
    if start < 0:
        return None
    inside = text[start + len("<answer>") : end if end > start else len(text)].strip()
    return inside or None


def _last_box(text: str) -> str | None:
    r"""What the last complete `\boxed{...}` that is not empty holds, with the braces in it balanced."""
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if last < 0:
        return None
    window = text[max(last - _WINDOW, 0) : last + _WINDOW]
    opened: list[tuple[bool, int]] = []
    content: str | None = None
    for token in _BOX_OR_BRACE.finditer(window):
        if token.group().endswith("{") and (token["box"] or token.group() == "{"):
            opened.append((token["box"] is not None, token.end()))
        elif token.group() == "}" and opened:
            is_box, start = opened.pop()
            inside = window[start : token.start()].strip()
            if is_box and any(sign.isalnum() for sign in inside):
                content = inside
    return content


def _last_mark(text: str, options: Sequence[str]) -> Extraction | None:
    """The last of "#### x", "A: x", "the answer is x" and "B is correct"."""
    patterns = (_HASHES, _STATED, _LETTER_IS_RIGHT) if options else (_HASHES, _STATED)
    marks = sorted((m for pattern in patterns for m in pattern.finditer(text)), key=lambda m: m.start())
    for mark in reversed(marks[-_MAX_MARKS:]):
        if mark.re is _HASHES:
            found, how = _after_hashes(mark), "hashes"
        elif mark.re is _STATED:
            found, how = _after_statement(mark, bool(options)), "stated"
        else:
            found, how = mark["value"], "option_letter"
        if found:
            return Extraction(found, how)
    return None


def _after_hashes(mark: re.Match[str]) -> str | None:
    """The answer behind four hashes, which may also begin a heading."""
    value = mark["value"].strip("*_ \t#")
    is_last = not mark.string[mark.end() :].strip()
    return value if is_last or not (is_prose(value) or _HEADING.match(value)) else None


def _after_statement(mark: re.Match[str], with_options: bool) -> str | None:
    text, at = mark.string, mark.start("value")
    if mark["noun"] is None:
        if with_options or _CHOICE_LINE.search(text, mark.end(), mark.end() + _STATEMENT):
            return None  # `A:` begins a list of choices
    elif not with_options and not mark["noun"].casefold().startswith("answer"):
        letter = _LEADING_LETTER.match(text, at)
        return letter.group() if letter else None  # "the best option is to wait"
    return _narrow(text[at : at + _STATEMENT], with_options)


def _narrow(statement: str, with_options: bool) -> str | None:
    """The answer at the start of what follows "the answer is"."""
    formulas = _leading_formulas(statement)
    if formulas:
        return formulas
    if with_options and (label := _LEADING_LETTER.match(statement)):
        return label.group()
    phrase = statement
    for boundary in (_SENTENCE_END, _CLAUSE_END):
        stop = boundary.search(phrase)
        phrase = phrase[: stop.start()] if stop else phrase
    phrase = phrase.strip(" *_\t")
    if not any(sign.isalnum() for sign in phrase):
        return None
    plain = undress(phrase)
    if read_quantity(plain) or not is_prose(plain):
        return phrase
    if _RANGE.search(phrase):
        return phrase
    leading = _NUMERAL.match(phrase)
    if leading and "=" not in phrase:
        return leading.group()
    inner = _last_value(phrase)
    return inner.answer if inner else phrase


def _leading_formulas(statement: str) -> str | None:
    r"""Formulas in delimiters that a statement begins with: `$3$`, `\(x = 1\) or \(x = 2\)`."""
    parts: list[str] = []
    at = 0
    while True:
        formula = _MATHS.match(statement, at)
        if not formula or statement[formula.end() : formula.end() + 1].isdigit():  # $5 and $6 are prices
            break
        parts.append(_content(formula))
        joint = _JOINT.match(statement, formula.end())
        if not joint:
            break
        at = joint.end()
    return ", ".join(parts) or None


def _is_bare_answer(text: str) -> bool:
    """Whether a response is an answer and no more: `5 cm`, `x^2 + 1`, `(1, 2]`, `B`."""
    if not text or len(text) > _WHOLE_CHARS or "\n" in text:
        return False
    plain = undress(text)
    if not any(sign.isalnum() for sign in plain):
        return False
    return read_quantity(plain) is not None or len(_PLAIN_WORD.findall(plain)) <= (" " not in plain)


def _chosen_option(text: str, options: Sequence[str]) -> Extraction | None:
    """The option that the text ends with, by its letter or, in the last sentence, by its words."""
    letters = "ABCDEFGHIJ"[: len(options)]
    named = [m[1] or m[2] for m in _NAMED_LETTER.finditer(text)]
    if named and named[-1] in letters:
        return Extraction(named[-1], "option_letter")
    sentences = [s for s in re.split(r"(?<=[.!?])\s|\n", text) if s.strip()]
    last = undress(sentences[-1]).casefold() if sentences else ""
    stated = [option for option in options if _ends_with_option(last, undress(option).casefold())]
    longest = max(stated, key=len, default="")
    if stated and all(undress(option) in undress(longest) for option in stated):
        return Extraction(longest, "option_text")
    if not all(undress(option).strip("( )") in letters for option in options):
        # Capitals may be points of a figure: only one that ends the text, without a number beside it, is a choice.
        sentences = [s for s in sentences[-1:] if _ENDING_LETTER.search(s) and not re.search(r"\d", s)]
    for sentence in reversed(sentences):
        bare = [m[1] for m in _BARE_LETTER.finditer(sentence) if m[1] in letters]
        if bare:
            return Extraction(bare[-1], "option_letter")
    return None


def _ends_with_option(sentence: str, option: str) -> bool:
    """Whether a sentence mentions an option in words, or ends with one that is a value."""
    end = "" if is_prose(option) else "$"
    return bool(option) and re.search(rf"(?<![\w.,]){re.escape(option)}(?!\w){end}", sentence) is not None


def _last_value(text: str) -> Extraction | None:
    """The formula or number that ends last; of an equation its right side."""
    numbers = list(_NUMERAL.finditer(text))
    formulas = [m for m in _MATHS.finditer(text) if _is_formula(m)]
    if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
        return Extraction(_right_side(_content(formulas[-1])), "last_formula")
    return Extraction(numbers[-1].group().strip(), "last_number") if numbers else None


def _is_formula(match: re.Match[str]) -> bool:
    """Whether what stands between two delimiters is a value, not the words between two prices."""
    content = _content(match)
    return (
        len(content) <= MAX_ANSWER_CHARS
        and _VALUE.search(content) is not None
        and not match.string[match.end() : match.end() + 1].isdigit()
        and not _DANGLING.search(content)
        and not is_prose(undress(_right_side(content)))
    )


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def _right_side(formula: str) -> str:
    return re.split(r"(?<![<>!])=|\\approx", formula)[-1].strip()
