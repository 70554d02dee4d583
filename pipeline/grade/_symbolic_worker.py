"""The process that runs computer algebra for `diva_grpo.pipeline.grade._symbolic`. Not to be imported elsewhere.

    from diva_grpo.pipeline.grade._symbolic_worker import main; main()      (standard input: a SOCK_SEQPACKET socket)

It imports SymPy and math-verify once, then forks a child for each request. The child alone touches the answers;
the kernel's interval timer ends it at the deadline wherever it is, be it in the middle of one multiplication of
huge integers, which no Python signal handler or thread could interrupt. So this process never hangs, never grows,
and every request meets the same state.

A request is one packet, a JSON object with `seconds` and a `tree` of comparisons (see
`diva_grpo.pipeline.grade._compare`), and one file descriptor for the reply: `equal`, `different` or `undecided`.
Closing it without a reply means that the child died. A request with `texts` in place of the tree asks for the
verdict of math-verify alone.
When its peer is gone, be it by SIGKILL, the socket reports its end and the process exits.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import select
import signal
import socket
import sys
from fractions import Fraction
from typing import Any, NoReturn

from diva_grpo.pipeline.grade._answer_text import closing
from diva_grpo.pipeline.grade._exact import SYMPY_CANNOT, TooCloseError, exact, same_constant, same_formula
from diva_grpo.pipeline.grade._quantity import TRIGONOMETRY, Quantity, read_quantity, same_quantity

MAX_PACKET = 131_072
READY = b"ready"
EQUAL = b"equal"
DIFFERENT = b"different"
UNDECIDED = b"undecided"
# Digits of an irrational number that a decimal is compared with, and of math-verify's own comparisons.
_DIGITS = 50
_EXACT_PLACES = 60
_IDLE_S = 0.05
_MEMORY_BYTES = 2 << 30
# Nested answers recurse deeply in the parser; too deep, and the child dies instead of the parse failing silently.
_RECURSION_LIMIT = 20_000
_WARM_UP = (
    (r"\frac{\sqrt{3}}{2}+1", r"1-\frac{3x}{2\sqrt[3]{5}}"),
    (r"(1, 2] \cup [3, \infty)", r"1 < x \le 2"),
    (r"2x^{2}+\sin(\theta)", r"\pi r^2-\{1, 2\}"),
    (r"\frac{4}{5}(\sqrt{2}-1)", r"(4-\sqrt{3})\sqrt{3}"),
    (r"2^{20} + 2 \cdot 3^{14}", r"\frac{40}{3} \pi r+16"),
    (r"\frac{3}{4}AB^2", r"(x+1)(x-2)"),
)
_INEQUALITY = re.compile(r"[<>]|\\[lg]eq?(?![A-Za-z])")
_OR = re.compile(r"\s+or\s+|\\(?:lor|vee)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_COMMAND_OR_CAPITAL = re.compile(r"\\[A-Za-z]+|[A-Z]")
_PLAIN = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"(?<![A-Za-z\\])(pi|sin|cos|tan|log|ln|exp)(?![a-z])"), r"\\\1 "),
    (re.compile(r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![a-z])"), r"\\infty "),
    (re.compile(r",?\s(?:and|or)\s"), ", "),
)


def to_latex(bare: str) -> str:
    """Plain-text mathematics as the LaTeX that math-verify reads: `2*pi`, `x**2`, `x^(1/3)`, `x <= 2`.

    Degrees in the argument of a function become radians; elsewhere they are units.
    """
    text = bare
    if TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    start = text.find("^(")
    while start >= 0:
        end = closing(text, start + 1, "()")
        if end is None:
            break
        text = f"{text[: start + 1]}{{{text[start + 2 : end]}}}{text[end + 1 :]}"
        start = text.find("^(", start + 1)
    return text


def distinguish_cases(texts: list[str]) -> list[str]:
    """Capitals renamed where a text also holds the small letter: math-verify takes S and s for the same symbol."""
    clashes = {
        capital
        for text in texts
        for bare in [_COMMAND.sub(" ", text)]
        for capital in set(re.findall(r"[A-Z]", bare))
        if capital.lower() in bare
    }
    return [
        _COMMAND_OR_CAPITAL.sub(lambda m: f"{m[0]}_{{9}}" if m[0] in clashes else m[0], text)
        for text in texts
    ]


def equal(answer: str, reference: str) -> bool:
    """Whether two bare formulas are equal.

    Raises:
        TooCloseError: two numbers can be told neither apart nor equal.
    """
    from sympy import Expr

    given, wanted = _parse(answer, reference)
    if not given or not wanted:
        return False
    if not all(isinstance(parsed[0], Expr) and not parsed[0].is_Matrix for parsed in (given, wanted)):
        return _verified(given, wanted)
    try:
        return _equal_formulas(answer, reference, given[0], wanted[0])
    except TooCloseError:
        raise
    except SYMPY_CANNOT:
        return _verified(given, wanted)


def _equal_formulas(answer: str, reference: str, given: Any, wanted: Any) -> bool:
    """Whether two parsed formulas are equal: numbers exactly or as decimals, others at sample points."""
    from sympy import Expr

    first, second = exact(given), exact(wanted)
    if not isinstance(first, Expr) or not isinstance(second, Expr):
        return _verified([first], [second])
    if not first.free_symbols and not second.free_symbols:
        given_number = read_quantity(answer) or _evaluated(first)
        wanted_number = read_quantity(reference, glued_units=False) or _evaluated(second)
        rounded = any(
            q is not None and (q.places is not None or q.scale != 1) for q in (given_number, wanted_number)
        )
        if rounded and given_number and wanted_number:
            return same_quantity(given_number, wanted_number)
        return same_constant(first, second)
    if not first.free_symbols or not second.free_symbols:
        difference = (first - second).expand()
        if difference.free_symbols and same_formula(first, second) is False:
            return False
    same = same_formula(first, second)
    return _verified([first], [second]) if same is None else same


def near(exact_text: str, rounded_text: str) -> bool:
    """Whether a decimal is a value rounded or cut off, as in `5\\pi = 15.7`."""
    from sympy import Expr

    rounded = read_quantity(rounded_text)
    given, _ = _parse(exact_text, "0")
    if rounded is None or not given or not isinstance(given[0], Expr):
        return equal(exact_text, rounded_text)
    number = read_quantity(exact_text) or _evaluated(exact(given[0]))
    unit_of_last_place = Fraction(1, 10 ** (rounded.places or 0))
    gap = None if number is None else abs(number.value - rounded.value)
    return gap is not None and (gap < unit_of_last_place if rounded.places else gap * 2 <= unit_of_last_place)


def _parse(answer: str, reference: str) -> tuple[list[Any], list[Any]]:
    from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse

    # Units are dropped already, with more care: to math-verify the s of 4s is a unit.
    reading = LatexExtractionConfig(
        normalization_config=LatexNormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
        )
    )

    def read(text: str) -> list[object]:
        if _INEQUALITY.search(text) and len(parts := _OR.split(text)) > 1:
            return _union([read(part) for part in parts])
        # Without its time-outs, which need the main thread's signals: the caller's timer stands over all of it.
        return list(parse(f"${to_latex(text)}$", [reading], parsing_timeout=None))

    first, second = (read(text) for text in distinguish_cases([answer, reference]))
    return first, second


def _verified(given: list[object], wanted: list[object]) -> bool:
    """Math-verify's verdict, at a precision that tells small numbers from zero."""
    from math_verify import verify

    return bool(
        verify(
            wanted,
            given,
            float_rounding=_EXACT_PLACES,
            numeric_precision=2 * _EXACT_PLACES,
            timeout_seconds=None,
            allow_set_relation_comp=True,
        )
    )


def _union(parts: list[list[object]]) -> list[object]:
    """Inequalities joined by `or` as one set of numbers; nothing if one is not an inequality in one variable."""
    from sympy import Union
    from sympy.core.relational import Relational

    relations = [part[0] for part in parts if part and isinstance(part[0], Relational)]
    if len(relations) < len(parts) or any(len(relation.free_symbols) != 1 for relation in relations):
        return []
    return [Union(*(relation.as_set() for relation in relations))]


def _evaluated(number: object) -> Quantity | None:
    """A real number without variables: a fraction as it is, another to `_DIGITS` digits."""
    from sympy import Expr, N

    if not isinstance(number, Expr):
        return None
    try:
        value = number if number.is_Rational else N(number, _DIGITS)
    except SYMPY_CANNOT:
        return None
    if not (value.is_Float or value.is_Rational) or not value.is_finite:
        return None
    return Quantity(Fraction(int(value.p), int(value.q)) if value.is_Rational else Fraction(str(value)))


def decide(tree: Any) -> bool:
    """The verdict of a tree of comparisons.

    Raises:
        TooCloseError: a part that matters cannot be decided.
    """
    if isinstance(tree, bool):
        return tree
    kind, *rest = tree
    if kind == "pair":
        return equal(*rest)
    if kind == "near":
        return near(*rest)
    decisive, open_part = kind == "any", None
    for part in rest[0]:
        try:
            if decide(part) is decisive:
                return decisive
        except TooCloseError as error:
            open_part = error
    if open_part:
        raise open_part
    return not decisive


def _answer(packet: bytes, reply: int) -> None:
    """Serves one request; runs in the child."""
    request = json.loads(packet)
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    try:
        is_equal = _math_verify(*request["texts"]) if "texts" in request else decide(request["tree"])
    except (TooCloseError, MemoryError):
        os.write(reply, UNDECIDED)
        return
    os.write(reply, EQUAL if is_equal else DIFFERENT)


def _math_verify(response: str, reference: str) -> bool:
    """The verdict of math-verify alone, used as its documentation shows."""
    from math_verify import parse, verify

    wanted = parse(reference, parsing_timeout=None) or parse(f"${reference}$", parsing_timeout=None)
    return bool(verify(wanted, parse(response, parsing_timeout=None), timeout_seconds=None))


def _serve(channel: socket.socket) -> None:
    warm_ups = list(_WARM_UP)
    while True:
        # Children inherit what the parser learns about its grammar; requests go first.
        if warm_ups and not select.select([channel], [], [], _IDLE_S)[0]:
            equal(*warm_ups.pop(0))
            continue
        packet, descriptors, _, _ = socket.recv_fds(channel, MAX_PACKET, 1)
        if not packet:
            return
        if os.fork() == 0:
            try:
                channel.close()
                _answer(packet, descriptors[0])
            finally:  # an error ends here as well: the caller sees that there is no reply
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def main() -> NoReturn:
    """Loads the algebra, says so, serves until the peer is gone, and ends the process."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, _MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The default action of SIGALRM ends a process without running any Python. A parent may have ignored or blocked it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    sys.setrecursionlimit(_RECURSION_LIMIT)
    import math_verify  # noqa: F401 - loaded once, for all children

    logging.disable(logging.CRITICAL)  # it warns that its time-outs are off
    channel = socket.socket(fileno=os.dup(0))
    # Failures to start are for the user to see; what the parser prints about odd answers is not.
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    channel.send(READY)
    _serve(channel)
    os._exit(0)
