"""Number words, scales and units, for reading quantities in texts (`texts.py`) and in answers (`pipeline.grade`)."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final, NamedTuple

ONES: Final[Mapping[str, int]] = MappingProxyType(
    {
        word: value
        for value, word in enumerate(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
            " seventeen eighteen nineteen".split()
        )
    }
)
TENS: Final[Mapping[str, int]] = MappingProxyType(
    {
        word: 10 * value
        for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
    }
)
SCALES: Final[Mapping[str, int]] = MappingProxyType(
    {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9}
)
PARTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
        "ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100,
    }
)  # fmt: skip
"""Names of fractions in the singular, with their denominators."""


class Unit(NamedTuple):
    """A unit.

    Attributes:
        name: its name. Units that a text may use for one another have the same name, such as "ton" and "tonne".
        words: its names in texts and answers, in the singular, separated by spaces.
        in_answers: further names that are read only in answers, because they may mean something else in a text.
        family: the quantity that it measures, and its power, as in ("length", 3) for a volume; None if it cannot be
            converted.
        size: the unit as a multiple of the family's base unit (to this power).
    """

    name: str
    words: str
    in_answers: str = ""
    family: tuple[str, int] | None = None
    size: Fraction = Fraction(1)


_LENGTH, _VOLUME, _MASS, _TIME = ("length", 1), ("length", 3), ("mass", 1), ("time", 1)
_INCH, _POUND, _LITRE = Fraction(254, 10_000), Fraction(45_359_237, 100_000), Fraction(1, 1000)

UNITS: Final = (
    Unit("millimetre", "millimetre millimeter mm", "毫米", _LENGTH, Fraction(1, 1000)),
    Unit("centimetre", "centimetre centimeter cm", "厘米", _LENGTH, Fraction(1, 100)),
    Unit("decimetre", "decimetre decimeter dm", "分米", _LENGTH, Fraction(1, 10)),
    Unit("metre", "metre meter m", "米", _LENGTH),
    Unit("kilometre", "kilometre kilometer km", "千米 公里", _LENGTH, Fraction(1000)),
    Unit("inch", "inch", "inche in", _LENGTH, _INCH),
    Unit("foot", "foot feet ft", "", _LENGTH, 12 * _INCH),
    Unit("yard", "yard yd", "", _LENGTH, 36 * _INCH),
    Unit("mile", "mile mi", "", _LENGTH, 63_360 * _INCH),
    Unit("milligram", "milligram mg", "", _MASS, Fraction(1, 1000)),
    Unit("gram", "gram gramme g", "克", _MASS),
    Unit("kilogram", "kilogram kilo kg", "千克 公斤", _MASS, Fraction(1000)),
    Unit("pound", "pound lb", "", _MASS, _POUND),
    Unit("ounce", "ounce oz", "", _MASS, _POUND / 16),
    Unit("ton", "ton"),  # of 1,000 kg, of 2,000 pounds, or of 2,240
    Unit("ton", "tonne", "吨", _MASS, Fraction(10**6)),
    Unit("second", "second sec", "s 秒", _TIME),
    Unit("minute", "minute min", "分钟", _TIME, Fraction(60)),
    Unit("hour", "hour hr h", "小时 时", _TIME, Fraction(3600)),
    Unit("day", "day", "天 日", _TIME, Fraction(86_400)),
    Unit("week", "week", "周", _TIME, Fraction(604_800)),
    Unit("month", "month"),
    Unit("year", "year"),
    Unit("millilitre", "millilitre milliliter ml", "毫升", _VOLUME, _LITRE / 1000),
    Unit("litre", "litre liter l", "升", _VOLUME, _LITRE),
    Unit("gallon", "gallon gal"),
    Unit("pint", "pint"),
    Unit("quart", "quart"),
    Unit("cup", "cup"),
    Unit("dollar", "dollar usd buck", "", ("money", 1)),
    Unit("cent", "cent ¢", "", ("money", 1), Fraction(1, 100)),
    Unit("euro", "euro €"),
    Unit("sterling", "sterling £"),
    Unit("yen", "yen ¥"),
    Unit("yuan", "", "yuan 元", ("yuan", 1)),
    Unit("yuan", "", "角", ("yuan", 1), Fraction(1, 10)),
    Unit("degree", "degree", "deg 度", ("angle", 1)),
    Unit("calorie", "calorie"),
    Unit("watt", "watt"),
    Unit("kilowatt", "kilowatt kw"),
)
