"""Units in answers, English and Chinese, and their conversion. Their names are in `pipeline.quantities.lexicon`."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from diva_grpo.pipeline.quantities.lexicon import UNITS


class Unit(NamedTuple):
    """A unit as a multiple of the base unit of its family: cm^2 is ("length", 2, 1/10000)."""

    family: str
    power: int
    factor: Fraction


_UNITS = {
    name: Unit(*unit.family, unit.size)
    for unit in UNITS
    if unit.family
    for name in f"{unit.words} {unit.in_answers}".split()
}
_NAMED_POWERS = {
    **dict.fromkeys(("square", "sq", "squared", "平方"), 2),
    **dict.fromkeys(("cubic", "cu", "cubed", "立方"), 3),
}


def is_unit(word: str) -> bool:
    """Whether a word, in the singular or plural, is a unit that can be converted."""
    return word in _UNITS or word.casefold().rstrip("s") in _UNITS


def find_unit(text: str) -> Unit | None:
    """Return the unit that a text names, with its power (`cm^2`, `square cm`, `cubic inches`, `平方厘米`), or None."""
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
