"""Exact comparison of numbers and formulas that SymPy has parsed. Only the symbolic worker imports this module.

Two rational numbers are compared as fractions. For two algebraic numbers, a separation bound says how small a nonzero
difference can be; the difference is evaluated to that number of digits, and counts as zero if it is smaller. This is
the BFMS bound (Burnikel, Fleischer, Mehlhorn, Schirra, "A strong and easily computable separation bound for arithmetic
expressions involving radicals", Algorithmica 27, 2000). No such bound is known for numbers with pi, e, logarithms or
trigonometric functions. For these, the number of digits grows with the size of the expression.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

_MAX_DIGITS = 20_000
_SPARE_DIGITS = 40
# Without a separation bound, this number of digits must agree, plus `_PER_DIGIT` for each digit of the integers in the
# expression.
_TRANSCENDENTAL_DIGITS = 200
_PER_DIGIT = 4
_SAMPLES = ((7, 11, 13, 5, 17, 3, 19, 23), (Fraction(5, 7), Fraction(3, 11), Fraction(2, 5), Fraction(9, 13)),
            (Fraction(-7, 5), Fraction(-11, 9), Fraction(-13, 6), Fraction(-17, 4)))  # fmt: skip

SYMPY_CANNOT = (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError)
"""Errors that SymPy raises if it cannot evaluate an expression. It has no special error class for this."""


class TooCloseError(ArithmeticError):
    """Two numbers are equal in all digits that were computed, but too few digits can be computed to prove it."""


def exact(expression: Any) -> Any:
    """Return an expression with its decimals as fractions, evaluated as far as SymPy can do this exactly.

    The variable `i` becomes the imaginary unit.
    """
    from sympy import Float, I, Rational

    decimals = {number: Rational(str(number)) for number in expression.atoms(Float)}
    imaginary = {symbol: I for symbol in expression.free_symbols if symbol.name == "i"}
    return expression.xreplace(decimals | imaginary).doit()


def same_constant(given: Any, wanted: Any) -> bool:
    """Whether two expressions without variables are the same number. False if the difference is not a finite number.

    Raises:
        TooCloseError: the decision would need more than `_MAX_DIGITS` digits.
    """
    if given == wanted:
        return True
    if given.is_Rational and wanted.is_Rational:
        return False
    difference = given - wanted
    if difference.is_Rational:
        return bool(difference == 0)
    coarse = _value(difference, 30)
    if coarse is None:
        return False  # not a finite number, such as 1/0
    scale = max(_size(_value(given, 15)), _size(_value(wanted, 15)), 1e-300)
    if _size(coarse) > 1e-12 * scale:
        return False
    digits = _digits_to_tell(difference)
    if digits > _MAX_DIGITS:
        raise TooCloseError(f"{digits:.0f} digits would be needed")
    return _is_zero(difference, int(digits))


def same_formula(given: Any, wanted: Any) -> bool | None:
    """Whether two formulas are equal, by their values at sample points. None if the points cannot decide.

    If the values at the first point (positive integers) differ, the formulas are different. If the values agree at
    all points (also fractions and negative numbers), the formulas are equal.
    """
    names = sorted(given.free_symbols | wanted.free_symbols, key=lambda symbol: symbol.name)
    if given.free_symbols != wanted.free_symbols:
        from sympy import expand

        difference = expand(given - wanted)
        if difference == 0:
            return True
    if len(names) > min(map(len, _SAMPLES)):
        return None
    agreed = []
    for values in _SAMPLES:
        given_value, wanted_value = (_at(expression, names, values) for expression in (given, wanted))
        agreed.append(
            given_value is not None and wanted_value is not None and same_constant(given_value, wanted_value)
        )
        if not agreed[0]:
            return False if given_value is not None or wanted_value is not None else None
    return True if all(agreed) else None


def _at(expression: Any, names: list[Any], values: tuple[Any, ...]) -> Any:
    from sympy import Rational, nan, zoo

    point = {name: Rational(str(value)) for name, value in zip(names, values, strict=False)}
    value = expression.subs(point).doit()
    return None if value.has(nan, zoo) or value.free_symbols else value


def _value(expression: Any, digits: int) -> Any:
    from sympy import N

    try:
        value = N(expression, digits)
    except SYMPY_CANNOT:
        return None
    finite = value.is_number and all(part.is_Float or part.is_Rational for part in value.as_real_imag())
    return value if finite and value.is_finite is not False else None


def _size(value: Any) -> float:
    if value is None:
        return 0.0
    try:
        return max(abs(float(part)) for part in value.as_real_imag())
    except OverflowError:
        return math.inf


def _is_zero(difference: Any, digits: int) -> bool:
    """Whether the absolute value of a number is at most 10 to the minus `digits`."""
    from sympy import Float

    value = difference.evalf(10, maxn=digits + _SPARE_DIGITS)
    bound = Float(10, 30) ** -digits
    for part in value.as_real_imag():
        if part != 0 and part.is_Float and abs(part) > bound and _is_certain(part):
            return False
    return True


def _is_certain(part: Any) -> bool:
    return bool(part._prec > 1)


def _digits_to_tell(expression: Any) -> float:
    """Return the number of decimal places within which a nonzero number must have a nonzero digit."""
    bound = _separation(expression)
    if bound is None:
        return _TRANSCENDENTAL_DIGITS + _PER_DIGIT * _length(expression)
    upper, lower, degree = bound
    return float((degree - 1) * upper + lower) + 1


def _length(expression: Any) -> int:
    return sum(len(str(int(abs(number.p)))) + len(str(int(number.q))) for number in _numbers(expression))


def _numbers(expression: Any) -> Iterator[Any]:
    if expression.is_Rational:
        yield expression
    for argument in expression.args:
        yield from _numbers(argument)


def _separation(expression: Any) -> tuple[float, float, int] | None:
    """Return the parts of the BFMS bound: log10 of u, log10 of l, and the degree. None for a non-algebraic number."""
    from sympy import I

    if expression.is_Rational:
        return _log10(abs(int(expression.p))), _log10(int(expression.q)), 1
    if expression is I or expression == I:
        return 0.0, 0.0, 2
    if not (expression.is_Add or expression.is_Mul or expression.is_Pow):
        return None
    if expression.is_Pow:
        return _power(expression)
    upper, lower, degree = 0.0, 0.0, 1
    for i, argument in enumerate(expression.args):
        part = _separation(argument)
        if part is None:
            return None
        if i == 0:
            upper, lower, degree = part
        elif expression.is_Mul:
            upper, lower, degree = upper + part[0], lower + part[1], degree * part[2]
        else:
            first, second = upper + part[1], lower + part[0]
            upper, lower = max(first, second) + 0.302, lower + part[1]
            degree *= part[2]
    return upper, lower, degree


def _power(expression: Any) -> tuple[float, float, int] | None:
    base, exponent = _separation(expression.base), expression.exp
    if base is None or not exponent.is_Rational:
        return None
    power, root = abs(int(exponent.p)), int(exponent.q)
    upper, lower = (base[1], base[0]) if exponent.is_negative else base[:2]
    if root > 64 or base[2] * root > 10_000:
        return math.inf, 0.0, 2
    return upper * power / root, lower * power / root, base[2] * root


def _log10(number: int) -> float:
    return (
        math.log10(number)
        if 0 < number < 10**300
        else (number.bit_length() * math.log10(2) if number else 0.0)
    )
