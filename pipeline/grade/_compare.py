"""Whether two answers are equal, as far as text and exact arithmetic can tell."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diva_grpo.pipeline.grade._answer_text import key, undress
from diva_grpo.pipeline.grade._quantity import Quantity, drop_unit, read_quantity, same_quantity

# An answer is short; what is longer is compared as text alone.
MAX_ANSWER_CHARS = 2_000
_MAX_ITEMS = 50
_MAX_DEPTH = 4

_LABEL = re.compile(r"\(\s*([A-Z])\s*\)[.:]?\s+(?=\S)|([A-Z])\s*[).:]\s+(?=\S)")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\s*\([A-Za-z, ]*\))?")
_VARIABLE = re.compile(r"[A-Za-df-z]")  # e is a number
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)")
_APPROXIMATELY = re.compile(r"\\approx|\\simeq")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|lt|gt|in|leq|geq|neq)(?![A-Za-z])")
_SEPARATOR = re.compile(r"[,;]|\s(?:and|or)\s|\\(?:lor|land|vee|wedge)(?![A-Za-z])")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_NUMERAL = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_MATHEMATICS = frozenset(
    "and or sin cos tan cot sec csc log exp sqrt lim max min mod det gcd lcm inf"
    " arcsin arccos arctan sinh cosh tanh".split()
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What text and arithmetic tell.

    Attributes:
        equal: True or False where that is certain, else None.
        open_pairs: where `equal` is None, readings of (answer, reference) of which any being equal decides.
    """

    equal: bool | None
    open_pairs: tuple[tuple[str, str], ...] = ()


def compare(answer: str, reference: str) -> Comparison:
    """Compares two answers without computer algebra.

    Args:
        answer: an extracted answer; LaTeX, numbers with units, lists, words.
        reference: the answer that is known to be right.
    """
    if len(answer) > MAX_ANSWER_CHARS or len(reference) > MAX_ANSWER_CHARS:
        return Comparison(answer.strip() == reference.strip())
    given, wanted = undress(answer), undress(reference)
    open_pairs: list[tuple[str, str]] = []
    for left, right in _readings(given, wanted):
        equal = _compare_reading(left, right)
        if equal:
            return Comparison(True)
        if equal is None:
            open_pairs.append((drop_unit(left), drop_unit(right)))
    return Comparison(None, tuple(open_pairs)) if open_pairs else Comparison(False)


def is_prose(undressed: str) -> bool:
    """Whether a text holds English words, not counting names of functions and `and` / `or`."""
    return any(word.casefold() not in _MATHEMATICS for word in _WORD.findall(undressed))


def split_list(undressed: str) -> tuple[str, list[str]]:
    """Brackets and items of `(1, 2]`, `\\{1, 2\\}`, `1, 2`, `1 and 2`; one item where it is no list.

    Returns:
        The outer brackets as two signs ("(]", "{}", or "" without any), and the items.
    """
    text, brackets = undressed.replace(r"\{", "{").replace(r"\}", "}"), ""
    if text[:1] in ("(", "[", "{") and text[-1:] in (")", "]", "}") and _one_bracket(text):
        brackets, text = text[0] + text[-1], text[1:-1]
    items, depth, start = [], 0, 0
    breaks = {m.start(): m.end() for m in _SEPARATOR.finditer(text)}
    for i, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and i in breaks and i >= start:
            items.append(text[start:i].strip())
            start = breaks[i]
    items.append(text[start:].strip())
    return brackets, [item for item in items if item]


def _readings(given: str, wanted: str) -> list[tuple[str, str]]:
    """The two texts, and the same without an equation's left side, an approximation, a label or a sentence."""
    answers, references = [given], [wanted]
    label, wanted_label = _LABEL.match(given), _LABEL.match(wanted)
    if label:
        answers = [given[label.end() :]]
    if wanted_label:
        references = [wanted[wanted_label.end() :]]
    if not _RELATION.search(wanted):
        exact, *rounded = _APPROXIMATELY.split(answers[-1])
        if rounded:
            answers += [exact.strip(), rounded[-1].strip()]
        if not any(_SEPARATOR.search(text) for text in answers):
            answers = [_EQUALS.split(text)[-1].strip() for text in answers]
    left, *right = _EQUALS.split(wanted)
    if len(right) == 1 and _NAME.fullmatch(left.strip()) and not _RELATION.search(given):
        references.append(right[0].strip())
    bare, numerals = drop_unit(answers[-1]), _NUMERAL.findall(answers[-1])
    if is_prose(answers[-1]) and not is_prose(wanted):
        answers += [bare] if not is_prose(bare) else []
        answers += numerals if len(numerals) == 1 else []
    return [(a, r) for a in dict.fromkeys(answers) for r in dict.fromkeys(references) if a and r]


def _compare_reading(given: str, wanted: str, depth: int = 0) -> bool | None:
    if key(given) == key(wanted):
        return True
    given, wanted = _without_parentheses(given), _without_parentheses(wanted)
    number, wanted_number = read_quantity(given), read_quantity(wanted, glued_units=False)
    if number and wanted_number and same_quantity(number, wanted_number):
        return True
    equal = _compare_lists(given, wanted, depth) if depth < _MAX_DEPTH else None
    if equal is not None:
        return equal
    if number and wanted_number:
        return False
    return False if _are_unlike(given, number, wanted, wanted_number) else None


def _are_unlike(given: str, number: Quantity | None, wanted: str, wanted_number: Quantity | None) -> bool:
    """Whether at least one of two differing texts is words, which no algebra can make equal to the other."""
    if is_prose(given) and (wanted_number is not None or is_prose(wanted)):
        return True
    if wanted_number is not None and _VARIABLE.fullmatch(given):
        return True
    return number is not None and (is_prose(wanted) or _VARIABLE.fullmatch(wanted) is not None)


def _compare_lists(given: str, wanted: str, depth: int) -> bool | None:
    brackets, items = split_list(given)
    wanted_brackets, wanted_items = split_list(wanted)
    if max(len(items), len(wanted_items)) > _MAX_ITEMS or min(len(items), len(wanted_items)) < 1:
        return None
    if len(wanted_items) == 1 or len(items) == 1:
        return _compare_single(items, wanted_items, brackets or wanted_brackets)
    if "{}" in (brackets, wanted_brackets) or (brackets == wanted_brackets == ""):
        if {brackets, wanted_brackets} - {"", "{}"}:
            return None
        return _compare_unordered(items, wanted_items, depth)
    if brackets != wanted_brackets and brackets and wanted_brackets:
        return False
    if len(items) != len(wanted_items):
        return False
    results = [_compare_item(a, b, depth) for a, b in zip(items, wanted_items, strict=True)]
    return False if False in results else (None if None in results else True)


def _compare_single(items: list[str], wanted_items: list[str], brackets: str) -> bool | None:
    """One value against one or more: a number is not several numbers; all else is open."""
    if len(items) == len(wanted_items) or brackets:
        return None
    numbers = [read_quantity(item) for item in (*items, *wanted_items)]
    return None if None in numbers or len(set(numbers)) == 1 else False


def _compare_unordered(items: list[str], wanted_items: list[str], depth: int) -> bool | None:
    """Whether each item has an equal on the other side, as sets have."""
    table = [[_compare_item(a, b, depth) for b in wanted_items] for a in items]
    lines = [*table, *([row[j] for row in table] for j in range(len(wanted_items)))]
    if all(True in line for line in lines):
        return True if len(items) == len(wanted_items) else None
    return None if any(True not in line and None in line for line in lines) else False


def _compare_item(given: str, wanted: str, depth: int) -> bool | None:
    results = [_compare_reading(a, b, depth + 1) for a, b in _readings(given, wanted)]
    return True if True in results else (None if None in results else False)


def _without_parentheses(text: str) -> str:
    """`(5)` as `5`; a pair such as `(1, 2)` stays."""
    if text[:1] == "(" and text[-1:] == ")" and _one_bracket(text) and not _SEPARATOR.search(text):
        return text[1:-1].strip()
    return text


def _one_bracket(text: str) -> bool:
    """Whether the first sign's bracket is closed by the last sign: true of `(1,2]`, false of `(1,2)+(3,4)`."""
    depth = 0
    for i, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False
