"""The check `answer`: solvers of the variant reach the reference answer, and its worked solution ends with it."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

from diva_grpo.pipeline.checks.finding import Finding, failed
from diva_grpo.pipeline.checks.leak import states
from diva_grpo.pipeline.checks.steps import unlabelled
from diva_grpo.pipeline.grade import Grade, UndecidedError, equal_answers, grade
from diva_grpo.pipeline.quantities.texts import quantities
from diva_grpo.schemas.records import Problem
from diva_grpo.schemas.replies import Answer, Reply

_NUMBER = r"\$?\s?-?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_CALCULATION = rf"\(*{_NUMBER}\)*(?:\s*[-+*/×÷]\s*\(*{_NUMBER}\)*)+"
# An equation begins at the beginning of a step or after a word. In "5% of 20 x 3/4 = 12", the part "20 x 3/4 = 12" must
# not match, because the left side begins before it.
_EQUATION = re.compile(
    rf"(?:\A|(?<=[A-Za-z]{{2}}[ :])(?<!\bof )|(?<=[A-Za-z]{{2}}: ))(?P<left>{_CALCULATION})"
    rf"\s*=\s*(?P<right>\$?\s?-?(?:\d+(?:,\d+)*(?:\.\d+)?|\.\d+))(?![\d.,]*\d|\s*[-+*/×÷^%(:=]|[\w\\])"
)
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def majority(given: Sequence[Answer[Reply]], problem: Problem) -> Finding:
    """Whether the most common of several independent answers is the reference answer.

    A reply without an answer is a vote for "nothing". There is no vote from a solver that failed (for example by a
    lost connection), or if the grader could not decide on its answer. If these missing votes could change the
    majority, the result is undecided.

    Args:
        given: the solvers' answers.
        problem: the original.
    """
    grades = [grade(a.text, problem.answer, options=problem.options) for a in given if not a.failure]
    decided = [g for g in grades if g.outcome != "error"]
    missing = len(given) - len(decided)
    right = sum(g.outcome == "correct" for g in decided)
    rival, votes = _strongest_rival(decided, problem)
    if right > votes + missing:
        return Finding(True, f"{right} of {len(given)}")
    if votes > right + missing:
        return failed(f"the solver answers {rival}, not {problem.answer!r}")
    if votes == right + missing and votes:
        return failed(f"the solver disagrees with itself: {rival} {votes} times, the reference {right} times")
    failures = [a.failure for a in given if a.failure] + [g.how for g in grades if g.outcome == "error"]
    return Finding(None, f"{failures[0]} ({missing} of {len(given)} have no vote)")


def _strongest_rival(grades: Sequence[Grade], problem: Problem) -> tuple[str, int]:
    """Return the most common wrong answer and its number of votes. Equal values count as one answer."""
    rivals: list[tuple[str, int]] = []
    for answer in (g.answer if g.outcome == "wrong" else None for g in grades if g.outcome != "correct"):
        for i, (rival, votes) in enumerate(rivals):
            if _same(answer, rival, problem):
                rivals[i] = (rival, votes + 1)
                break
        else:
            rivals.append((repr(answer) if answer else "nothing", 1))
    return max(rivals, key=lambda rival: rival[1], default=("nothing", 0))


def _same(answer: str | None, rival: str, problem: Problem) -> bool:
    if answer is None or rival == "nothing":
        return answer is None and rival == "nothing"
    if repr(answer) == rival:
        return True
    try:
        return equal_answers(answer, str(ast.literal_eval(rival)), options=problem.options)
    except UndecidedError:
        return False


def check_solution(steps: Sequence[str], stated: str | None, problem: Problem) -> Finding:
    """Check that the answer of a worked solution is the reference answer, and that its steps contain no false equation.

    Args:
        steps: the steps of the solution that are known, which may be only the first ones.
        stated: the answer that the author of the solution gives in addition to the steps.
        problem: the original.
    """
    graded = grade(f"\\boxed{{{stated}}}", problem.answer, options=problem.options)
    if graded.outcome == "error":
        return Finding(None, f"the grader could not decide: {graded.how}")
    if graded.outcome != "correct":
        return failed(f"the solution ends at {stated!r}, not {problem.answer!r}")
    for number, step in enumerate(steps, 1):
        wrong = false_equation(unlabelled(step))
        if wrong:
            return failed(f"step {number} says {wrong}")
    return Finding(True)


def check_ending(last_step: str, problem: Problem) -> Finding:
    """Check that the last step of a full solution contains the reference answer.

    The step may give dollars if the answer is in cents, or a fraction of 1 if the answer is in percent.
    """
    step = re.sub(r"(?<=\d) (?=\d{3}\b)", "", unlabelled(last_step))
    graded = grade(step, problem.answer, options=problem.options)
    if graded.outcome != "wrong" or states(step, problem.answer):
        return Finding(True)
    answer = quantities(problem.answer)
    if len(answer) == 1 and any(q.value * 100 == answer[0].value for q in quantities(step)):
        return Finding(True)
    return failed(f"the last step ends at {graded.answer!r}, not {problem.answer!r}")


def false_equation(step: str) -> str | None:
    """Return the first false equation between plain numbers in a step, or None. A rounded result counts as true."""
    for found in _EQUATION.finditer(step):
        try:
            left = _value(found["left"])
        except (SyntaxError, ZeroDivisionError):
            continue  # the match is a part of a larger expression
        right = Decimal(re.sub(r"[$,\s]", "", found["right"]))
        places = max(0, -int(right.as_tuple().exponent))
        # If the left side does not fit the decimal places of the right side, the right side may be rounded up or down.
        slack = Fraction(1, 10**places) if (left * 10**places).denominator != 1 else Fraction(0)
        if abs(left - Fraction(right)) > slack:
            return " ".join(found.group().split())
    return None


def _value(expression: str) -> Fraction:
    plain = re.sub(r"[$,\s]", "", expression).replace("×", "*").replace("÷", "/")
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", plain)

    def evaluate(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, op, right):
                return _OPERATORS[type(op)](evaluate(left), evaluate(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -evaluate(operand)
            case _:
                return Fraction(ast.get_source_segment(plain, node) or "0")

    return evaluate(ast.parse(plain, mode="eval").body)
