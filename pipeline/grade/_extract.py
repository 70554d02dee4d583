"""Find the final answer in a response: an answer that is marked as such if there is one, else the last value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from diva_grpo.pipeline.grade._answer_text import WIDTHS, bare_answer
from diva_grpo.pipeline.grade._choices import CONTRADICTION, read_choice
from diva_grpo.pipeline.grade._compare import MAX_ANSWER_CHARS
from diva_grpo.pipeline.grade._context import (
    denied_before,
    denied_beside,
    is_chinese,
    letters_before,
    taken_back_after,
    widened,
)
from diva_grpo.pipeline.grade._quantity import read_quantity
from diva_grpo.pipeline.grade._words import hedges, is_prose

# Boxes are searched within this number of characters around the last one, so that the time is linear in the length of
# the response. Answers without a mark are searched only in the last `_END` characters.
_WINDOW = 50_000
_END = 4_000
_STATEMENT = 600
_WHOLE_CHARS = 200
_FEW_WORDS = 8
_MAX_MARKS = 100
_MAX_BOXES = 20
_THINKING = re.compile(r"<think(?:ing)?>")

_BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)(?:\s+|(?=[\d\\-]))(?P<value>-?\\[dt]?frac\s*(?:\{[^{}]*\}|\w)\s*(?:\{[^{}]*\}|\w)"
    r"|-?\\sqrt\s*(?:\{[^{}]*\}|\w)|-?\d(?:[\d.,/]*\d)?|[A-Za-z]+)"
)
_BETWEEN_BOXES = re.compile(
    r"[\s$\\()\[\]]*(?:\\text\s*\{\s*)?(?P<joint>,?\s*(?:or|and)\b|,|/|;|或者?|和|)(?:\s*\})?[\s$\\()\[\]]*"
)
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
_STATED_CHINESE = re.compile(
    r"(?:\[?(?:参考|正确|最终|最后)?(?:答案|结果)\]?|(?:故|应|因此|所以)选择?|故答案"
    r"|(?<![不非])选[项择]?(?=\s*\(?[A-J])|(?:^|\n)[*_ ]*答)[*_\s]*"
    r"(?:应该?|应当|就)?(?:[是为选:=]|等于|(?<=\])|(?<=选)|(?<=选[项择]))[*_:\s选]*(?P<value>[^*_:\s])",
)
_RUN_ON = re.compile(r"^[ \t]*(?:Question|Problem|Q|问题|题目)[ \t]*\d*[ \t]*:", re.MULTILINE)
_CONCLUSION = re.compile(
    r",?\s*(?:so|hence|thus|therefore),?\s+(?:it|the\s+answer)\s+(?:is|must\s+be)\s+(?P<value>[^\s.!?]+)(?=[.!?\s]*$)",
    re.MULTILINE,
)
_CHOICE_LINE = re.compile(r"^[*_ \t]{0,9}B[:.)]", re.MULTILINE)
_LETTER_IS_RIGHT = re.compile(
    r"(?:\b(?:option|choice|answer)\s+)?(?<![A-Za-z])(?P<value>\(?[A-J]\)?)[*\s]+is\s+(?:the\s+)?(?:correct|right)\b"
)
_LEADING_LETTER = re.compile(r"\(?[A-J]\)(?=[*_.:,]*(?:\s|$))|[A-J](?=[*_.:,]*(?:\s|$))(?!\s+[a-z])")
_LEADING_LETTERS = re.compile(
    rf"(?:{_LEADING_LETTER.pattern})(?:\s*(?:,\s*(?:and|or)\b|,|/|&|\band\b|\bor\b|或|和|)\s*(?:\([A-J]\)|[A-J]\b(?!\s+[a-z])))*"
)
_AFTER_LABEL = re.compile(r"[).:*_]*[ \t]*(?P<text>(?:\d+\.\d+|[^.\n])+)")
_LABEL_LINE = re.compile(r"[*_ ]*\(?[A-J][).:][*_]*\s+\S.*")
_NAMED_LETTER = re.compile(r"\(\s*([A-J])\s*\)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+\(?([A-J])\b")
_BARE_LETTER = re.compile(r"(?<![A-Za-z\\{$'’])([A-J])(?![A-Za-z'’(_^}$]|\s*[-+*/=]|\s+[a-z])")
_ENDING_LETTER = re.compile(r"(?<![A-Za-z\\{$'’])[A-J][.!*\s]*$")
_MATHS = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\$([^$\n]+)\$|\\\((.+?)\\\)", re.DOTALL)
_RANGE = re.compile(r"\bbetween\b|\d\s(?:or|to)\s\d")
_JOINT = re.compile(r"\s*(?:,|,?\s*(?:and|or))\s*(?=\$|\\\(|\\\[)")
_VALUE = re.compile(r"\d|[-+*/^=]|\\(?:pi|sqrt|frac|infty)")
_PLAIN_WORD = re.compile(r"(?<![A-Za-z\\])(?!(?:and|or|sin|cos|tan|log|ln|pi)\b)[A-Za-z]{2,}")
_ENVIRONMENT_NAME = re.compile(r"\\(?:begin|end)\s*\{[a-zA-Z]+\*?\}(?:\{[lcr|]+\})?")
_DANGLING = re.compile(r"[-+*/=,(]\s*$")
_NUMERAL = re.compile(
    r"""
    (?:(?<![\w.)}\]])-\s?)?[$€£¥]?(?<![\d.^_])(?<!\^\{)
    (?:\d+[ ]\d+/\d+|\d+/\d+(?![\d/])|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
    (?:[eE][-+]?\d+)?(?:\s?%)?
    """,
    re.VERBOSE,
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|!(?=\s*$|\s+[A-Z])|\n")
_CALCULATED = re.compile(
    r"""
    (?: \d[\d.,]* \s* [-+*/×÷·] \s* \d
      | \b(?:plus|minus|times|(?:divided|multiplied)\s+by|(?:more|less|fewer)\s+than) \s+ \d
      | (?: % | \b(?:percent|half|third|quarter)) \s+ of \s+ (?:(?:the|these|those) \s+)? \d )
    [^?=]*? \b(?:is|are|equals?|makes?|gives?|leaves?) \s+ (?:equal\s+to\s+)? (?P<value>[^?]+)$
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r",?\s(?:because|since|which|so|as|where|when|if|for|after)\s|\s\((?![A-J]\))|;\s(?=[A-Za-z]{2})"
)


class Extraction(NamedTuple):
    """The text of the answer in a response, and how it was found (see `Grade.how`)."""

    answer: str
    how: str


def find_answer(response: str, options: Sequence[str] = ()) -> Extraction | None:
    """Find the final answer in a response.

    It is searched in this order: a tag, a box, hashes or a statement, an option's letter or text, the last formula or
    number. The text after the last `</think>` is searched first, then the text before it.

    Args:
        response: any text. Time and memory are linear in its length.
        options: texts of the choices; empty for an open question. Letters in a text are read as choices only if there
            are options.

    Returns:
        The answer; None if none is found, or if a `<think>` is not closed.
    """
    thought, mark, after = response.rpartition("</think>")
    if _THINKING.search(after):
        return None
    found = _find(after, options)
    return found if found or not mark else _find(thought, options)


def _find(text: str, options: Sequence[str]) -> Extraction | None:
    if not text.isascii():
        text = text[-20 * _WINDOW :].translate(WIDTHS)
    tagged = _tagged(text)
    if tagged is not None:
        inside = _find(tagged, options)
        # The answer in a tag is its whole text if that is short: in `6 versus 5`, the last number is not the answer.
        whole = inside is None or (
            inside.how in ("last_number", "last_formula") and len(tagged) <= _WHOLE_CHARS
        )
        return Extraction(tagged if inside is None or whole else inside.answer, "tag")
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
    result = _calculated(end)
    if result:
        return Extraction(result, "stated")
    if _is_short_and_hedged(text):
        return Extraction(text, "whole")
    value = _last_value(end)
    if value or len(text) > _WHOLE_CHARS or len(text.split()) > _FEW_WORDS:
        return value
    return Extraction(text, "whole") if any(character.isalnum() for character in bare_answer(text)) else None


def _is_short_and_hedged(text: str) -> bool:
    """Whether a response of a few words gives several numbers, or gives a number and denies or bounds it."""
    if len(text) > _WHOLE_CHARS or "\n" in text:
        return False
    plain = bare_answer(_MATHS.sub("1", text))
    numbers = len(_NUMERAL.findall(plain)) if len(text.split()) <= _FEW_WORDS - 2 else 0
    return (numbers > 1 and "=" not in plain) or (numbers > 0 and bool(hedges(plain)))


def _calculated(text: str) -> str | None:
    """Return the result of a calculation that the last sentence states, such as 9 in "6 + 3 is 9."; else None.

    The numbers of the calculation are not among those that the response gives as its answer.
    """
    sentence = re.split(r"(?<=[.!?])\s|\n", text[-_WHOLE_CHARS:])[-1]
    found = _CALCULATED.search(sentence)
    if not found:
        return None
    value = found["value"].strip()
    return value if _is_bare_answer(value) else None


def _tagged(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end if end >= 0 else len(text))
    if start < 0:
        return None
    inside = text[start + len("<answer>") : end if end > start else len(text)].strip()
    return inside or None


def _last_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` or `\boxed 5` that is not empty; None if there is none.

    Boxes that are joined by a comma, `and`, `or` or the like are returned as a list. A denial beside the box is
    included.
    """
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if last < 0:
        return None
    window = text[max(last - _WINDOW, 0) : last + _WINDOW]
    boxes = _boxes(window)
    braced_end = boxes[-1][1] if boxes else 0
    boxes += [(bare.start(), bare.end(), bare["value"]) for bare in _BARE_BOX.finditer(window, braced_end)]
    if not boxes:
        return None
    start, end, content = boxes.pop()
    after = taken_back_after(window, end)
    for earlier_start, earlier_end, earlier in reversed(boxes[-_MAX_BOXES:]):
        joint = _BETWEEN_BOXES.fullmatch(window[earlier_end:start]) if start - earlier_end < 50 else None
        if not joint:
            break
        if earlier != content:
            content = f"{earlier} {joint['joint'] if joint['joint'] not in ('', '/') else ','} {content}"
        start = earlier_start
    return f"{denied_beside(window, start)}{content}{after}"


def _boxes(window: str) -> list[tuple[int, int, str]]:
    """Return start, end and content of each box that is complete and not empty. Of nested boxes, only the outermost."""
    opened: list[tuple[bool, int, int]] = []
    boxes: list[tuple[int, int, str]] = []
    for token in _BOX_OR_BRACE.finditer(window):
        if token.group().endswith("{") and (token["box"] or token.group() == "{"):
            opened.append((token["box"] is not None, token.start(), token.end()))
        elif token.group() == "}" and opened:
            is_box, start, inner = opened.pop()
            inside = window[inner : token.start()].strip()
            if is_box and (any(c.isalnum() or c in "∅∞π√" for c in inside) or "\\{" in inside):
                while boxes and boxes[-1][0] > start:
                    boxes.pop()
                boxes.append((start, token.end(), inside))
    return boxes


def _last_mark(text: str, options: Sequence[str]) -> Extraction | None:
    """Return the answer of the last mark: "#### x", "A: x", "the answer is x", "答案是 x" or "B is correct"."""
    patterns = (_HASHES, _STATED, _LETTER_IS_RIGHT) if options else (_HASHES, _STATED)
    if not text.isascii():
        patterns = (*patterns, _STATED_CHINESE)
    text = _before_next_question(text)
    marks = sorted((m for pattern in patterns for m in pattern.finditer(text)), key=lambda m: m.start())
    for mark in reversed(marks[-_MAX_MARKS:]):
        if mark.re is _HASHES:
            found, how = _after_hashes(mark), "hashes"
        elif mark.re is _STATED:
            found, how = _after_statement(mark, options), "stated"
        elif mark.re is _STATED_CHINESE:
            found, how = _narrow(text[mark.start("value") :][:_STATEMENT], options), "stated"
        else:
            joined = letters_before(text, mark.start("value"))
            found, how = joined + widened(text, mark.start("value"), mark.end("value")), "option_letter"
        if found:
            return Extraction(denied_before(text, mark.start()) + found, how)
    return None


def _before_next_question(text: str) -> str:
    """Return the text before a further question that the model invented after its answer (`#### x`)."""
    for question in _RUN_ON.finditer(text):
        if _HASHES.search(text, 0, question.start()):
            return text[: question.start()]
    return text


def _after_hashes(mark: re.Match[str]) -> str | None:
    """Return the answer after `####`; None if the line is a heading."""
    value = mark["value"].strip("*_ \t#")
    is_last = not mark.string[mark.end() :].strip()
    return value if is_last or not (is_prose(value) or _HEADING.match(value)) else None


def _after_statement(mark: re.Match[str], options: Sequence[str]) -> str | None:
    text, at = mark.string, mark.start("value")
    if mark["noun"] is None:
        if options or _CHOICE_LINE.search(text, mark.end(), mark.end() + _STATEMENT):
            return None  # `A:` begins a list of choices
    elif not options and not mark["noun"].casefold().startswith("answer"):
        letter = _LEADING_LETTER.match(text, at)
        return letter.group() if letter else None  # None for "the best option is to wait"
    return _narrow(text[at : at + _STATEMENT], options)


def _narrow(statement: str, options: Sequence[str]) -> str | None:
    """Return the answer at the beginning of the text after "the answer is"; None if there is no answer.

    Args:
        statement: the text after "the answer is".
        options: texts of the choices; empty for an open question.
    """
    formulas, end = _leading_formulas(statement)
    if formulas:
        return formulas + taken_back_after(statement, end)
    if options and (label := _LEADING_LETTERS.match(statement)):
        after = taken_back_after(statement, label.end()) or _other_option(
            label.group(), statement[label.end() :], options
        )
        return label.group().strip() + after
    phrase = statement
    for boundary in (_SENTENCE_END, _CLAUSE_END):
        stop = boundary.search(phrase)
        if stop and taken_back_after(statement, stop.start()):
            continue
        phrase = phrase[: stop.start()] if stop else phrase
    concluded = _CONCLUSION.match(statement, len(phrase)) if hedges(phrase) else None
    phrase = concluded["value"] if concluded else phrase.strip(" *_\t")
    if not any(character.isalnum() for character in phrase):
        return None
    plain = bare_answer(phrase)
    if read_quantity(plain) or not is_prose(plain):
        return phrase
    if _RANGE.search(phrase) or hedges(plain):
        return phrase
    leading = _NUMERAL.match(phrase)
    if len(_NUMERAL.findall(phrase)) > 1 and not _MATHS.search(phrase):
        return phrase
    if leading and "=" not in phrase:
        return leading.group()
    inner = _last_value(phrase)
    return inner.answer if inner else phrase


def _other_option(label: str, rest: str, options: Sequence[str]) -> str:
    """Return the text after the letter of a choice if it contradicts that letter, else "".

    It contradicts the letter if it is the text of another option or names another letter.

    Args:
        label: the letter.
        rest: the text after it.
        options: texts of the choices.
    """
    value = _AFTER_LABEL.match(rest)
    if not value or len(value[0]) > _WHOLE_CHARS:
        return ""
    answer = f"({label.strip('().*_:, ')}) {value['text'].strip()}"
    return f" {value['text'].strip()}" if read_choice(answer, options) == CONTRADICTION else ""


def _leading_formulas(statement: str) -> tuple[str, int]:
    r"""Return the formulas at the beginning of a statement, joined by commas, and the index after them.

    Each formula is between delimiters, as in `$3$` or `\(x = 1\) or \(x = 2\)`.
    """
    parts: list[str] = []
    at = end = 0
    while True:
        formula = _MATHS.match(statement, at)
        if not formula or statement[formula.end() : formula.end() + 1].isdigit():  # $5 and $6 are prices
            break
        parts.append(_content(formula))
        end = formula.end()
        joint = _JOINT.match(statement, formula.end())
        if not joint:
            break
        at = joint.end()
    return ", ".join(parts), end


def _is_bare_answer(text: str) -> bool:
    """Whether a response consists of an answer only, such as `5 cm`, `x^2 + 1`, `(1, 2]` or `B`."""
    if not text or len(text) > _WHOLE_CHARS or "\n" in text or is_chinese(text):
        return False
    plain = bare_answer(text)
    if not any(character.isalnum() for character in plain):
        return False
    plain = _ENVIRONMENT_NAME.sub(" ", plain)
    return read_quantity(plain) is not None or len(_PLAIN_WORD.findall(plain)) <= (" " not in plain)


def _chosen_option(text: str, options: Sequence[str]) -> Extraction | None:
    """Return the option that a text names last: by its letter or, in the last sentence, by its text. Else None."""
    letters = "ABCDEFGHIJ"[: len(options)]
    lines = text.strip().splitlines()
    if lines and _LABEL_LINE.fullmatch(lines[-1]):
        return Extraction(lines[-1].strip(), "option_letter")
    named = [m for m in _NAMED_LETTER.finditer(text) if (m[1] or m[2]) in letters]
    if named:
        return _letter_in(text, [(m.start(), m.end(), m[1] or m[2]) for m in named])
    sentences = [s for s in re.split(r"(?<=[.!?])\s|\n", text) if s.strip()]
    last = bare_answer(sentences[-1]).casefold() if sentences else ""
    stated = [option for option in options if _ends_with_option(last, bare_answer(option).casefold())]
    longest = max(stated, key=len, default="")
    if stated and all(bare_answer(option) in bare_answer(longest) for option in stated):
        at = last.find(bare_answer(longest).casefold())
        around = widened(last, at, at + len(bare_answer(longest)))
        return Extraction(longest if around == bare_answer(longest).casefold() else around, "option_text")
    if not all(bare_answer(option).strip("( )") in letters for option in options):
        # A capital letter may be a point of a figure. It is a choice only if it ends the text and its sentence has no
        # number.
        sentences = [s for s in sentences[-1:] if _ENDING_LETTER.search(s) and not re.search(r"\d", s)]
    for sentence in reversed(sentences):
        bare = [m for m in _BARE_LETTER.finditer(sentence) if m[1] in letters]
        if bare:
            return _letter_in(sentence, [(m.start(), m.end(), m[1]) for m in bare])
    return None


def _letter_in(text: str, named: list[tuple[int, int, str]]) -> Extraction:
    """Return the last letter that a text names, with the letters joined to it and the words that deny it.

    Args:
        text: the text.
        named: start, end and letter of each choice that is named in the text.
    """
    start, end, answer = named[-1]
    denied = denied_before(text, start)
    affirmed = [span for span in named if not denied_before(text, span[0])]
    if denied and affirmed and "\n" not in text[affirmed[-1][1] : start]:
        start, _, answer = affirmed[-1]
        return Extraction(letters_before(text, start) + answer, "option_letter")
    return Extraction(
        denied + letters_before(text, start) + answer + taken_back_after(text, end), "option_letter"
    )


def _ends_with_option(sentence: str, option: str) -> bool:
    """Whether a sentence contains an option that is words, or ends with an option that is a value."""
    end = "" if is_prose(option) else "$"
    return bool(option) and re.search(rf"(?<![\w.,]){re.escape(option)}(?!\w){end}", sentence) is not None


def _last_value(text: str) -> Extraction | None:
    """Return the last formula or number of a text, or None. For an equation, only its right side."""
    numbers = list(_NUMERAL.finditer(text))
    formulas = [m for m in _MATHS.finditer(text) if _is_formula(m)]
    if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
        start, end = formulas[-1].span()
        answer = _right_side(_content(formulas[-1]))
        around = widened(text, start, end)
        plain = around == formulas[-1].group().strip()
        return Extraction(answer if plain else around, "last_formula")
    if not numbers:
        return None
    return Extraction(widened(text, *numbers[-1].span()), "last_number")


def _is_formula(match: re.Match[str]) -> bool:
    """Whether the text between two delimiters is a value. Between the `$` of two prices, it is words."""
    content = _content(match)
    return (
        len(content) <= MAX_ANSWER_CHARS
        and _VALUE.search(content) is not None
        and not match.string[match.end() : match.end() + 1].isdigit()
        and not _DANGLING.search(content)
        and not is_prose(bare_answer(_right_side(content)))
    )


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def _right_side(formula: str) -> str:
    return re.split(r"(?<![<>!])=|\\approx", formula)[-1].strip()
