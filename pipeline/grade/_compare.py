r"""Compare two answers by text and exact arithmetic. The rest is left to computer algebra.

The result is a tree (`Tree`): True, False, a pair of formulas that computer algebra must compare, or `all` / `any` of
such trees. Lists, matrices and equations are split here, so that computer algebra compares single values.

    >>> compare(r"\{1, \sqrt{4}\}", r"\{2, 1\}")
    ('all', (('any', (('pair', '\\sqrt{4}', '2'), ('pair', '\\sqrt{4}', '1'))), ('pair', '\\sqrt{4}', '2')))
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from diva_grpo.pipeline.grade._answer_text import bare_answer, key
from diva_grpo.pipeline.grade._quantity import Quantity, drop_unit, read_quantity, same_quantity
from diva_grpo.pipeline.grade._structure import (
    Table,
    read_table,
    split_items,
    split_list,
    split_outside,
    without_parentheses,
)
from diva_grpo.pipeline.grade._tree import Tree, all_of, any_of, pair_count
from diva_grpo.pipeline.grade._words import (
    CJK,
    hedges,
    is_prose,
    number_of_words,
    same_product_of_letters,
    says_other_than,
)

# A longer text is compared only as text, because answers are short.
MAX_ANSWER_CHARS = 2_000
_MAX_ITEMS = 50
_MAX_PAIRS = 600
_MAX_DEPTH = 5

_LABEL = re.compile(r"\(\s*([A-Z])\s*\)[.:]?\s*(?=\S)|([A-Z])\s*[).:]\s+(?=\S)")
_NAME = re.compile(
    rf"""
    \\?[A-Za-z]+'*(?:_(?:\{{[\w\s\\]+\}}|\w))?(?:\s*\([^()=]{{0,20}}\))?
  | \\frac\s*\{{\s*d\s*\w*\s*\}}\s*\{{\s*d\s*\w+\s*\}} | m?\s*\\(?:angle|triangle)\s*\w+(?:\s*[A-Z])*
  | \|\s*[A-Z]{{1,2}}\s*\|
  | \(\s*[a-zA-Z]\s*(?:,\s*[a-zA-Z]\s*)*\) | \\(?:overline|vec|bar|hat)\s*\{{\s*[A-Za-z]+\s*\}}
  | [A-Za-z][A-Za-z\s'-]*(?:\([A-Za-z]+\))? | [{CJK}A-Za-z]{{1,20}}
    """,
    re.VERBOSE,
)
_CONSTANT = frozenset(("e", "i", r"\pi", r"\infty", r"\emptyset"))
_VARIABLE = re.compile(r"[A-Za-df-z]")  # e is a number
_EQUALS = re.compile(
    r"(?<![<>!:\\])=(?!=)|≡|\\equiv(?![A-Za-z])|\\(?:implies|Rightarrow|rightarrow|to|iff|Leftrightarrow|Longrightarrow)(?![A-Za-z])|⇒|→"
)
_APPROXIMATELY = re.compile(r"\\(?:approx|simeq|doteq|fallingdotseq)(?![A-Za-z])|≒|≐")
_MEMBER = re.compile(r"\s*\\in(?![A-Za-z])\s*")
_ORDER = re.compile(r"[<>]|\\(?:le|ge|ne|lt|gt|leq|geq|neq|leqslant|geqslant)(?![A-Za-z])|!=")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_BASED = re.compile(r"\(?(?P<digits>-?[\dA-F]+)\)?\s*_\s*(?:\{\s*(?P<base>\w+)\s*\}|(?P<base1>\d+))")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_SAID = re.compile(
    rf"""
    (?:[A-Za-z][\w'’-]*,?\s+){{0,25}}(?:is|are|was|were|be|becomes?|equals?|has|have|had|gets?|got|needs?
      |costs?|makes?|earns?|total|answer|exactly|approximately|about)(?:\s+(?:equal\s+to|exactly|given\s+by|approximately|about|a\s+total\s+of))*
      \s*:?\s+(?P<value>\S.*)
  | [{CJK}\w,\s]{{0,40}}?(?:[为是得共有]|等于|:)\s*(?P<chinese>[^{CJK}\s].*)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LEADING_CHINESE = re.compile(r"(?:综上(?:所述)?|因此|所以|故|于是|即|解得|则|答|解)\s*[,:]?\s*(?=\S)")
_MODULUS = re.compile(r"\\pmod\s*(?:\{[^{}]*\}|\w)$|\(?\s*\\?mod\s+\w+\s*\)$")
_COMMAND = re.compile(r"\\[A-Za-z]+")
# Commands that the computer algebra understands. Any other command must occur in both texts.
_ALGEBRA = frozenset(
    """
    frac sqrt pi infty cdot times div pm mp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh
    log ln lg exp binom choose sum prod int lim cup cap setminus in le leq ge geq lt gt ne neq leqslant
    geqslant begin end overline mathbb mod pmod bmod circ emptyset to ldots dots cdots mid prime lfloor
    rfloor lceil rceil max min gcd lcm det alpha beta gamma delta epsilon varepsilon zeta eta theta
    vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta
    Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar partial nabla mathring vec hat bar tilde dot dfrac
    tfrac cfrac log_ operatorname rm left right ast star quad land lor wedge vee
    """.split()
)
_LITTER = re.compile(r"[@#&\"`?$]|~")


def compare(answer: str, reference: str) -> Tree:
    """Compare two answers without computer algebra.

    Args:
        answer: an extracted answer: LaTeX, numbers with units, lists, words.
        reference: the answer that is known to be right.

    Returns:
        True or False if the comparison is decided, else a tree of the formulas that computer algebra must compare.
    """
    if len(answer) > MAX_ANSWER_CHARS or len(reference) > MAX_ANSWER_CHARS:
        return answer.strip() == reference.strip()
    given, wanted = bare_answer(answer), bare_answer(reference)
    if key(given) == key(wanted):
        return True
    spelt = number_of_words(given)
    if spelt is None and says_other_than(given, wanted):
        return False
    tree = any_of(_tree(a, r, 0) for a, r in _readings(given, wanted))
    return tree if pair_count(tree) <= _MAX_PAIRS else False


def _readings(given: str, wanted: str) -> list[tuple[str, str]]:
    """Return pairs of forms of the answer and the reference, to be compared.

    A label such as the `(B)` in `(B) 12` is removed from both. Further forms are without the sentence around a value
    or, for the answer, without its modulus.
    """
    answers, references = [given], [wanted]
    label, wanted_label = _LABEL.match(given), _LABEL.match(wanted)
    if label:
        answers = [given[label.end() :]]
    if wanted_label:
        references = [wanted[wanted_label.end() :]]
    if (led := _LEADING_CHINESE.match(answers[-1])) is not None:
        answers.append(answers[-1][led.end() :])
    if (modulus := _MODULUS.search(answers[-1])) is not None and not _MODULUS.search(wanted):
        answers.append(answers[-1][: modulus.start()].strip())
    said = _SAID.fullmatch(answers[-1]) if is_prose(answers[-1]) else None
    if said:
        answers.append((said["value"] or said["chinese"]).strip())
    if is_prose(wanted) and (said := _SAID.fullmatch(wanted)) and not is_prose(given):
        references.append((said["value"] or said["chinese"]).strip())
    return [(a, r) for a in dict.fromkeys(answers) for r in dict.fromkeys(references) if a and r]


def _tree(given: str, wanted: str, depth: int) -> Tree:
    """Compare one form of the answer with one form of the reference (see `_readings`).

    Args:
        given: the answer.
        wanted: the reference.
        depth: level of recursion, from 0. Above `_MAX_DEPTH`, texts with different `key`s count as different.
    """
    if key(given) == key(wanted):
        return True
    if depth > _MAX_DEPTH:
        return False
    given, wanted = without_parentheses(given), without_parentheses(wanted)
    based = _compare_bases(given, wanted)
    if based is not None:
        return based
    table, wanted_table = read_table(given), read_table(wanted)
    if table or wanted_table:
        tree = _compare_tables(given, table, wanted, wanted_table, depth)
        if tree is not None:
            return tree
    number, wanted_number = read_quantity(given), read_quantity(wanted, glued_units=False)
    if number and wanted_number:
        if same_quantity(number, wanted_number):
            return True
        if number.unit is not None or wanted_number.unit is not None or ":" not in given + wanted:
            return False
    tree = _compare_lists(given, wanted, depth)
    if tree is not None:
        return tree
    tree = _compare_equations(given, wanted, depth)
    if tree is not None:
        return tree
    if number and wanted_number:
        return False
    return _pair(given, number, wanted, wanted_number)


def _pair(given: str, number: Quantity | None, wanted: str, wanted_number: Quantity | None) -> Tree:
    """Compare two formulas, or leave them to computer algebra (`("pair", given, wanted)`).

    Texts in words, and formulas with parts that computer algebra does not know, are decided here.
    """
    if same_product_of_letters(given, wanted):
        return True
    given, wanted = drop_unit(given), drop_unit(wanted)
    prose, wanted_prose = is_prose(given), is_prose(wanted)
    if prose or wanted_prose:
        return key(given) == key(wanted)
    if wanted_number is not None and _VARIABLE.fullmatch(given):
        return False
    if number is not None and _VARIABLE.fullmatch(wanted):
        return False
    if _strange(given) ^ _strange(wanted):
        return False
    if re.search(r"(?<![\w.^_{}])\d+(?:\.\d+)?\s+\d|\\l?dots|\.\.|(?<!\\)'$", given):
        return False  # `5 6` is not a product
    return ("pair", given, wanted)


def _strange(text: str) -> set[str]:
    """Return the parts of a text that the computer algebra would ignore without an error."""
    commands = {name for name in _COMMAND.findall(text) if name[1:] not in _ALGEBRA}
    bars = {"|"} if text.count("|") % 2 else set()
    litter = set(_LITTER.findall(text)) - ({"&"} if "\\begin" in text else set())
    return commands | bars | litter


def _compare_bases(given: str, wanted: str) -> bool | None:
    """Compare numbers with a base: `2134` and `2134_5` are equal. None if neither text has a base.

    They are different if a number has a digit that its base does not have.
    """
    based, wanted_based = _BASED.fullmatch(given), _BASED.fullmatch(wanted)
    if not based and not wanted_based:
        return None
    if any(found and not _has_digits(found) for found in (based, wanted_based)):
        return False
    digits = based["digits"] if based else given
    wanted_digits = wanted_based["digits"] if wanted_based else wanted
    if based and wanted_based and _base(based) != _base(wanted_based):
        return False
    return digits == wanted_digits


def _base(found: re.Match[str]) -> int:
    text = found["base"] or found["base1"]
    return int(text) if text.isdigit() and len(text) < 4 else _BASES.get(text, 0)


def _has_digits(found: re.Match[str]) -> bool:
    return all(int(digit, 16) < _base(found) for digit in found["digits"].lstrip("-"))


def _compare_tables(
    given: str, table: Table | None, wanted: str, wanted_table: Table | None, depth: int
) -> Tree | None:
    """Compare matrices, vectors and cases, entry by entry; None if they must be compared in another way.

    Args:
        given: the answer.
        table: the answer as a table; None if it is not one.
        wanted: the reference.
        wanted_table: the reference as a table; None if it is not one.
        depth: level of recursion, see `_tree`.
    """
    if table and wanted_table:
        if {table.kind, wanted_table.kind} == {"cases"}:
            return _unordered([_row(r) for r in table.rows], [_row(r) for r in wanted_table.rows], depth)
        if table.kind == wanted_table.kind:
            same = _entries(table.rows, wanted_table.rows, depth)
            return any_of([same, ("pair", given, wanted)]) if table.kind == "determinant" else same
        return False if "cases" in (table.kind, wanted_table.kind) else ("pair", given, wanted)
    found, other = (table, wanted) if table else (wanted_table, given)
    assert found is not None
    if found.kind == "determinant":
        return None
    if found.kind == "cases":
        items = [_row(row) for row in found.rows]
        others = split_items(other) if all(len(row) == 1 for row in found.rows) else [other]
        return _unordered(items, others, depth) if table else _unordered(others, items, depth)
    if "\\begin" in other:
        return None if _equations_of(other) == 1 else _compare_equations(given, wanted, depth)
    brackets, items = split_list(other)
    flat = [entry for row in found.rows for entry in row]
    if brackets in ("()", "[]") and len(items) == len(flat) and 1 in (len(found.rows), len(found.rows[0])):
        return all_of(
            _tree(a, b, depth + 1) for a, b in zip(*((flat, items) if table else (items, flat)), strict=True)
        )
    return _compare_equations(given, wanted, depth) or False


def _equations_of(text: str) -> int:
    return len(split_outside(text, _EQUALS))


def _row(entries: Sequence[str]) -> str:
    return entries[0] if len(entries) == 1 else f"({', '.join(entries)})"


def _entries(rows: list[list[str]], wanted_rows: list[list[str]], depth: int) -> Tree:
    if [len(row) for row in rows] != [len(row) for row in wanted_rows]:
        return False
    flat = [entry for row in rows for entry in row]
    wanted_flat = [entry for row in wanted_rows for entry in row]
    return all_of(_tree(a, b, depth + 1) for a, b in zip(flat, wanted_flat, strict=True))


def _compare_lists(given: str, wanted: str, depth: int) -> Tree | None:
    """Compare lists, sets, ordered pairs and intervals; None if neither text is of this kind."""
    brackets, items = split_list(given)
    wanted_brackets, wanted_items = split_list(wanted)
    sides = ((given, brackets, items), (wanted, wanted_brackets, wanted_items))
    one_equation = any(len(some) == 1 and not around and _is_equation(text) for text, around, some in sides)
    if one_equation and not _PLUS_MINUS.search(given + wanted):
        return None
    if len(items) == 1 and not brackets:
        items = _plus_minus(given)
    if len(wanted_items) == 1 and not wanted_brackets:
        wanted_items = _plus_minus(wanted)
    if (
        not items
        or not wanted_items
        or (len(items) == 1 and len(wanted_items) == 1 and not (brackets and wanted_brackets))
    ):
        return None
    if max(len(items), len(wanted_items)) > _MAX_ITEMS:
        return False
    if _is_range(given, wanted):
        return _ranges(given, wanted)
    if len(items) == 1 or len(wanted_items) == 1:
        return _one_against_several(brackets, items, wanted_brackets, wanted_items, depth)
    if "{}" in (brackets, wanted_brackets) or (brackets == wanted_brackets == ""):
        if {brackets, wanted_brackets} - {"", "{}"}:
            return False  # a set is not an ordered pair
        if "{}" not in (brackets, wanted_brackets) and len(items) != len(wanted_items):
            return False
        return _unordered(items, wanted_items, depth)
    if (brackets != wanted_brackets and brackets and wanted_brackets) or len(items) != len(wanted_items):
        return False
    return all_of(_tree(a, b, depth + 1) for a, b in zip(items, wanted_items, strict=True))


def _one_against_several(
    brackets: str, items: list[str], wanted_brackets: str, wanted_items: list[str], depth: int
) -> Tree | None:
    """Compare one value with a list. Each item of the list must be equal to the value, as in `1/2 or 0.5`."""
    if len(items) == len(wanted_items):
        return _tree(items[0], wanted_items[0], depth + 1) if brackets == wanted_brackets else False
    listed = brackets if len(items) > 1 else wanted_brackets
    if listed not in ("", "{}"):
        return False
    return all_of(_tree(a, b, depth + 1) for a in items for b in wanted_items)


def _plus_minus(text: str) -> list[str]:
    r"""Split a text with one plus-minus sign into two: `\pm 2` becomes `2` and `- 2`. Other texts stay one item."""
    found = _PLUS_MINUS.findall(text)
    if len(found) != 1 or _ORDER.search(text):
        return [text]
    values = [_PLUS_MINUS.sub(sign, text).strip() for sign in ("+", "-")]
    return [re.sub(r"(^|[=(,])\s*\+\s*", r"\1", value) for value in values]


def _is_equation(text: str) -> bool:
    return (
        len(split_outside(text, _EQUALS)) > 1
        or len(_APPROXIMATELY.split(text)) > 1
        or len(_MEMBER.split(text)) > 1
    )


def _is_range(given: str, wanted: str) -> bool:
    """Whether the texts must be compared as sets of numbers.

    This is the case if only one of them has an order relation (the other may be an interval), or if one contains a
    set operation or a set such as the real numbers.
    """
    ordered = [_ORDER.search(text) is not None for text in (given, wanted)]
    return (
        ordered[0] != ordered[1]
        or re.search(r"\\(?:cup|cap|setminus|mathbb)(?![A-Za-z])", given + wanted) is not None
    )


def _ranges(given: str, wanted: str) -> Tree:
    """Compare inequalities, intervals and unions. Computer algebra compares them as sets of numbers."""
    if is_prose(given) or is_prose(wanted) or _strange(given) ^ _strange(wanted):
        return False
    return ("pair", given, wanted)


def _unordered(items: list[str], wanted_items: list[str], depth: int) -> Tree:
    """Compare lists as sets: each item must be equal to an item of the other list."""
    if max(len(items), len(wanted_items)) > _MAX_ITEMS:
        return False
    table = [[_tree(a, b, depth + 1) for b in wanted_items] for a in items]
    lines = [*table, *([row[j] for row in table] for j in range(len(wanted_items)))]
    return all_of(any_of(line) for line in lines)


def _compare_equations(given: str, wanted: str, depth: int) -> Tree | None:
    r"""Compare answers or references with equations, such as `x = 5`, `a = b = 5` or `5\pi \approx 15.7`.

    Every value in the answer must match the reference. None if the texts must be compared in another way.
    """
    if _ORDER.search(given) or _ORDER.search(wanted):
        return None
    member = _MEMBER.split(given, maxsplit=1)
    if len(member) == 2 and _is_name(member[0]) and not _MEMBER.search(wanted):
        return _tree(member[1], wanted, depth + 1)
    sides, wanted_sides = split_outside(given, _EQUALS), split_outside(wanted, _EQUALS)
    rounded = [part for side in sides for part in _APPROXIMATELY.split(side)[1:]]
    wanted_rounded = _APPROXIMATELY.split(wanted)
    if not rounded and len(wanted_rounded) == 2:
        return any_of(_tree(given, part.strip(), depth + 1) for part in wanted_rounded)
    if len(sides) == 1 and len(wanted_sides) == 1 and not rounded:
        return None
    if "" in sides:
        sides = [side for side in sides if side]
        if not sides or len(sides) + 1 < given.count("="):
            return False
    if len(wanted_sides) == 2 and any(map(_is_name, wanted_sides)):
        return _against_named(given, sides, wanted_sides, depth)
    if len(wanted_sides) > 1:
        return None if not rounded else False
    return _chain(sides, wanted, depth)


def _against_named(given: str, sides: list[str], wanted_sides: list[str], depth: int) -> Tree | None:
    """Compare with a reference such as `x = 5`. The answer may omit the name; another name is wrong.

    Args:
        given: the answer.
        sides: the answer, split at its equals signs.
        wanted_sides: the reference, split at its equals sign.
        depth: level of recursion, see `_tree`.
    """
    name, value = wanted_sides if _is_name(wanted_sides[0]) else wanted_sides[::-1]
    if len(sides) == 1:
        return _tree(given, value, depth + 1)
    names = [side for side in sides if _is_name(side)]
    if (
        names
        and not is_prose(name)
        and all(key(side) != key(name) for side in names)
        and not all(map(is_prose, names))
    ):
        formula = len(sides) == 2 and not all(_is_number(side) or _is_name(side) for side in (*sides, value))
        return ("pair", given, "=".join(wanted_sides)) if formula else False
    if names:
        return _chain(sides, value, depth)
    return None if not _is_number(value) else False


def _chain(sides: list[str], wanted: str, depth: int) -> Tree:
    r"""Compare each value in an answer such as `x = a = 5` with the reference. All must match.

    Names (`x`) are skipped. If the reference has no variables, sides with variables are skipped too. In a side
    such as `5\pi \approx 15.7`, one value must match the reference, and the other values must be close to the first.
    If no value is left (`AB = CD`), the last side is compared.
    """
    letters = _has_letters(wanted)
    values: list[Tree] = []
    for side in sides:
        exact, *rounded = (part.strip() for part in _APPROXIMATELY.split(side))
        if not rounded:
            if _is_name(side) or (not letters and _has_letters(side)):
                continue
            values.append(_tree(side, wanted, depth + 1))
            continue
        plain = [part for part in (exact, *rounded) if part and not _is_name(part)]
        if not letters:
            plain = [part for part in plain if not _has_letters(part)]
        near = [("near", plain[0], part) for part in plain[1:]]
        values.append(all_of([any_of(_tree(part, wanted, depth + 1) for part in plain), *near]))
    if not values:  # names on all sides: `AB = CD`
        return _tree(sides[-1], wanted, depth + 1)
    return all_of(values)


def _is_name(text: str) -> bool:
    text = text.strip()
    return (
        text not in _CONSTANT
        and _NAME.fullmatch(text) is not None
        and number_of_words(text) is None
        and not hedges(text)
    )


def _is_number(text: str) -> bool:
    return read_quantity(text) is not None


def _has_letters(text: str) -> bool:
    """Whether a formula contains variables. Functions, constants and units are not variables."""
    bare = re.sub(
        r"\\(?:frac|sqrt|pi|cdot|times|div|circ|sin|cos|tan|log|ln|infty|begin\{\w+\}|end\{\w+\})(?![A-Za-z])",
        " ",
        text,
    )
    bare = drop_unit(bare.strip())
    return re.search(r"\\[A-Za-z]|(?<![A-Za-z])[A-Za-df-hj-z](?![A-Za-z])|[A-Za-z]{2,}", bare) is not None
