"""The testbed's tasks: exercises with short worked steps, asked for in several wordings, and their stores.

Two of different nature: chained sums (one operation many times), and reasoning-gym's leg counting (facts to know,
times tables, and a sum of products). How hard an exercise is, is its number of terms or of animals.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import reasoning_gym
from reasoning_gym.arithmetic.leg_counting import ANIMALS

from diva_grpo.flows.demo.wordings import ARITHMETIC_FRAMES
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Kind, Problem, Status, Variant
from tests.bench.ladders import hint_ladder

SIZES: Final = MappingProxyType({"train": 128, "validation": 192, "test": 192})
"""Problems of each split."""
REWORDINGS: Final = 2
"""Rewordings of each training problem."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """What is asked for, and how it is worked out: a total that each step adds something to.

    Attributes:
        body: what a wording asks about, such as `5+8-2`.
        start: the total before the first step.
        parts: each step's text before its total, and what it adds.
    """

    body: str
    start: int
    parts: tuple[tuple[str, int], ...]

    @property
    def steps(self) -> list[str]:
        """The worked solution, a step a line."""
        return self.worked()[0]

    @property
    def answer(self) -> str:
        """The last total."""
        return self.worked()[1]

    def worked(self, slips: random.Random | None = None, share: float = 0.0) -> tuple[list[str], str]:
        """Steps and answer by somebody who slips in a share of the steps, and goes on from the wrong total.

        A slip leads anywhere: small ones would cancel out, and a right answer then says little of its steps.
        """
        total, steps = self.start, []
        for text, added in self.parts:
            total += added
            if slips and slips.random() < share:
                total = slips.randrange(100)
            steps.append(f"{text}{total}")
        return steps, str(total)


@dataclass(frozen=True, slots=True)
class Task:
    """A family of exercises.

    Attributes:
        name: of its folder, and before its problems' ids.
        frames: wordings; the first is the original's.
        draw: an exercise of a level.
        warm_levels: of the warm-up, all alike.
        levels: of the problems.
        warm_steps: steps of the warm-up.
        slips: share of the steps in the warm-up that end at a wrong total.
        words: texts that are one token each, beside the frames' own.
    """

    name: str
    frames: tuple[str, ...]
    draw: Callable[[random.Random, int], Exercise]
    warm_levels: range
    levels: range
    warm_steps: int
    slips: float
    words: tuple[str, ...]

    def exercises(self, rng: random.Random, levels: range) -> Iterator[Exercise]:
        """Exercises without end, all levels alike."""
        while True:
            yield self.draw(rng, rng.choice(levels))


def draw_sum(rng: random.Random, terms: int) -> Exercise:
    """A sum such as 5+8-2 of terms up to 9, all of whose running totals are within 0 to 99."""
    while True:
        first, *rest = (rng.randint(1, 9) for _ in range(terms))
        signed = [rng.choice((1, -1)) * term for term in rest]
        totals = list(itertools.accumulate([first, *signed]))
        if min(totals) >= 0 and max(totals) < 100:
            break
    parts = tuple((f"{term:+d}=", term) for term in signed)
    return Exercise("".join(map(str, [first, *(f"{term:+d}" for term in signed)])), first, parts)


def draw_legs(rng: random.Random, animals: int) -> Exercise:
    """Legs of several kinds of animals: a step is a product and the total so far, `3 dogs=12;26`."""
    dataset = reasoning_gym.create_dataset(
        "leg_counting",
        seed=rng.randrange(2**31),
        size=1,
        min_animals=animals,
        max_animals=animals,
        max_instances=4,
    )
    item = dataset[0]
    found = re.search(r"if you have (.*)\?", item["question"])
    assert found is not None, item["question"]
    counted = item["metadata"]["animals"].items()
    parts = tuple(
        (f"{text}={count * ANIMALS[name]};", count * ANIMALS[name])
        for (name, count), text in zip(counted, found[1].split(", "), strict=True)
    )
    return Exercise(found[1], 0, parts)


_NUMBERS = tuple(str(number) for number in range(200))

TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        "sums": Task(
            name="sums",
            frames=("What is {body}?", *(f.replace("{expression}", "{body}") for f in ARITHMETIC_FRAMES)),
            draw=draw_sum,
            warm_levels=range(2, 12),
            levels=range(9, 12),
            warm_steps=1100,
            slips=0.22,
            words=(
                *_NUMBERS,
                *(f"={number}" for number in range(110)),
                *(f"{term:+d}" for term in range(-9, 10) if term),
            ),
        ),
        "legs": Task(
            name="legs",
            frames=(
                "How many legs are there in total if you have {body}?",
                "Count the legs of {body}.",
                "On a farm live {body}. How many legs have they together?",
                "Add up all legs: {body}.",
            ),
            draw=draw_legs,
            warm_levels=range(1, 7),
            levels=range(4, 7),
            warm_steps=800,
            slips=0.3,
            words=(
                *_NUMBERS,
                *(f"={number}" for number in range(60)),
                *(f";{number}" for number in range(200)),
                *(f" {name}{plural}" for name in ANIMALS for plural in ("", "s")),
                ", ",
            ),
        ),
    }
)
"""The tasks by name."""


def fill_store(task: Task, root: Path, seed: int = 20_261) -> tuple[VariantStore, list[Variant]]:
    """Make a task's store with its problems, and the accepted variants of those to train on.

    The variants are left to the caller to append: labels are measured before they are there, since those of the
    originals alone are paid for.

    Args:
        task: whose problems.
        root: folder of the store.
        seed: makes the problems; no text comes twice.
    """
    store = VariantStore(root, create=True)
    drawn = task.exercises(random.Random(seed), task.levels)
    known: set[str] = set()
    problems: list[Problem] = []
    variants: list[Variant] = []
    for split, size in SIZES.items():
        for number in range(size):
            exercise = next(e for e in drawn if e.body not in known)
            known.add(exercise.body)
            problem = Problem(
                problem_id=f"{task.name}/{split}/{number:03}",
                source=task.name,
                split=split,
                text=task.frames[0].format(body=exercise.body),
                answer=exercise.answer,
                solution_steps=list(exercise.steps),
                human_level=len(exercise.steps),
            )
            problems.append(problem)
            if split == "train":
                variants += _variants(task, problem, exercise)
    store.append(problems)
    return store, variants


def held_out(task: Task, seed: int = 20_261) -> set[str]:
    """Bodies of all problems of a task's store: none of them may occur in the warm-up."""
    drawn = task.exercises(random.Random(seed), task.levels)
    known: set[str] = set()
    for exercise in drawn:
        known.add(exercise.body)
        if len(known) == sum(SIZES.values()):
            break
    return known


def _variants(task: Task, problem: Problem, exercise: Exercise) -> Iterator[Variant]:
    """Rewordings, and the first j steps for each j, with the offsets that the method designs for them."""
    for number, frame in enumerate(task.frames[1 : REWORDINGS + 1]):
        yield Variant(
            variant_id=f"{problem.problem_id}:reword:template:{number}",
            problem_id=problem.problem_id,
            kind=Kind.REWORD,
            text=frame.format(body=exercise.body),
            delta_designed=0.0,
            status=Status.ACCEPTED,
            generator_model="template",
            prompt_version="convergence-1",
        )
    yield from hint_ladder(problem, exercise.steps, "convergence-1")
