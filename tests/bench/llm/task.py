"""The task `llm`: tell the colours that guests wear, where nothing but the whole answer tells.

Each guest always wears one of four colours, and only the verifier knows which. A problem names all six guests in some
order and asks for their colours in this order. Hints tell the colours of the first guests by what has that colour, such
as "Tom: snow", so that they cannot be copied. A policy that guesses is right in 4^-6 of its answers, and with all but
one guest told in 1/4 of them, if it follows hints. A small model does not by itself, so examples whose colours are
random teach it the form of question, hint and answer (`warm_up`), and nothing about the hidden table. What has which
colour it knows from its pretraining.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from diva_grpo.flows.demo.toy_models import Example, batches, train
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Problem, Variant
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.prompts import PromptBuilder
from tests.bench.ladders import hint_ladder

COLOURS: Final = MappingProxyType({"red": "blood", "blue": "sky", "green": "grass", "white": "snow"})
"""By the colour, what a hint says instead."""
GUESTS: Final = ("Tom", "Ben", "Sam", "Mary", "John", "Peter")
"""One token each. An answer such as "Tom: white" has four tokens for each of them, the last of which is the end."""
SIZES: Final = MappingProxyType({"train": 128, "test": 32})
"""Problems of each split: different orders of the guests."""
PROMPTS: Final = PromptBuilder(chat=True, system="You name colours.")
"""The model's own chat template, with a short system message in place of its own: on a CPU each token counts."""
WARM_STEPS, WARM_BATCH, WARM_LEARNING_RATE = 24, 8, 3e-4
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
    return f"Colours of {', '.join(guests)}?"


def hint_lines(guests: Sequence[str], colours: Sequence[str]) -> list[str]:
    """A step for each guest, which does not name the colour."""
    return [f"{guest}: {COLOURS[colour]}" for guest, colour in zip(guests, colours, strict=True)]


def worked(guests: Sequence[str], colours: Sequence[str]) -> str:
    """The answer in the policy's words."""
    return "\n".join(f"{guest}: {colour}" for guest, colour in zip(guests, colours, strict=True))


def found(text: str) -> str:
    """Colours that a completion names, in order: what the verifier compares."""
    return " ".join(_COLOUR.findall(text.lower()))


def accuracy_reward(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """1 where a completion, a text or a conversation, names the right colours in order, else 0."""
    texts = [said if isinstance(said, str) else said[-1]["content"] for said in completions]
    return [float(found(text) == wanted) for text, wanted in zip(texts, answer, strict=True)]


def warm_up(model: Path, folder: Path) -> None:
    """Teach a model the form of question, hint and answer, and save it with its tokenizer.

    Its multiplications, forward and backward, are of bfloat16.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(model))
    policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rng = random.Random("warm-up")
    # Autocast keeps what it has cast until it is left: with its cache, all steps would see the weights of the first.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        train(
            policy,
            tokenizer,
            batches(_examples(tokenizer, rng), rng, WARM_BATCH),
            steps=WARM_STEPS,
            ramp=3,
            name=model.name,
            learning_rate=WARM_LEARNING_RATE,
        )
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _examples(tokenizer: Any, rng: random.Random) -> Iterator[Example]:
    """Questions with a hint of 0 to 6 steps, and answers whose colours are drawn anew for each of them."""
    while True:
        guests = rng.sample(GUESTS, len(GUESTS))
        colours = [rng.choice(sorted(COLOURS)) for _ in guests]
        given = rng.randint(0, len(guests))
        asked = PROMPTS.prompt(question(guests), (), hint_lines(guests, colours)[:given])
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        yield Example(prompt, worked(guests, colours))


def fill_store(task: Guests, root: Path) -> None:
    """Make the store: problems of both splits, and a hint of each length, 1 to 6, for each of them."""
    store, table = VariantStore(root, create=True), task.table
    rng = random.Random(f"problems {task.seed}")
    orders: set[tuple[str, ...]] = set()
    problems: list[Problem] = []
    variants: list[Variant] = []
    for split, size in SIZES.items():
        for number in range(size):
            guests = tuple(rng.sample(GUESTS, len(GUESTS)))
            while guests in orders:
                guests = tuple(rng.sample(GUESTS, len(GUESTS)))
            orders.add(guests)
            colours = [table[guest] for guest in guests]
            problem = Problem(
                problem_id=f"llm/{split}/{number:03}",
                source="llm",
                split=split,
                text=question(guests),
                answer=" ".join(colours),
                solution_steps=worked(guests, colours).splitlines(),
            )
            problems.append(problem)
            variants += hint_ladder(problem, hint_lines(guests, colours), "llm-1")
    store.append(problems)
    store.append(variants)
