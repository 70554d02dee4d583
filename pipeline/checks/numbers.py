"""The check `numbers`: the variant has the quantities of the original, unchanged and with their units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from diva_grpo.pipeline.checks.finding import PASSED, Finding, failed
from diva_grpo.pipeline.quantities.texts import Quantity, quantities
from diva_grpo.schemas.records import Kind, Problem, Variant


def check_numbers(variant: Variant, problem: Problem) -> Finding:
    """The quantities of the original are in the variant's text, with their units.

    A number may be written in another way ("half", 1/2, 0.5, 50 %). It may occur once more or once less, because
    sentences are merged or split. If it occurs less often while another number is new or occurs more often, it has
    changed. A rewording adds no number; a harder text may. "one" and ordinals are ignored. A new "two" is allowed: it
    may stand for a pair of things in the original. Think steps have the text of the original and pass.
    """
    if variant.kind == Kind.THINK_STEP:
        return PASSED
    wanted, found = quantities(problem.text), quantities(variant.text or "")
    there = Counter(q.value for q in found)
    firm = Counter(q.value for q in wanted if q.firm)
    known = Counter(q.value for q in wanted)
    lost = [value for value in firm if not there[value] and value != 1]
    if lost:
        return failed(f"lost: {_listed(lost)}")
    new = [q.value for q in found if q.firm and not known[q.value] and not (q.word and q.value == 2)]
    # `quantities` reads 5-3 and 5 - 3 as the same numbers.
    less = [value for value, count in firm.items() if there[value] < count]
    more = [value for value in known if there[value] > known[value]]
    if less and (new or more):
        return failed(f"changed: {_listed(less)} into {_listed(new or more)}")
    if new and variant.kind == Kind.REWORD:
        return failed(f"new: {_listed(new)}")
    return _units(wanted, found)


def _units(wanted: Sequence[Quantity], found: Sequence[Quantity]) -> Finding:
    """Each number with a unit in the original has it in the variant, or is in a list that shares the unit."""
    units = Counter(q.unit for q in found)
    before, after = (Counter((q.value, q.unit) for q in of) for of in (wanted, found))
    for (value, unit), count in before.items():
        if unit is None or after[value, unit] >= count:
            continue
        other = next((u for v, u in after if v == value and u and not before[v, u]), None)
        # "An hour" is 1 hour without a number.
        unsaid = value != 1 and not after[value, unit] and not units[unit]
        if other or unsaid:
            return failed(f"unit: {_shown(value)} {unit} has become {_shown(value)} {other or 'without one'}")
    return PASSED


def _listed(values: Sequence[Fraction]) -> str:
    return ", ".join(_shown(value) for value in values[:5])


def _shown(value: Fraction) -> str:
    """The number in the usual notation."""
    if value.denominator == 1 or float(value) != value or len(str(float(value))) > 6:
        return str(value)
    return f"{float(value):g}"
