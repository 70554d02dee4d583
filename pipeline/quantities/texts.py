"""The quantities of a text: digits, number words, fractions and percentages, with their units.

    >>> [(str(q.value), q.unit) for q in quantities("Half of the 1,200 g, i.e. twenty-five percent")]
    [('1/2', None), ('1200', 'gram'), ('1/4', None)]

Number words are read in English only; digits in every language.
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
    """A number of a text.

    Attributes:
        value: its value; a percentage is a hundredth part.
        unit: name of its unit, or None.
        firm: whether a rewording must keep it. It may add or drop "one" and ordinals.
        word: whether it is written as a word.
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
# "A third of them" is a part, "a third friend" is not.
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
    """The quantities of a text in order; image placeholders have none."""
    return list(_Reader(_plain(text)).read())


def _plain(text: str) -> str:
    """The text in lower case, without LaTeX markup."""
    text = without_math_signs(PLACEHOLDER.sub(" ", text))
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    # NFKC turns ½ into three characters and ² into a digit.
    text = re.sub(r"([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])", r" \1", text).replace("²", "^2").replace("³", "^3")
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/").replace("−", "-").casefold()
    return re.sub(r"\bper cent\b", "percent", text)


class _Reader:
    """One pass over the tokens of a text."""

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
        """Whether a token follows the one before it without a space."""
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
        """-1 after "negative", and after a minus that follows no number."""
        before, term = self._token(at - 1), self._token(at - 2)
        if before == "negative":
            return -1
        if before == "minus" or (before == "-" and self._glued(at) and not self._glued(at - 1)):
            return 1 if self._is_number(at - 2) or term in ONES or term in (")", "}", "]") else -1
        return -1 if before == "-" and term in ("(", "=", "{", "[", "<", ",") else 1

    def _literal(self, at: int) -> tuple[Fraction | None, int]:
        """A number in digits: a fraction, a mixed number, or one followed by "million"."""
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
        """`3/4` without spaces, beginning at a token."""
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
        """A number in words: a cardinal, a part, a multiple."""
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
        """The longest number in words from a token on: two hundred and five thousand, forty-two."""
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
        """ "and a half", "and three quarters" after a number."""
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
        """The unit before or after a number."""
        if self._token(at - 1) in _CURRENCIES:
            return _CURRENCIES[self._token(at - 1)], end
        place = end + (self._token(end) == "-")
        if self._token(place) in ("square", "cubic", "sq", "cu"):
            place += 1 + (self._token(place + 1) == ".")
        name = self._token(place)
        # `5m` is five times m, and `5 m` is five metres.
        if name not in _UNITS or (len(name) == 1 and self._glued(place)):
            return None, end
        place += 1
        if self._token(place) == "^":
            braced = self._token(place + 1) == "{"
            place += 4 if braced else 2
        return _UNITS[name], place
