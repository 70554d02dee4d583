"""The task `gap`: running totals, of problems that are all too easy or all too hard.

A problem is a start and terms to add. The answer names each term and the total after it, and is right if all totals
are. The warm model works out all steps, but is the less sure the later a step is. Half of the training problems have 1
or 2 steps, which it gets right, and half have 13 to 15, which it does not: the groups of either half are silent. Only
variants lie between: of an easy problem those with more steps to the same answer, and of a hard one those whose first
totals are given. `smooth` is the control: problems of all lengths. In `rare` all have 8 or 9 steps, which the warm
model does once in 100 to 500 answers: there GRPO has little to learn from, but something.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from diva_grpo.flows.demo.toy_models import Example, batches, build_model, build_tokenizer, train
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import HINT_CLOSING, HINT_OPENING, render_question
from diva_grpo.schemas.records import Kind, Problem, Status, Variant
from tests.bench.ladders import hint_ladder

HIGHEST: Final = 9
"""Totals are 0 to this."""
EASY, RARE, HARD = range(1, 3), range(8, 10), range(13, 16)
"""Steps of problems that the warm model does nearly always, once in 100 to 500 answers, and never."""
SPECTRA: Final[Mapping[str, tuple[range, range]]] = MappingProxyType(
    {"gap": (EASY, HARD), "smooth": (range(1, 8), range(8, 16)), "rare": (RARE, RARE)}
)
"""Steps of the training problems, half of each range."""
HELD_OUT: Final = 128
"""Problems of each held-out split."""
MIDDLE: Final = range(4, 8)
"""Steps of the second held-out split."""
TRAIN_SIZE, MORE_STEPS = 256, range(1, 6)
"""Training problems, and by how many steps the variants of easy ones are longer."""
LAYERS, HIDDEN_SIZE, MAX_LENGTH, RAMP = 2, 64, 256, 50
WARM_STEPS, WARM_BATCH, WARM_LEARNING_RATE = 1_200, 64, 2e-3
EMBEDDING_STD: Final = 1.0
SHARE_PLAIN: Final = 0.3
"""Share of the warm-up examples without a hint."""
SLIPS: Final[Mapping[int, float]] = MappingProxyType({1: 0.0, 2: 0.0, 3: 0.2, 4: 0.45})
MOST_SLIPS: Final = 0.7
"""Probability that a step of the warm-up examples has a random total, by the number of the step; from the fifth step on
it is `MOST_SLIPS`. So the warm model can work out every step, and is less sure of later ones."""
_STEP = re.compile(r":(\d+)")
_QUESTION = re.compile(r"Start (\d+) add((?: \d+ [+-]\d)+)")
_TERM = re.compile(r" \d+ ([+-]\d)")
_GIVEN = re.compile(r"\d+ total \d+")


@dataclass(frozen=True, slots=True)
class Sum:
    """A start and the terms to add to it.

    Attributes:
        start: the total before the first step.
        terms: what each step adds.
    """

    start: int
    terms: tuple[int, ...]

    @property
    def totals(self) -> list[int]:
        """The total after each step."""
        return list(itertools.accumulate(self.terms, initial=self.start))[1:]

    @property
    def question(self) -> str:
        """The problem's text."""
        return f"Start {self.start} add" + "".join(f" {n} {t:+d}" for n, t in enumerate(self.terms, 1))

    @property
    def worked(self) -> list[str]:
        """The steps in the policy's manner, such as `1 +8:13`."""
        both = zip(self.terms, self.totals, strict=True)
        return [f"{n} {term:+d}:{total}" for n, (term, total) in enumerate(both, 1)]

    @property
    def hints(self) -> list[str]:
        """The totals in the teacher's words, such as `1 total 13`."""
        return [f"{n} total {total}" for n, total in enumerate(self.totals, 1)]


def tested(spectrum: str) -> range:
    """Steps of the held-out problems by which arms are compared."""
    return RARE if spectrum == "rare" else HARD


def draw(rng: random.Random, steps: int) -> Sum:
    """Return a random sum with this number of steps; every total is between 0 and `HIGHEST`."""
    start = total = rng.randint(0, HIGHEST)
    terms = []
    for _ in range(steps):
        term = rng.choice([t for t in range(-9, 10) if t and 0 <= total + t <= HIGHEST])
        terms.append(term)
        total += term
    return Sum(start, tuple(terms))


def longer(rng: random.Random, easy: Sum, more: int) -> Sum:
    """Return a sum that has the same last total as `easy`, and `more` steps more."""
    while True:
        other = draw(rng, len(easy.terms) + more - 1)
        last = easy.totals[-1] - [other.start, *other.totals][-1]
        if 0 < abs(last) <= 9:
            return Sum(other.start, (*other.terms, last))


def accuracy_reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """1 where a completion names the right total at every step that its prompt leaves, else 0."""
    return [float(_right(prompt, text)) for prompt, text in zip(prompts, completions, strict=True)]


def _right(prompt: str, completion: str) -> bool:
    asked = _QUESTION.match(prompt)
    assert asked is not None, prompt
    totals = Sum(int(asked[1]), tuple(map(int, _TERM.findall(asked[2])))).totals
    return _STEP.findall(completion) == [str(t) for t in totals[len(_GIVEN.findall(prompt)) :]]


def warm_up(folder: Path, seed: int) -> None:
    """Train a model from nothing, and save it with its tokenizer."""
    torch.manual_seed(seed)
    words = ["Start ", " add", " total", HINT_OPENING, HINT_CLOSING]
    words += [f"{before}{number}" for before in " \n" for number in range(max(HARD) + 1)]
    words += [f" {term:+d}" for term in range(-9, 10) if term] + [f":{total}" for total in range(HIGHEST + 1)]
    tokenizer = build_tokenizer(sorted(words), MAX_LENGTH)
    model = build_model(tokenizer, LAYERS, hidden_size=HIDDEN_SIZE, tie_word_embeddings=False)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    rng = random.Random(seed)
    train(
        model,
        tokenizer,
        batches(_examples(rng), rng, WARM_BATCH),
        steps=WARM_STEPS,
        ramp=RAMP,
        name="gap",
        learning_rate=WARM_LEARNING_RATE,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def slipped(rng: random.Random, drawn: Sum, given: int) -> list[str]:
    """The steps after those given, by somebody who slips at later ones and goes on from the wrong total."""
    total, lines = [drawn.start, *drawn.totals][given], []
    for number, term in enumerate(drawn.terms[given:], given + 1):
        total += term
        if not 0 <= total <= HIGHEST or rng.random() < SLIPS.get(number, MOST_SLIPS):
            total = rng.randint(0, HIGHEST)
        lines.append(f"{number} {term:+d}:{total}")
    return lines


def _examples(rng: random.Random) -> Iterator[Example]:
    """Problems of all lengths, without a hint or with one of any length."""
    while True:
        drawn = draw(rng, rng.randint(1, max(HARD)))
        given = 0 if rng.random() < SHARE_PLAIN else rng.randrange(len(drawn.terms))
        prompt = render_question(drawn.question, hint=drawn.hints[:given])
        yield Example(f"{prompt}\n", "\n".join(slipped(rng, drawn, given)))


def fill_store(root: Path, spectrum: str, seed: int) -> None:
    """Make the store: problems of all splits, and for those to train on their hints and longer variants.

    Args:
        root: its folder.
        spectrum: of `SPECTRA`.
        seed: of the problems.
    """
    store = VariantStore(root, create=True)
    rng = random.Random(f"{spectrum} {seed}")
    known: set[str] = set()

    def new(split: str, number: int, steps: range) -> tuple[Problem, Sum]:
        while (drawn := draw(rng, rng.choice(steps))).question in known:
            pass
        known.add(drawn.question)
        problem = Problem(
            problem_id=f"gap/{split}/{number:03}",
            source="gap",
            split=split,
            text=drawn.question,
            answer=str(drawn.totals[-1]),
            solution_steps=drawn.worked,
        )
        return problem, drawn

    for split, steps in (("test", tested(spectrum)), ("middle", MIDDLE)):
        store.append([new(split, number, steps)[0] for number in range(HELD_OUT)])
    halves = itertools.cycle(SPECTRA[spectrum])
    training = [new("train", number, next(halves)) for number in range(TRAIN_SIZE)]
    store.append([problem for problem, _ in training])
    store.append([variant for problem, drawn in training for variant in _variants(rng, problem, drawn)])


def _variants(rng: random.Random, problem: Problem, drawn: Sum) -> Iterator[Variant]:
    yield from hint_ladder(problem, drawn.hints, "gap-1")
    if len(drawn.terms) > max(SPECTRA["smooth"][0]):
        return
    for more in MORE_STEPS:
        yield Variant(
            variant_id=f"{problem.problem_id}:harder:terms:{more}",
            problem_id=problem.problem_id,
            kind=Kind.HARDER,
            text=longer(rng, drawn, more).question,
            delta_designed=float(more),
            status=Status.ACCEPTED,
            generator_model="source",
            prompt_version="gap-1",
        )
