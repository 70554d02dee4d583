"""A solver without a language model that solves what the text says.

It has worked through GSM8K's problems: of each it knows the calculation (from the annotations of the solution), not
the answer. Asked a text, it recalls the problem with the most rare words in common, reads the numbers *of the text*,
puts them into the calculation, and gives the quantity that the *text asks for*: the last result, a result on the way,
a number that the text itself states, or something about one of these. What it cannot read it does not answer.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from diva_grpo.pipeline.store.files.progress import Progress
from diva_grpo.schemas.question import HINT_OPENING, Question
from diva_grpo.schemas.replies import Answer, Reply
from tests.bench.planted.rules import facts_and_question, number_words

_ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>]+)>>")
_WORDS: dict[str, int | Fraction] = {number_words(n): n for n in range(1000)}
_WORDS |= {f"{number_words(n)} hundred": 100 * n for n in range(1, 20)}
_WORDS |= {"half": Fraction(1, 2), "twice": 2, "double": 2, "triple": 3, "dozen": 12, "third": Fraction(1, 3)}
_WORDS |= {"quarter": Fraction(1, 4), "one half": Fraction(1, 2), "one third": Fraction(1, 3)}
_WORDS |= {"one quarter": Fraction(1, 4), "three quarters": Fraction(3, 4), "one-third": Fraction(1, 3)}
_NUMBER = re.compile(
    r"\d+/\d+|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+|"
    + r"\b(?:" + "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True)) + r")\b",
    re.IGNORECASE,
)  # fmt: skip
_COMMON = set(
    "the a an of and to in is are how many much what does do did each for on he she they it his her".split()
)


@dataclass(frozen=True)
class Step:
    """One calculation, and the line of the solution that it stands in without its number."""

    expression: str
    result: Fraction
    line: str


@dataclass(frozen=True)
class Known:
    """A problem that the solver has worked through."""

    text: str
    words: Counter[str]
    steps: tuple[Step, ...]


def numbers_of(text: str) -> list[tuple[Fraction, int, int]]:
    """Numbers of a text with their places."""
    found = []
    for match in _NUMBER.finditer(text):
        word = match.group().casefold()
        try:
            value = Fraction(_WORDS[word]) if word in _WORDS else Fraction(word.replace(",", ""))
        except ZeroDivisionError:
            continue
        found.append((value, match.start(), match.end()))
    return found


def evaluate(expression: str, values: dict[Fraction, Fraction]) -> Fraction:
    """An annotation's expression, with every number replaced by what it has become.

    Raises:
        ValueError: it is no plain arithmetic.
    """
    plain = re.sub(r"[$,\s]", "", expression).replace("%", "*0.01")
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", plain)

    def of(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, ast.Add(), right):
                return of(left) + of(right)
            case ast.BinOp(left, ast.Sub(), right):
                return of(left) - of(right)
            case ast.BinOp(left, ast.Mult(), right):
                return of(left) * of(right)
            case ast.BinOp(left, ast.Div(), right):
                return of(left) / of(right)
            case ast.UnaryOp(ast.USub(), operand):
                return -of(operand)
            case ast.Constant():
                value = Fraction(ast.get_source_segment(plain, node) or "")
                return values.get(value, value)
        raise ValueError(f"no plain arithmetic: {expression}")

    try:
        return of(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(f"no plain arithmetic: {expression}") from error


def steps_of(solution: str) -> tuple[Step, ...]:
    """The calculations of an annotated solution."""
    return tuple(
        Step(expression, evaluate(result, {}), _ANNOTATION.sub("", line))
        for line in solution.split("####")[0].splitlines()
        for expression, result in _ANNOTATION.findall(line)
    )


class ReadingSolver:
    """Solves texts by reading them.

    Args:
        rows: question and annotated solution of problems that it has worked through.
    """

    model = "reading-solver"

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self.known = [Known(q, Counter(_content(q)), steps_of(solution)) for q, solution in rows]
        self._rarity = Counter(word for known in self.known for word in known.words)

    def solve(
        self, questions: Sequence[Question], samples: int, progress: Progress | None = None
    ) -> list[list[Answer[Reply]]]:
        """As `pipeline.stages.solve.Solver`: the same answer each time, since it is sure of it."""
        return [[self._answer(question.text)] * samples for question in questions]

    def _answer(self, text: str) -> Answer[Reply]:
        value = self.value(text.split(HINT_OPENING)[0])
        if value is None:
            return Answer(None, "I cannot read what is asked.")
        number = str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"
        return Answer(None, f"I read the text and calculate. The answer is \\boxed{{{number}}}.")

    def value(self, text: str) -> Fraction | None:
        """What the text asks for, or None."""
        words = set(_content(text))
        known = max(
            self.known, key=lambda k: self._weight(words & k.words.keys()) / self._weight(k.words) ** 0.5
        )
        results = self._results(known, text)
        return self._asked(known, text, results) if results else None

    def _weight(self, words: Iterable[str]) -> float:
        return sum(1 / self._rarity[word] for word in words)

    def _results(self, known: Known, text: str) -> list[Fraction] | None:
        """The results of the known calculation with the numbers of the text."""
        mine = [value for value, _, _ in numbers_of(known.text)]
        theirs = [value for value, _, _ in numbers_of(text)]
        gone = [v for v in dict.fromkeys(mine) if v not in theirs]
        new = [v for v in theirs if v not in mine]
        become = dict(zip(gone, new, strict=False))
        if len(gone) > len(new):
            return None
        # A percentage is calculated with as 20 and as 0.2.
        become |= {v / 100: w / 100 for v, w in become.items() if v / 100 not in mine}
        results: list[Fraction] = []
        for step in known.steps:
            try:
                result = evaluate(step.expression, become)
            except ValueError:
                return None
            if result != step.result:
                become[step.result] = result if abs(result - step.result) > Fraction(1, 100) else step.result
            results.append(become.get(step.result, step.result))
        return results

    def _asked(self, known: Known, text: str, results: Sequence[Fraction]) -> Fraction | None:
        """The quantity asked for."""
        blank = re.search(r"[^.?!\n]*_{3,}[^.?!\n]*", text)
        if blank:
            return self._of_line(known, blank.group(), results)
        stated = re.search(
            r"(?:how many|how much) (?P<what>[^.?!,]+?) (?:is|are) (?:stated|given|mentioned) in the text",
            text,
            re.IGNORECASE,
        )
        if stated:
            return _stated(text[: stated.start()] + text[stated.end() :], stated["what"])
        on_the_way = re.search(r"after (?:only )?the first calculation", text, re.I)
        value = results[0] if on_the_way else results[-1]
        asked = text.casefold()
        if "last digit" in asked:
            return Fraction(int(value) % 10)
        if "sum of the digits" in asked or "sum of its digits" in asked:
            return Fraction(sum(map(int, re.findall(r"\d", str(int(value))))))
        if re.search(r"the square of (?:that|this|the)", asked):
            return value**2
        if re.search(r"rounded (?:up )?to the next (?:multiple of a )?hundred", asked):
            return Fraction(math.ceil(value / 100) * 100)
        if re.search(r"how many digits (?:does|has|are)", asked):
            return Fraction(len(str(int(value))))
        if re.search(
            r"(?:the )?(?:whole )?number (?:(?:that )?comes )?(?:right |directly )?(?:after|behind) (?:that|this|the)",
            asked,
        ):
            return value + 1
        if re.search(r"largest (?:of the numbers|number) (?:that is )?(?:stated|given|mentioned|in)", asked):
            return max(v for v, _, _ in numbers_of(facts_text(text)))
        return value

    def _of_line(self, known: Known, blank: str, results: Sequence[Fraction]) -> Fraction | None:
        """The result of the step whose line is most like the one with the blank."""
        words = set(_content(blank))
        scores = [len(words & set(_content(step.line))) for step in known.steps]
        return results[scores.index(max(scores))] if max(scores) else None


def facts_text(text: str) -> str:
    return " ".join(facts_and_question(text)[0])


def _stated(text: str, what: str) -> Fraction | None:
    """The number before the words that are asked for."""
    words = _content(what)
    for value, _, end in numbers_of(text):
        if words and _content(text[end : end + 60])[: len(words)] == words:
            return value
    return None


def _content(text: str) -> list[str]:
    return [w for w in re.findall(r"[a-z]{2,}", text.casefold()) if w not in _COMMON]
