"""Find the quantities in a text: numbers in digits or words, fractions and percentages, with their units.

    >>> [(str(q.value), q.unit) for q in quantities("Half of the 1,200 g, i.e. twenty-five percent")]
    [('1/2', None), ('1200', 'gram'), ('1/4', None)]

Number words are read only in English, digits in every language.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from diva_grpo.pipeline.quantities.latex import without_math_signs
from diva_grpo.pipeline.quantities.lexicon import ONES, PARTS, SCALES, TENS, UNITS
from diva_grpo.schemas.question import PLACEHOLDER


class Quantity(NamedTuple):
    """A number in a text.

    Attributes:
        value: its value. A percentage is divided by 100.
        unit: name of its unit, or None.
        firm: whether a rewording must keep the number. False for the word "one", which may be added or omitted.
        word: whether it is written in words.
    """

    value: Fraction
    unit: str | None = None
    firm: bool = True
    word: bool = False


_SCALES = {form: size for name, size in SCALES.items() for form in (name, f"{name}s")}
_MULTIPLES = {
    word: value
    for value, words in {
        Fraction(2): "twice double doubles doubled doubling",
        Fraction(3): "thrice triple triples tripled tripling treble trebled",
        Fraction(4): "quadruple quadrupled quadruples",
        Fraction(1, 2): "half halve halves halved halving",
    }.items()
    for word in words.split()
}
_FIRST_WORDS = {"a", "an"} | ONES.keys() | TENS.keys() | _MULTIPLES.keys()
_PARTS = {form: size for name, size in PARTS.items() for form in (name, f"{name}s")} | {"halves": 2}
# "A third" is a fraction only before one of these words: in "a third of them", but not in "a third friend".
_AFTER_A_PART = frozenset(
    "of as more less fewer the that this its his her their an a off is are were was".split()
)
_UNITS = {
    form: unit.name
    for unit in UNITS
    for word in unit.words.split()
    for form in (word, f"{word}s" if len(word) > 1 else word)
} | {"inches": "inch"}
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "sterling", "¥": "yen"}

_TOKEN = re.compile(
    r"""
      (?P<number>(?:(?<![a-z\d_.])|(?<=\d[-/:]))(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)
      (?P<ordinal>(?:st|nd|rd|th)\b)?
    | (?P<word>[a-z]+)
    | (?P<other>\S)
    """,
    re.VERBOSE,
)
_MARKUP = (
    (re.compile(r"\\[dt]?frac\s*\{\s*([\d.]+)\s*\}\s*\{\s*([\d.]+)\s*\}|\\[dt]?frac\s*(\d)\s*(\d)"), r" \1\3/\2\4 "),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree\b|\\circ\b|°"), " degrees "),
    (re.compile(r"\\(?:mathrm|text|operatorname|mbox|textrm)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\%"), " % "),
    (re.compile(r"\\\$"), " $ "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;:! ]|~|\\[()\[\]]"), " "),
    (re.compile(r"\\[A-Za-z]+"), " "),
)  # fmt: skip


def quantities(text: str) -> list[Quantity]:
    """Return the quantities of a text in order. Image placeholders are ignored."""
    return list(_Reader(_plain(text)).read())


def _plain(text: str) -> str:
    """Return the text in lower case and without LaTeX markup."""
    text = without_math_signs(PLACEHOLDER.sub(" ", text))
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    # NFKC turns ½ into three characters, which would join a number before it, and ² into a plain digit.
    text = re.sub(r"([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])", r" \1", text).replace("²", "^2").replace("³", "^3")
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/").replace("−", "-").casefold()
    return re.sub(r"\bper cent\b", "percent", text)


class _Reader:
    """Reads the quantities of one text, token by token. `at` and `end` are positions of tokens.

    Methods that read a number return its value and the position after it. The value is None if there is no number.
    """

    def __init__(self, text: str) -> None:
        self._found = list(_TOKEN.finditer(text))
        self._tokens = [
            found.group().replace(",", "") if found["number"] else found.group() for found in self._found
        ]

    def read(self) -> list[Quantity]:
        quantities, at = [], 0
        while at < len(self._tokens):
            if not self._is_number(at) and self._tokens[at] not in _FIRST_WORDS:
                at += 1
                continue
            quantity, end = self._quantity(at)
            if quantity is not None:
                quantities.append(quantity)
            at = max(end, at + 1)
        return quantities

    def _token(self, at: int) -> str:
        return self._tokens[at] if 0 <= at < len(self._tokens) else ""

    def _is_number(self, at: int) -> bool:
        found = self._found[at] if 0 <= at < len(self._found) else None
        return found is not None and found["number"] is not None and found["ordinal"] is None

    def _glued(self, at: int) -> bool:
        """Whether there is no space between a token and the previous one."""
        return 0 < at < len(self._found) and self._found[at - 1].end() == self._found[at].start()

    def _quantity(self, at: int) -> tuple[Quantity | None, int]:
        word = not self._is_number(at)
        value, end = self._literal(at) if not word else self._worded(at)
        if value is None:
            return None, at + 1
        extra, end = self._and_a_part(end) if value.denominator == 1 else (Fraction(0), end)
        firm = self._tokens[at:end] != ["one"]
        value = (value + extra) * self._sign(at)
        if self._token(end) in ("%", "percent"):
            return Quantity(value / 100, None, True, word), end + 1
        unit, end = self._unit(at, end)
        return Quantity(value, unit, firm, word), end

    def _sign(self, at: int) -> int:
        """Return -1 for a number after "negative" or a minus sign, else 1. A minus between two terms is subtraction."""
        before, term = self._token(at - 1), self._token(at - 2)
        if before == "negative":
            return -1
        if before == "minus" or (before == "-" and self._glued(at) and not self._glued(at - 1)):
            return 1 if self._is_number(at - 2) or term in ONES or term in (")", "}", "]") else -1
        return -1 if before == "-" and term in ("(", "=", "{", "[", "<", ",") else 1

    def _literal(self, at: int) -> tuple[Fraction | None, int]:
        """Read a number in digits, which may be a fraction, a mixed number, or followed by a word such as "million"."""
        value, end = Fraction(self._tokens[at]), at + 1
        fraction = self._fraction(at)
        if fraction is not None:
            return fraction, at + 3
        mixed = self._fraction(at + 1)
        if mixed is not None and value.denominator == 1 and mixed < 1:
            return value + mixed, at + 4
        part = _PARTS.get(self._token(end + (self._token(end) == "-")))
        if part and value.denominator == 1 and self._token(end + (self._token(end) == "-")).endswith("s"):
            return value / part, end + 1 + (self._token(end) == "-")
        while self._token(end) in _SCALES:
            value *= _SCALES[self._token(end)]
            end += 1
        return value, end

    def _fraction(self, at: int) -> Fraction | None:
        """Read a fraction such as `3/4`, without spaces, that begins at a token; None if there is none."""
        if not (self._is_number(at) and self._token(at + 1) == "/" and self._is_number(at + 2)):
            return None
        if (
            not (self._glued(at + 1) and self._glued(at + 2))
            or self._token(at + 3) == "/"
            or "." in self._token(at)
        ):
            return None
        low = Fraction(self._tokens[at + 2])
        return Fraction(self._tokens[at]) / low if low else None

    def _worded(self, at: int) -> tuple[Fraction | None, int]:
        """Read a number in words: a cardinal ("two"), a fraction ("two thirds") or a multiple ("twice")."""
        first = self._token(at)
        if first == "half" and self._token(at + 1) in ("a", "an") and self._token(at + 2) in _SCALES:
            return Fraction(_SCALES[self._token(at + 2)], 2), at + 3
        if first in _MULTIPLES:
            return _MULTIPLES[first], at + 1
        if first in ("a", "an"):
            if self._token(at + 1) in _SCALES:
                return self._cardinal(at)
            if self._token(at + 1) == "quarter" or (
                self._token(at + 1) in _PARTS and self._token(at + 2) in _AFTER_A_PART
            ):
                return Fraction(1, _PARTS[self._token(at + 1)]), at + 2
            return None, at
        value, end = self._cardinal(at)
        if value is None:
            return None, at
        dash = self._token(end) == "-"
        part = self._token(end + dash)
        if part in _PARTS and (value == 1) != part.endswith("s"):
            return value / _PARTS[part], end + dash + 1
        return value, end

    def _cardinal(self, at: int) -> tuple[Fraction | None, int]:
        """Read the longest cardinal number in words at a token, such as "two hundred and five thousand"."""
        total, current, end = 0, 0, at
        if self._token(at) in ("a", "an"):
            current, end = 1, at + 1
        while True:
            whole_hundreds = current % 100 == 0
            # "and" may follow hundreds and thousands; a hyphen joins tens and ones.
            joint = self._token(end)
            skip = int(
                (joint == "and" and end > at and whole_hundreds) or (joint == "-" and not whole_hundreds)
            )
            word = self._token(end + skip)
            fits = (end == at or bool(current or total)) and whole_hundreds
            if word in ONES and (fits or (current % 100 >= 20 and current % 10 == 0 and ONES[word] < 10)):
                current += ONES[word]
            elif word in TENS and fits:
                current += TENS[word]
            elif word in _SCALES and not skip and current:
                if _SCALES[word] >= 1000:
                    total, current = total + current * _SCALES[word], 0
                else:
                    current *= _SCALES[word]
            else:
                break
            end += skip + 1
        return (None, at) if end == at else (Fraction(total + current), end)

    def _and_a_part(self, at: int) -> tuple[Fraction, int]:
        """Read a fraction after a number, such as "and a half" or "and three quarters"; 0 if there is none."""
        if self._token(at) != "and":
            return Fraction(0), at
        if self._token(at + 1) in ("a", "an", "one") and self._token(at + 2) in _PARTS:
            return Fraction(1, _PARTS[self._token(at + 2)]), at + 3
        fraction = self._fraction(at + 1)
        if fraction is not None and fraction < 1:
            return fraction, at + 4
        value, end = self._worded(at + 1)
        if value is None or value >= 1 or self._token(at + 1) in _MULTIPLES:
            return Fraction(0), at
        return value, end

    def _unit(self, at: int, end: int) -> tuple[str | None, int]:
        """Return the unit before or after a number (None if there is none), and the position after it."""
        if self._token(at - 1) in _CURRENCIES:
            return _CURRENCIES[self._token(at - 1)], end
        place = end + (self._token(end) == "-")
        if self._token(place) in ("square", "cubic", "sq", "cu"):
            place += 1 + (self._token(place + 1) == ".")
        name = self._token(place)
        # `5m` is five times the variable m, and `5 m` is five metres.
        if name not in _UNITS or (len(name) == 1 and self._glued(place)):
            return None, end
        place += 1
        if self._token(place) == "^":
            braced = self._token(place + 1) == "{"
            place += 4 if braced else 2
        return _UNITS[name], place
