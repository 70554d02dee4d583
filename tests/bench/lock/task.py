"""The task `lock`: find which rule each cue asks for, where nothing but the whole answer tells.

A problem is a start digit and L cues. Each cue stands for one of four rules on a digit, and only the verifier knows
which. The answer names, for each cue, the rule and the digit that it gives. The warm model executes every rule, chooses
among the four at random, and follows a hint that names the rules of the first steps in the teacher's words. So the pass
rate without a hint is 4^-L, and with all steps but one given it is 1/4. Steps are numbered: else a model this small
does not learn which line of a hint belongs to which step.

With own rules, each step has another table. What a rollout learns about the last steps then says nothing about the
first, so hints must be taken away step by step.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from diva_grpo.flows.demo.toy_models import Example, batches, build_model, build_tokenizer, train
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import HINT_CLOSING, HINT_OPENING, render_question
from diva_grpo.schemas.records import Problem, Variant
from tests.bench.ladders import hint_ladder

RULES: Final[Mapping[str, tuple[str, Callable[[int], int]]]] = MappingProxyType(
    {
        "a": ("add one", lambda digit: (digit + 1) % 10),
        "b": ("add four", lambda digit: (digit + 4) % 10),
        "c": ("triple", lambda digit: digit * 3 % 10),
        "d": ("mirror", lambda digit: 9 - digit),
    }
)
"""By the policy's name of a rule: the teacher's name, and what it does to a digit."""

CUES: Final = ("red", "blue", "green", "gold", "black", "white")
SIZES: Final = MappingProxyType({"train": 256, "test": 256})
"""Problems of each split."""
LAYERS, HIDDEN_SIZE, MAX_LENGTH, RAMP = 2, 64, 160, 50
MAX_STEPS: Final = 10
"""Steps of the longest problem that the tokenizer has numbers for."""
WARM_STEPS, WARM_BATCH, WARM_LEARNING_RATE = 1_200, 64, 2e-3
"""The warm-up: its steps, examples of each, and learning rate. After 800 steps a model of eight steps followed a hint
that names all rules 7 times in 10. After 1,600 it learnt more slowly from its rollouts than after 800."""
EMBEDDING_STD: Final = 1.0
"""Standard deviation of the embeddings at the start; the output layer is another one. With small embeddings, tied to
the output, GRPO stayed between 0.2 and 0.4 at two steps with each of four learning rates, and reached 0.99 with these.
Why is not known; the gradients of different cues are as alike in one as in the other."""
SHARE_PLAIN: Final = 0.3
"""Share of the warm-up examples without a hint."""
_STEP = re.compile(r":([a-d]\d)")


@dataclass(frozen=True, slots=True)
class Lock:
    """Problems of one length, with one hidden table of rules, or one for each step.

    Attributes:
        length: number of steps, L.
        seed: of the tables and the problems.
        own: whether each step has a table of its own.
    """

    length: int
    seed: int
    own: bool = False

    def table(self, step: int) -> dict[str, str]:
        """The rule that each cue asks for at a step, counted from 1."""
        rng = random.Random(f"table {self.seed}" + f" step {step}" * self.own)
        return {cue: rng.choice(sorted(RULES)) for cue in CUES}

    def draw(self, rng: random.Random) -> tuple[int, tuple[str, ...]]:
        """A start digit and cues."""
        return rng.randrange(10), tuple(rng.choice(CUES) for _ in range(self.length))

    def rules_of(self, cues: Sequence[str]) -> list[str]:
        """The right rules."""
        return [self.table(step)[cue] for step, cue in enumerate(cues, 1)]


def question(start: int, cues: Sequence[str]) -> str:
    """The problem's text."""
    numbered = " ".join(f"{number} {cue}" for number, cue in enumerate(cues, 1))
    return f"Start {start} cues {numbered}"


def worked(start: int, cues: Sequence[str], rules: Sequence[str]) -> list[str]:
    """The steps in the policy's manner, such as `1 red:a4`, if each cue asked for the rule given."""
    digit, steps = start, []
    for number, (cue, rule) in enumerate(zip(cues, rules, strict=True), 1):
        digit = RULES[rule][1](digit)
        steps.append(f"{number} {cue}:{rule}{digit}")
    return steps


def hint_lines(cues: Sequence[str], rules: Sequence[str]) -> list[str]:
    """The rules in the teacher's words, such as `1 red asks for triple`, a step a line."""
    named = zip(cues, rules, strict=True)
    return [f"{number} {cue} asks for {RULES[rule][0]}" for number, (cue, rule) in enumerate(named, 1)]


def found(text: str) -> str:
    """Rules and digits that a completion names, in order: what the verifier compares."""
    return " ".join(_STEP.findall(text))


def accuracy_reward(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """1 where a completion names the right rule and digit at every step, else 0."""
    return [float(found(text) == wanted) for text, wanted in zip(completions, answer, strict=True)]


def warm_up(task: Lock, folder: Path) -> None:
    """Train a model from nothing on all rules alike, and save it with its tokenizer.

    The examples' rules are random: the model learns nothing about the hidden table.
    """
    torch.manual_seed(task.seed)
    words = [f" {cue}" for cue in CUES] + [f"\n{cue}" for cue in CUES] + [*CUES]
    words += [f":{rule}" for rule in RULES] + [f" asks for {name}" for name, _ in RULES.values()]
    words += ["Start ", " cues", HINT_OPENING, HINT_CLOSING]
    words += [f"{before}{number}" for before in " \n" for number in range(1, MAX_STEPS + 1)]
    tokenizer = build_tokenizer(sorted(set(words)), MAX_LENGTH)
    model = build_model(tokenizer, LAYERS, hidden_size=HIDDEN_SIZE, tie_word_embeddings=False)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    rng = random.Random(task.seed)
    train(
        model,
        tokenizer,
        batches(_examples(task, rng), rng, WARM_BATCH),
        steps=WARM_STEPS,
        ramp=RAMP,
        name=f"lock of {task.length}",
        learning_rate=WARM_LEARNING_RATE,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _examples(task: Lock, rng: random.Random) -> Iterator[Example]:
    while True:
        start, cues = task.draw(rng)
        rules = [rng.choice(sorted(RULES)) for _ in cues]
        given = 0 if rng.random() < SHARE_PLAIN else rng.randint(0, task.length)
        prompt = render_question(question(start, cues), hint=hint_lines(cues, rules)[:given])
        yield Example(f"{prompt}\n", "\n".join(worked(start, cues, rules)))


def fill_store(task: Lock, root: Path) -> None:
    """Make the store: problems of both splits, and for those to train on a hint of each length, 1 to L.

    The hint of length L is the whole solution: the paper's method has it, and `ladder` leaves it out.
    """
    store = VariantStore(root, create=True)
    rng = random.Random(f"problems {task.seed}")
    known: set[str] = set()
    problems: list[Problem] = []
    variants: list[Variant] = []
    for split, size in SIZES.items():
        for number in range(size):
            start, cues = task.draw(rng)
            while question(start, cues) in known and task.length > 2:
                start, cues = task.draw(rng)
            known.add(question(start, cues))
            rules = task.rules_of(cues)
            steps = worked(start, cues, rules)
            problem = Problem(
                problem_id=f"lock/{split}/{number:03}",
                source="lock",
                split=split,
                text=question(start, cues),
                answer=found("\n".join(steps)),
                solution_steps=steps,
            )
            problems.append(problem)
            if split == "train":
                variants += hint_ladder(problem, hint_lines(cues, rules), "lock-1")
    store.append(problems)
    store.append(variants)
