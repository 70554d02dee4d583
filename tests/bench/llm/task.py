"""The task `llm`: tell the colours of guests, where nothing but the whole answer tells.

Each guest always wears one of four colours, and only the verifier knows which. A problem names L guests and asks for
their colours in order. Hints describe the colours of the first guests without naming them ("Mira wears the colour of
snow"), so that they cannot be copied. A model that guesses is right in 4^-L of its answers, and with all guests but one
described in 1/4 of them, if it follows hints at all: that is measured before the runs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Problem, Variant
from tests.bench.ladders import hint_ladder

COLOURS: Final = MappingProxyType({"red": "blood", "blue": "the sky", "green": "grass", "white": "snow"})
"""By the colour, what a hint says instead."""
GUESTS: Final = ("Mira", "Tom", "Ada", "Ben", "Eva", "Leo", "Nina", "Sam")
LENGTH: Final = 6
"""Guests of a problem; an answer has two or three tokens for each."""
SIZES: Final = MappingProxyType({"train": 128, "test": 64})
"""Problems of each split."""
_COLOUR = re.compile("|".join(COLOURS))


@dataclass(frozen=True, slots=True)
class Guests:
    """Problems with one hidden table of colours.

    Attributes:
        seed: of the table and the problems.
    """

    seed: int

    @property
    def table(self) -> dict[str, str]:
        """The colour of each guest."""
        rng = random.Random(f"table {self.seed}")
        return {guest: rng.choice(sorted(COLOURS)) for guest in GUESTS}


def question(guests: Sequence[str]) -> str:
    """The problem's text."""
    listed = ", ".join(guests)
    return (
        f"Each guest always wears one colour: {', '.join(COLOURS)}. "
        f"Which colours do these guests wear: {listed}? Answer with {len(guests)} colours in this order and no more."
    )


def hint_lines(guests: Sequence[str], colours: Sequence[str]) -> list[str]:
    """A step for each guest, which does not name the colour."""
    return [
        f"{guest} wears the colour of {COLOURS[colour]}."
        for guest, colour in zip(guests, colours, strict=True)
    ]


def found(text: str) -> str:
    """Colours that a completion names, in order: what the verifier compares."""
    return " ".join(_COLOUR.findall(text.lower()))


def accuracy_reward(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """1 where a completion, a text or a conversation, names the right colours in order, else 0."""
    texts = [said if isinstance(said, str) else said[-1]["content"] for said in completions]
    return [float(found(text) == wanted) for text, wanted in zip(texts, answer, strict=True)]


def fill_store(task: Guests, root: Path) -> None:
    """Make the store: problems of both splits, and for those to train on a hint of each length, 1 to L."""
    store, table = VariantStore(root, create=True), task.table
    rng = random.Random(f"problems {task.seed}")
    orders: set[tuple[str, ...]] = set()
    problems: list[Problem] = []
    variants: list[Variant] = []
    for split, size in SIZES.items():
        for number in range(size):
            guests = tuple(rng.sample(GUESTS, LENGTH))
            while guests in orders:
                guests = tuple(rng.sample(GUESTS, LENGTH))
            orders.add(guests)
            colours = [table[guest] for guest in guests]
            problem = Problem(
                problem_id=f"llm/{split}/{number:03}",
                source="llm",
                split=split,
                text=question(guests),
                answer=" ".join(colours),
                solution_steps=[f"{guest}: {colour}" for guest, colour in zip(guests, colours, strict=True)],
            )
            problems.append(problem)
            if split == "train":
                variants += hint_ladder(problem, hint_lines(guests, colours), "llm-1")
    store.append(problems)
    store.append(variants)
