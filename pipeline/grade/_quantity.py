"""Read numbers in common notations, exactly: `$1,234.50`, `33 \\frac{1}{3} %`, `2.5 \\times 10^{-3} m`, `3:5`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from diva_grpo.pipeline.grade._units import Unit, find_unit, is_unit
from diva_grpo.pipeline.grade._words import CJK, hedges, is_product_of_letters, number_of_words
from diva_grpo.pipeline.quantities.lexicon import SCALES

# Larger numbers are not read, because Python would turn 1e999999999 into an integer of a gigabyte.
MAX_DIGITS = 1_000
_MAX_EXPONENT = 1_000
# A decimal with 16 or 17 significant digits is a printed float. Its digits after the 15th are rounding errors.
_FLOAT_DIGITS = (16, 17)
_EXACT_FLOAT_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its scale and unit.

    Attributes:
        value: the number as written, without `scale` and `unit`.
        scale: a factor: 1/100 for a percent sign, 10**6 for "million", else 1.
        unit: a unit that can be converted; None if there is no unit, or another one.
        places: digits after the decimal point; None for an integer or a fraction.
        digits: significant digits as written.
    """

    value: Fraction
    scale: Fraction = Fraction(1)
    unit: Unit | None = None
    places: int | None = None
    digits: int = 0


_SCALES = {
    "%": Fraction(1, 100),
    "percent": Fraction(1, 100),
    "pct": Fraction(1, 100),
    "万": Fraction(10**4),
    "亿": Fraction(10**8),
} | {word: Fraction(size) for word, size in SCALES.items()}
# After a number, these words continue the formula or the sentence, so the number alone is not the answer.
_NOT_UNITS = frozenset(
    "and or to plus minus times over by mod is are sin cos tan cot sec csc log ln exp sqrt pi factorial choose"
    " squared cubed if when then so because".split()
)

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ]\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"""
    [€£¥₹]?\s*(?P<sign>[-+]?)\s*[€£¥₹]?\s*
    (?:
        (?:(?P<whole>{_INTEGER})\s*)?
        \\frac\s*(?:\{{\s*(?P<top>-?{_DECIMAL})\s*\}}|(?P<top1>\d))\s*(?:\{{\s*(?P<low>{_DECIMAL})\s*\}}|(?P<low1>\d))
      | (?:(?P<whole2>\d+)\s+(?:and\s+)?)?(?P<top2>{_DECIMAL})\s*[/]\s*(?P<low2>{_DECIMAL})
      | (?P<left>{_DECIMAL})\s*(?::|\bto\b|\\colon)\s*(?P<right>{_DECIMAL})
      | (?P<ten>10)\s*\^\s*(?:\{{\s*(?P<ten_exp>[-+]?\d+)\s*\}}|(?P<ten_exp1>[-+]?\d+))
      | (?P<decimal>{_DECIMAL})
        (?:
            [eE](?P<exp>[-+]?\d+)(?![A-Za-z])
          | \s*(?:\\times|\\cdot|\*|[xX])\s*10\s*\^\s*(?:\{{\s*(?P<exp1>[-+]?\d+)\s*\}}|\(?(?P<exp2>[-+]?\d+)\)?)
        )?
    )
    """,
    re.VERBOSE,
)
TRIGONOMETRY = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_REPEATING = re.compile(
    r"(?P<sign>-?)(?P<whole>\d*)\.(?P<once>\d*)\\(?:overline|bar|dot)\s*\{(?P<again>\d+)\}"
)
_TRAILING_UNIT = re.compile(
    r"(?:(?<=[\s\d)}])(?P<words>[A-Za-z]{2,}(?:[\s/]+[A-Za-z]+)*)(?:\s*\^\s*(?:\{\s*\d\s*\}|\d))?"
    rf"|(?P<chinese>[{CJK}]{{1,6}})"
    r"|\^\s*\{?\s*\\circ\s*\}?)$"
)
_COUNTED_IN_WORDS = re.compile(r"([A-Za-z]{3,}(?:[ -][A-Za-z]+)*?) ([A-Za-z]{3,})")
_CHINESE_COUNTED = re.compile(rf"[{CJK}]{{1,6}}(?:/[{CJK}]{{1,3}})?")
_ANGLE_PARTS = re.compile(
    r"(?P<sign>-?)(?P<degrees>\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?P<minutes>\d+)\s*(?:'|\^\s*\{?\\prime\}?|分)"
    r"(?:\s*(?P<seconds>\d+)\s*(?:''|\"|秒))?"
)
_UNIT_TEXT = re.compile(r"\(?[A-Za-z€£¥₹][A-Za-z ./'€£¥₹-]*(?:\^[-]?[23])?(?:/[A-Za-z ]+(?:\^[23])?)?\)?")


@lru_cache(maxsize=4_096)
def read_quantity(bare: str, glued_units: bool = True) -> Quantity | None:
    """Read a text that is one number, with its unit if any. None for any other text, and for very large numbers.

    Args:
        bare: the text, as returned by `bare_answer`.
        glued_units: how `5m` is read: as five metres if True (for answers), as 5 times m if False (for references).
    """
    if len(bare) > MAX_DIGITS:
        return None
    word = number_of_words(bare)
    if word is not None:
        return Quantity(word)
    counted = _COUNTED_IN_WORDS.fullmatch(bare)
    if counted and not hedges(bare) and (word := number_of_words(counted[1])) is not None:
        return Quantity(word, unit=find_unit(counted[2]))
    angle = _ANGLE_PARTS.fullmatch(bare)
    if angle:
        return _angle(angle)
    repeating = _REPEATING.fullmatch(bare)
    if repeating:
        return _repeating(repeating)
    found = _NUMBER.match(bare)
    number = _number(found) if found else None
    if found is None or number is None:
        return None
    rest = bare[found.end() :]
    suffix = _read_suffix(rest)
    if suffix is None or (not glued_units and len(rest) == 1 and rest.isascii() and rest.isalpha()):
        return None
    scale, unit = suffix
    return Quantity(number.value, scale, unit, number.places, number.digits)


def drop_unit(bare: str) -> str:
    """Remove the unit or words at the end of a text: `2 \\pi cm^{2}` becomes `2 \\pi`.

    A single letter stays, because it is a variable.
    """
    found = _TRAILING_UNIT.search(bare)
    if not found or not bare[: found.start()].strip():
        return bare
    if found["chinese"]:
        return bare if hedges(found[0]) else bare[: found.start()].strip()
    if found["words"] is None and TRIGONOMETRY.search(bare):
        return bare  # degrees in the argument of a function
    words = re.findall(r"[A-Za-z]+", found["words"] or "")
    all_units = all(
        is_unit(word) or (len(word) > 2 and word not in _NOT_UNITS and not is_product_of_letters(word))
        for word in words
    )
    return bare[: found.start()].strip() if all_units else bare


def same_quantity(answer: Quantity, reference: Quantity) -> bool:
    """Whether an answer is the same number as the reference.

    They are the same if their values are exactly equal. In these cases a decimal also matches a number that rounds to
    it:

    - The reference is a decimal with two or more digits, such as 33.3 or 0.67. It matches a fraction or a root that
      rounds to it: 100/3, 2/3. It matches a decimal that rounds to it only if the reference has at least two places
      and three digits: 2.37 matches 2.366, but 17 does not match 17.04, and 0.5 does not match 0.46. A reference with
      one digit, such as 0.5, is exact.
    - The answer is a decimal with at least two places and four digits. It matches a fraction, a root or a longer
      decimal if it is this number, rounded or cut off: 0.3333 matches 1/3, 0.33 does not.
    - One of them is a printed float with 16 or 17 digits. Rounding errors after the 15th digit are ignored:
      233.00000000000003 matches 233.

    A percent sign, a scale word or a unit is ignored if only one of the two has it: 25 % matches both 25 and 0.25.
    Units of the same family (such as lengths) are converted. Units of different families never match.
    """
    factor = Fraction(1)
    if answer.unit and reference.unit:
        if answer.unit.family != reference.unit.family:
            return False
        if answer.unit.power == reference.unit.power:
            factor = answer.unit.factor / reference.unit.factor
    if _close(answer, reference, factor * answer.scale, reference.scale):
        return True
    # 25 % and 0.25 were compared above; this compares 25 % and 25.
    return (
        answer.scale != reference.scale
        and 1 in (answer.scale, reference.scale)
        and _close(answer, reference, factor, Fraction(1))
    )


def _close(answer: Quantity, reference: Quantity, answer_scale: Fraction, reference_scale: Fraction) -> bool:
    given, wanted = answer.value * answer_scale, reference.value * reference_scale
    if given == wanted:
        return True
    if (given < 0) != (wanted < 0):
        return False
    gap = abs(wanted) - abs(given)
    if any(q.places is not None and q.digits in _FLOAT_DIGITS for q in (answer, reference)):
        noise = max(abs(given), abs(wanted)) / 10**_EXACT_FLOAT_DIGITS
        if min(abs(given), abs(wanted)) and abs(gap) * 2 <= noise:
            return True
    exact_answer = answer.places is None and answer.value.denominator > 1
    if (
        reference.places is not None
        and reference.places >= (1 if exact_answer else 2)
        and reference.digits >= (2 if exact_answer else 3)
    ):
        last = abs(reference_scale) / 10**reference.places
        if abs(gap) * 2 <= last:
            return True
    if answer.places is not None and answer.places >= 2 and answer.digits >= 4:
        exact = reference.places is None and reference.value.denominator > 1
        finer = reference.places is not None and reference.places > answer.places
        last = abs(answer_scale) / 10**answer.places
        return (exact or finer) and -last <= 2 * gap < 2 * last
    return False


def _number(found: re.Match[str]) -> Quantity | None:
    part = found.groupdict()
    sign = -1 if part["sign"] == "-" else 1
    low = part["low"] or part["low1"] or part["low2"]
    if low:
        top = part["top"] or part["top1"] or part["top2"] or "0"
        whole = _fraction(part["whole"] or part["whole2"] or "0")
        divisor = _fraction(low)
        return Quantity(sign * (whole + _fraction(top) / divisor)) if divisor else None
    if part["right"]:
        right = _fraction(part["right"])
        return Quantity(sign * _fraction(part["left"] or "0") / right) if right else None
    decimal = part["decimal"] or "1"
    exponent_text = part["exp"] or part["exp1"] or part["exp2"] or part["ten_exp"] or part["ten_exp1"] or "0"
    # The length is checked first, because int() raises an error for thousands of digits.
    if len(exponent_text) > 6 or abs(int(exponent_text)) > _MAX_EXPONENT:
        return None
    exponent = int(exponent_text)
    mantissa = decimal.replace(",", "").replace(" ", "")
    after_point = len(mantissa.partition(".")[2])
    return Quantity(
        sign * _fraction(decimal) * Fraction(10) ** exponent,
        places=max(after_point - exponent, 0) if "." in mantissa else None,
        digits=len(mantissa.replace(".", "").lstrip("0")),
    )


def _angle(found: re.Match[str]) -> Quantity:
    """Convert an angle in degrees, minutes and seconds to degrees."""
    parts = [int(found[name] or 0) for name in ("degrees", "minutes", "seconds")]
    value = sum((Fraction(part, 60**i) for i, part in enumerate(parts)), Fraction(0))
    return Quantity(-value if found["sign"] else value, unit=find_unit("degree"))


def _repeating(found: re.Match[str]) -> Quantity:
    r"""Read a repeating decimal, such as `0.1\overline{6}` = 1/6."""
    once, again = found["once"], found["again"]
    tail = Fraction(int(again), 10 ** len(again) - 1)
    value = int(found["whole"] or 0) + (int(once or 0) + tail) / Fraction(10 ** len(once))
    return Quantity(-value if found["sign"] else value)


def _fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", "").replace(" ", "").rstrip(".") or "0")


def _read_suffix(suffix: str) -> tuple[Fraction, Unit | None] | None:
    """Return the scale and the unit after a number; None if the text after the number is neither.

    The unit is None if there is no unit, or one that cannot be converted.
    """
    glued = suffix[:1].isalpha()
    text = suffix.strip()
    scale = Fraction(1)
    for name, factor in _SCALES.items():
        if text.casefold().startswith(name) and not (
            name.isascii() and text[len(name) : len(name) + 1].isalpha()
        ):
            scale, text, glued = factor, text[len(name) :].strip(), False
            break
    text = re.sub(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree|\\circ", "degrees", text).strip()
    text = re.sub(r"\^\s*\{\s*(-?\d)\s*\}", r"^\1", text)
    text = re.sub(r"\s*\^\s*", "^", text)
    if not text:
        return scale, None
    if _CHINESE_COUNTED.fullmatch(re.sub(r"\^[23]$", "", text)):
        return (scale, find_unit(text)) if not hedges(text) else None
    if not _UNIT_TEXT.fullmatch(text):
        return None
    unit = find_unit(text.strip("(). "))
    if unit:
        return scale, unit
    words = re.findall(r"[A-Za-z]+", text.casefold())
    # Letters without a space (2ab) and single letters are variables. A word after a space is what was counted.
    counted = (
        not glued
        and not hedges(text)
        and not _NOT_UNITS.intersection(words)
        and any(len(word) > 2 for word in words)
    )
    quotient = "/" in text and all(is_unit(word) for word in words)
    return (scale, None) if counted or quotient or text[0] in "€£¥₹" else None
