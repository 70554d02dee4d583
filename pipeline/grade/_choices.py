r"""Read answers to multiple-choice questions: one letter, several letters, a letter with its value, or an option's
text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diva_grpo.pipeline.grade._answer_text import bare_answer, key
from diva_grpo.pipeline.grade._compare import MAX_ANSWER_CHARS, compare
from diva_grpo.pipeline.grade._quantity import read_quantity
from diva_grpo.pipeline.grade._words import hedges, is_prose

LETTERS = "ABCDEFGHIJ"
CONTRADICTION = frozenset("!")
"""`read_choice` returns this for an answer that names a choice and contradicts it, such as `not (B)`."""

_AHEAD = (
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|final\s+)?(?:options?|choices?|answers?)\s*(?:is|are|:)?\s*"
    r"|(?:正确)?(?:答案|选项|故选|应选|选)\s*(?:是|为|:)?\s*)"
)
_AND = r"\s*(?:,\s*and\b|,|;|/|&|\+|\band\b)?\s*"
_OR = re.compile(r"\bor\b|/")
_ONE = r"(?:\(\s*[A-J]\s*\)|\[\s*[A-J]\s*\]|[A-J])[.:]?"
_SEVERAL = re.compile(rf"{_AHEAD}?(?P<letters>{_ONE}(?:(?:{_AND}|\s*,?\s*\bor\b\s*){_ONE})*)")
_LETTER = re.compile(r"[A-J]")
_LABELLED = re.compile(
    rf"{_AHEAD}?(?:\(\s*(?P<closed>[A-J])\s*\)|(?P<half>[A-J])\s*\)|(?P<bare>[A-J])(?![A-Z]))\s*(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_LABEL_START = re.compile(r"\(?\s*[A-J]\s*[).:]")
_LAST_LABEL = re.compile(r"\(\s*([A-J])\s*\)$")
_ANY_LABEL = re.compile(
    r"\(\s*([A-J])\s*\)|(?<![A-Za-z])([A-J])\s*[).:](?=\s|$)|\b(?:[Oo]ption|[Cc]hoice)\s+\(?([A-J])\b"
)


def read_choice(answer: str, options: Sequence[str]) -> frozenset[str] | None:
    """Return the letters that an answer chooses, as in `B`, `(B)`, `B. 5 cm`, `Option B`, `AC`, `A and C`.

    Args:
        answer: an answer without surrounding text.
        options: texts of the choices. If there are none, a lower-case letter is a variable and not a choice.

    Returns:
        Upper-case letters, together with the item "or" for alternatives (`A or B`). `CONTRADICTION` if the answer
        contradicts its letter. None if it chooses no letter.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    text = bare_answer(answer)
    letters = _several(text, options)
    if letters is not None:
        return letters
    found = _LABELLED.fullmatch(text)
    if found and found["bare"]:
        letter, rest = found["bare"], found["rest"]
        # In `A. 5` the letter is a label; in `A 5` it need not be. Without options, a lower-case letter is a variable.
        if (rest and rest[0] not in ".:,(") or (letter.islower() and not options):
            return _taken_back(text, options)
    elif found:
        letter, rest = found["closed"] or found["half"], found["rest"]
    elif options and (last := _LAST_LABEL.search(text)):
        letter, rest = last[1], text[: last.start()]
    else:
        return _taken_back(text, options)
    letter = letter.upper()
    if LETTERS.index(letter) >= (len(options) or len(LETTERS)):
        return None
    return CONTRADICTION if _contradicts(letter, rest.strip(" .:,"), options) else frozenset(letter)


def _several(text: str, options: Sequence[str]) -> frozenset[str] | None:
    """Return the letters of a text that consists of letters only; None for any other text.

    Without options, letters that are not separated (`AC`) must be in alphabetical order.
    """
    found = _SEVERAL.fullmatch(text)
    if found is None:
        return None
    letters = _LETTER.findall(found["letters"])
    if options and any(LETTERS.index(letter) >= len(options) for letter in letters):
        return None
    glued = re.fullmatch(r"[A-J]{2,}", found["letters"]) is not None
    if glued and letters != sorted(set(letters)):
        return None if not options else frozenset(letters)
    return frozenset(letters) | ({"or"} if len(set(letters)) > 1 and _OR.search(found["letters"]) else set())


def _taken_back(text: str, options: Sequence[str]) -> frozenset[str] | None:
    """Return `CONTRADICTION` for a text that denies a choice (`not (B)`), else None.

    Without options it is always None, because the letter may be a variable.
    """
    if not options:
        return None
    names = re.search(r"\([A-J]\)|(?<![A-Za-z])[A-J](?![A-Za-z'_(^])", text)
    return CONTRADICTION if names and hedges(text) else None


def _contradicts(letter: str, rest: str, options: Sequence[str]) -> bool:
    """Whether the text after a letter contradicts it: by another letter, the value of another option, or a denial.

    Args:
        letter: the chosen letter.
        rest: the text after it.
        options: texts of the choices; empty for an open question.
    """
    if not rest:
        return False
    own = options[LETTERS.index(letter)] if options else ""
    if own and (key(bare_answer(own)) == key(rest) or compare(rest, own) is True):
        return False
    others = {next(filter(None, match.groups())) for match in _ANY_LABEL.finditer(rest)} - {letter}
    if others or (options and _several(rest, options) not in (None, frozenset(letter))):
        return True
    if not options:
        other_letter = _LETTER.fullmatch(rest) is not None and rest != letter
        return other_letter or (
            bool(hedges(rest))
            and re.match(r"(?:is|are)?\s*(?:not|wrong|incorrect|false|or)\b", rest) is not None
        )
    if any(compare(rest, option) is True for option in options):
        return True
    number, own_number = read_quantity(rest), read_quantity(bare_answer(own))
    if number is not None and own_number is not None and not is_prose(rest):
        return compare(rest, own) is False
    return bool(hedges(rest) - hedges(bare_answer(own)))


def option_named(answer: str, options: Sequence[str]) -> frozenset[str] | None:
    """Return the letters of the choices that an answer gives by letter or by text; None if it gives no choice."""
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    plain = key(bare_answer(answer))
    if not _LETTER.fullmatch(plain):
        same = [i for i, option in enumerate(options) if key(bare_answer(option)) == plain]
        if len(same) == 1:
            return frozenset(LETTERS[same[0]])
    labelled = _LABEL_START.match(bare_answer(answer)) is not None
    chosen = read_choice(answer, options)
    if chosen is not None and (labelled or chosen != CONTRADICTION):
        return chosen
    same = [i for i, option in enumerate(options) if compare(answer, option) is True]
    return frozenset(LETTERS[same[0]]) if len(same) == 1 else chosen
