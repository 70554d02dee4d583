"""The process that runs computer algebra. Only `diva_grpo.pipeline.grade._symbolic` imports this module.

    from diva_grpo.pipeline.grade._symbolic_worker import main; main()      (standard input: a SOCK_SEQPACKET socket)

It imports SymPy and math-verify once, then forks a child for each request. Only the child parses and compares answers.
The interval timer of the kernel ends the child at the deadline, even during a multiplication of huge integers, which
no Python signal handler or thread could interrupt. So this process never hangs, its memory does not grow, and each
request starts from the same state.

A request is one packet: a JSON object with `seconds` and a `tree` of comparisons (see
`diva_grpo.pipeline.grade._compare`), and one file descriptor for the reply, which is `equal`, `different` or
`undecided`. If the descriptor is closed without a reply, the child died. A request with `texts` instead of `tree` asks
for the verdict of math-verify alone.

When the caller ends, even by SIGKILL, the socket is closed and this process exits.
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
from importlib import import_module
from typing import Any, NoReturn

from diva_grpo.pipeline.grade._answer_text import closing
from diva_grpo.pipeline.grade._exact import SYMPY_CANNOT, TooCloseError, exact, same_constant, same_formula
from diva_grpo.pipeline.grade._quantity import TRIGONOMETRY, Quantity, read_quantity, same_quantity

MAX_PACKET = 131_072
READY = b"ready"
EQUAL = b"equal"
DIFFERENT = b"different"
UNDECIDED = b"undecided"
# Significant digits of an irrational number (`_DIGITS`) that is compared with a decimal.
# Decimal places in the comparisons of math-verify (`_EXACT_PLACES`).
_DIGITS = 50
_EXACT_PLACES = 60
_IDLE_S = 0.05
_MEMORY_BYTES = 2 << 30
# The parser needs deep recursion for nested answers. Beyond this limit the child dies, so that no parse fails silently.
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
    """Convert mathematics in plain text (`2*pi`, `x**2`, `x^(1/3)`, `x <= 2`) to the LaTeX that math-verify reads.

    In a text with a trigonometric function, degrees become radians. In other texts they are units and stay.
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
    """Rename a capital letter if a text contains it in lower case too, because math-verify treats S and s as equal."""
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
    """Whether two formulas (as returned by `bare_answer`) are equal. False if one of them cannot be parsed.

    Raises:
        TooCloseError: it cannot be decided whether two numbers are equal.
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
    """Whether two parsed formulas are equal. Numbers are compared exactly or as decimals, others at sample points.

    Args:
        answer: the answer's text.
        reference: the reference's text.
        given: the parsed answer.
        wanted: the parsed reference.
    """
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
    """Whether a decimal is a value that was rounded or cut off, as in `5\\pi = 15.7`."""
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

    # Units were removed before, by stricter rules: math-verify would read the s of 4s as a unit.
    reading = LatexExtractionConfig(
        normalization_config=LatexNormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
        )
    )

    def read(text: str) -> list[object]:
        if _INEQUALITY.search(text) and len(parts := _OR.split(text)) > 1:
            return _union([read(part) for part in parts])
        # Without the time-outs of math-verify: the timer of this child covers the whole request.
        return list(parse(f"${to_latex(text)}$", [reading], parsing_timeout=None))

    first, second = (read(text) for text in distinguish_cases([answer, reference]))
    return first, second


def _verified(given: list[object], wanted: list[object]) -> bool:
    """Return the verdict of math-verify, with enough digits to distinguish small numbers from zero."""
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
    """Return inequalities that are joined by `or` as one set of numbers.

    The result is empty if a part is not an inequality in one variable.

    Args:
        parts: the parse results of each part.
    """
    from sympy import Union
    from sympy.core.relational import Relational

    relations = [part[0] for part in parts if part and isinstance(part[0], Relational)]
    if len(relations) < len(parts) or any(len(relation.free_symbols) != 1 for relation in relations):
        return []
    return [Union(*(relation.as_set() for relation in relations))]


def _evaluated(number: object) -> Quantity | None:
    """Evaluate a real number: a fraction exactly, any other number to `_DIGITS` digits. None for other expressions."""
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
    """Return the verdict of a tree of comparisons.

    Raises:
        TooCloseError: a part cannot be decided, and the other parts do not decide the tree.
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
    """Serve one request, in the child process.

    Args:
        packet: the request.
        reply: file descriptor for the reply.
    """
    request = json.loads(packet)
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    try:
        is_equal = _math_verify(*request["texts"]) if "texts" in request else decide(request["tree"])
    except (TooCloseError, MemoryError):
        os.write(reply, UNDECIDED)
        return
    os.write(reply, EQUAL if is_equal else DIFFERENT)


def _math_verify(response: str, reference: str) -> bool:
    """Return the verdict of math-verify alone, called as in its documentation."""
    from math_verify import parse, verify

    wanted = parse(reference, parsing_timeout=None) or parse(f"${reference}$", parsing_timeout=None)
    return bool(verify(wanted, parse(response, parsing_timeout=None), timeout_seconds=None))


def _serve(channel: socket.socket) -> None:
    warm_ups = list(_WARM_UP)
    while True:
        # Parsing fills caches of the parser, which children inherit. Requests have precedence over this.
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
            finally:  # after an error too: the caller then gets no reply
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def main() -> NoReturn:
    """Load SymPy and math-verify, report that the process is ready, serve until the caller ends, and exit."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, _MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The default action of SIGALRM ends a process without running any Python code. It is restored here, because the
    # parent may ignore or block the signal.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    sys.setrecursionlimit(_RECURSION_LIMIT)
    import_module("math_verify")  # loaded once, for all children

    logging.disable(logging.CRITICAL)  # math-verify warns that its time-outs are off
    channel = socket.socket(fileno=os.dup(0))
    # Until here, errors are shown to the user. The output of the parser about unusual answers is discarded.
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    channel.send(READY)
    _serve(channel)
    os._exit(0)
