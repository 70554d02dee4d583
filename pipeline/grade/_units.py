"""Units that answers carry, English and Chinese, with their conversion."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit as a multiple of its family's base: cm^2 is ("length", 2, 1/10000)."""

    family: str
    power: int
    factor: Fraction


def _unit_table() -> dict[str, Unit]:
    inch, pound = Fraction(254, 10_000), Fraction(45_359_237, 100_000)
    sizes: dict[str, dict[str, Fraction | int]] = {
        "length": {
            "mm millimeter millimetre": Fraction(1, 1000),
            "cm centimeter centimetre": Fraction(1, 100),
            "dm decimeter decimetre": Fraction(1, 10),
            "m meter metre": 1,
            "km kilometer kilometre": 1000,
            "毫米": Fraction(1, 1000),
            "厘米": Fraction(1, 100),
            "分米": Fraction(1, 10),
            "米": 1,
            "千米 公里": 1000,
            "in inch inche": inch,
            "ft foot feet": 12 * inch,
            "yd yard": 36 * inch,
            "mi mile": 63_360 * inch,
        },
        "mass": {
            "mg milligram": Fraction(1, 1000),
            "g gram 克": 1,
            "kg kilogram 千克 公斤": 1000,
            "tonne 吨": 1_000_000,
            "lb pound": pound,
            "oz ounce": pound / 16,
        },
        "time": {
            "s sec second 秒": 1,
            "min minute 分钟": 60,
            "h hr hour 小时 时": 3600,
            "day 天 日": 86_400,
            "week 周": 604_800,
        },
        "money": {"dollar usd": 1, "cent": Fraction(1, 100)},
        "yuan": {"yuan 元": 1, "角": Fraction(1, 10)},
        "angle": {"degree deg 度": 1},
    }
    table = {
        name: Unit(family, 1, Fraction(factor))
        for family, units in sizes.items()
        for names, factor in units.items()
        for name in names.split()
    }
    litre = Fraction(1, 1000)
    for names, factor in {"ml milliliter millilitre 毫升": litre / 1000, "l liter litre 升": litre}.items():
        table |= {name: Unit("length", 3, factor) for name in names.split()}
    return table


_UNITS = _unit_table()
_NAMED_POWERS = {
    **dict.fromkeys(("square", "sq", "squared", "平方"), 2),
    **dict.fromkeys(("cubic", "cu", "cubed", "立方"), 3),
}


def is_unit(word: str) -> bool:
    """Whether the table holds a word, be it in the plural."""
    return word in _UNITS or word.casefold().rstrip("s") in _UNITS


def find_unit(text: str) -> Unit | None:
    """A unit of the table, with its power from `cm^2`, `square cm`, `cubic inches`, `平方厘米`."""
    found = re.fullmatch(
        r"(?:(square|sq|cubic|cu)\.?\s+|(平方|立方))?([A-Za-z]+|[\u4e00-\u9fff]+)\.?(?:\^([23]))?(?:\s+(squared|cubed))?",
        text,
    )
    if not found:
        return None
    before, before_chinese, name, power_text, after = found.groups()
    base = _UNITS.get(name) or _UNITS.get(name.casefold().rstrip("s"))
    if base is None:
        return None
    power = int(power_text or _NAMED_POWERS.get(before or before_chinese or after or "", 1))
    return Unit(base.family, base.power * power, base.factor**power)
