"""Chained sums of two-digit terms: their text, worked steps and answer.

Two scripts use this module: ``make_problems.py`` writes the training and test problems, and ``make_demo_model.py``
trains the demo's model on other sums.
"""

import itertools
import random
import re
from dataclasses import dataclass

_TERM = re.compile(r"([+-]?)\s*(\d+)")


@dataclass(frozen=True)
class ChainedSum:
    """A sum such as 12 + 34 - 5.

    Attributes:
        terms: The terms with their signs, at least two: ``(12, 34, -5)``. The first is not negative.
    """

    terms: tuple[int, ...]

    @classmethod
    def draw(cls, rng: random.Random, length: int) -> "ChainedSum":
        """Draw a random sum of ``length`` two-digit terms. The signs are random, but no total is negative."""
        while True:
            first, *rest = (rng.randint(10, 99) for _ in range(length))
            drawn = cls((first, *(rng.choice((1, -1)) * term for term in rest)))
            if min(drawn.totals) >= 0:
                return drawn

    @classmethod
    def parse(cls, expression: str) -> "ChainedSum":
        """Read an expression such as ``"12 + 34 - 5"``."""
        return cls(tuple(int(sign + digits) for sign, digits in _TERM.findall(expression)))

    @property
    def expression(self) -> str:
        """The sum as written: ``"12 + 34 - 5"``."""
        return str(self.terms[0]) + "".join(map(_signed, self.terms[1:]))

    @property
    def problem(self) -> str:
        """The problem's text: ``"What is 12 + 34 - 5?"``."""
        return f"What is {self.expression}?"

    @property
    def totals(self) -> list[int]:
        """The total after each term: ``[12, 46, 41]``."""
        return list(itertools.accumulate(self.terms))

    @property
    def steps(self) -> list[str]:
        """The worked solution, one operation per step: ``["12 + 34 = 46", "46 - 5 = 41"]``."""
        totals = self.totals
        return [
            f"{before}{_signed(term)} = {after}"
            for before, term, after in zip(totals[:-1], self.terms[1:], totals[1:], strict=True)
        ]

    @property
    def answer(self) -> str:
        """The value as text: ``"41"``."""
        return str(sum(self.terms))


def _signed(term: int) -> str:
    return f" {'-' if term < 0 else '+'} {abs(term)}"
