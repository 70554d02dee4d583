"""The check `numbers`: the variant contains the quantities of the original, unchanged and with their units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from diva_grpo.pipeline.checks.finding import PASSED, Finding, failed
from diva_grpo.pipeline.quantities.texts import Quantity, quantities
from diva_grpo.schemas.records import Kind, Problem, Variant


def check_numbers(variant: Variant, problem: Problem) -> Finding:
    """Check that the variant's text contains the quantities of the original, with their units.

    A number may be written in another way ("half", 1/2, 0.5, 50 %). It may occur more often or less often than in the
    original, because sentences can be merged or split. But if one number occurs less often and another one is new or
    occurs more often, the number has been changed, and the check fails. A rewording must not add a number; a harder
    text may. The word "one" and ordinals are ignored. A new word "two" is allowed, because it may refer to a pair of
    things in the original. Think-step variants have the text of the original and always pass.
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
    # Subtractions need no special case: `quantities` reads both 5-3 and 5 - 3 as 5 and 3.
    less = [value for value, count in firm.items() if there[value] < count]
    more = [value for value in known if there[value] > known[value]]
    if less and (new or more):
        return failed(f"changed: {_listed(less)} into {_listed(new or more)}")
    if new and variant.kind == Kind.REWORD:
        return failed(f"new: {_listed(new)}")
    return _units(wanted, found)


def _units(wanted: Sequence[Quantity], found: Sequence[Quantity]) -> Finding:
    """Check that each number with a unit in the original has the same unit in the variant.

    The number may be without the unit if another number has it, as in a list that names the unit once.
    """
    units = Counter(q.unit for q in found)
    before, after = (Counter((q.value, q.unit) for q in of) for of in (wanted, found))
    for (value, unit), count in before.items():
        if unit is None or after[value, unit] >= count:
            continue
        other = next((u for v, u in after if v == value and u and not before[v, u]), None)
        # "1 hour" may become "an hour", which contains no number.
        unsaid = value != 1 and not after[value, unit] and not units[unit]
        if other or unsaid:
            return failed(f"unit: {_shown(value)} {unit} has become {_shown(value)} {other or 'without one'}")
    return PASSED


def _listed(values: Sequence[Fraction]) -> str:
    return ", ".join(_shown(value) for value in values[:5])


def _shown(value: Fraction) -> str:
    """Return a number as text: as a short decimal if that is exact, else as an integer or a fraction."""
    if value.denominator == 1 or float(value) != value or len(str(float(value))) > 6:
        return str(value)
    return f"{float(value):g}"
