"""Make the demo's model: a tiny Llama that does chained sums, about equally unsure at every step.

    python data/scripts/make_demo_model.py                     writes data/demo_model (about five minutes on one core)
    python data/scripts/make_demo_model.py --measure           only measures the model that is there

Supervised warm-up on freshly drawn sums, none of which is in ``sums_test.parquet``, by a teacher that slips: one
step in eight of the training texts ends at a wrong total, and the next steps continue from there. The model
learns to add, and to be as unsure at every step: a sum of 6 to 8 terms comes out right now and then, and clearly
more often when its first steps are given. So reinforcement learning has something to learn, hints have something
to give, and what is learnt on some sums serves on others.

How prompts and answers read, and the model itself: ``toy_models.py``.
"""

import argparse
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from diva_grpo.flows.demo.sums import ChainedSum
from diva_grpo.flows.demo.toy_models import Example, batches, build_model, build_tokenizer, train
from diva_grpo.flows.demo.wordings import (
    ARITHMETIC_FRAMES,
    ARITHMETIC_STORIES,
    IRRELEVANT_FACTS,
    harder,
    rewordings,
)
from diva_grpo.schemas.question import HINT_CLOSING, HINT_OPENING, render_question

HERE = Path(__file__).parents[1]

SEED_WEIGHTS, SEED_EXAMPLES, SEED_BATCHES, SEED_SLIPS = 1, 1, 2, 9
SEED_MEASURE = 20_260_301
STEPS, RAMP = 1500, 100
LAYERS, MAX_LENGTH = 3, 2048
LENGTHS = range(2, 9)
SHARE_ORIGINAL, SHARE_HINTED = 0.4, 0.15
"""Shares of the warm-up's examples with the original wording, and with hints in the question."""

SHARE_SLIPS = 0.12
"""Share of the steps in the warm-up that end at a wrong total."""

_MEASURED = 200  # sums for each figure of the table
_MAX_NEW_TOKENS = 112  # seven steps of at most 13 tokens, the answer, and some room


class Solution(Protocol):
    """Anything with worked steps and an answer: a sum, or what a slipping teacher makes of it."""

    @property
    def steps(self) -> list[str]:
        """The worked solution, one operation a step."""
        ...

    @property
    def answer(self) -> str:
        """The final answer."""
        ...


class Slipped(NamedTuple):
    """A solution in which some steps end at a wrong total, from which the next step goes on."""

    steps: list[str]
    answer: str


def slipped(drawn: ChainedSum, rng: random.Random) -> Slipped:
    """Solve a sum with a slip of one or ten in a share ``SHARE_SLIPS`` of the steps."""
    total = drawn.terms[0]
    steps = []
    for term in drawn.terms[1:]:
        result = total + term
        if rng.random() < SHARE_SLIPS:
            result = max(0, result + rng.choice((1, -1, 10, -10)))
        steps.append(f"{total} {'-' if term < 0 else '+'} {abs(term)} = {result}")
        total = result
    return Slipped(steps, str(total))


def plain(drawn: Solution, text: str) -> Example:
    """Return the example that asks for a sum in the words of ``text``."""
    return Example(f"{text}\n", "\n".join([*drawn.steps, f"#### {drawn.answer}"]))


def hinted(drawn: Solution, text: str, given: int) -> Example:
    """Return the example that has the first ``given`` steps in its question; the rest is the answer."""
    prompt = render_question(text, hint=drawn.steps[:given])
    return Example(f"{prompt}\n", "\n".join([*drawn.steps[given:], f"#### {drawn.answer}"]))


def prefixed(drawn: Solution, text: str, given: int) -> Example:
    """Return the example whose prompt runs on into the first ``given`` steps of the answer."""
    opening = "".join(f"{step}\n" for step in drawn.steps[:given])
    return Example(f"{text}\n{opening}", "\n".join([*drawn.steps[given:], f"#### {drawn.answer}"]))


def phrases() -> list[str]:
    """Return what prompts and answers are made of, but for digits, which stay tokens of their own."""
    frames = [*ARITHMETIC_FRAMES, *ARITHMETIC_STORIES, "What is {expression}?"]
    literals = [literal for frame in frames for literal in frame.split("{expression}")]
    literals += [*IRRELEVANT_FACTS, HINT_OPENING.strip(), HINT_CLOSING.strip()]
    found = {phrase for literal in literals for phrase in _without_digits(literal) if len(phrase) > 1}
    return [" + ", " - ", " = ", "#### ", *sorted(found)]


def warm_up_examples(rng: random.Random, slips: random.Random, held_out: set[str]) -> Iterator[Example]:
    """Yield examples without end: all lengths alike, in all wordings, some with hints in the question.

    Raises:
        ValueError: A held-out problem was drawn.
    """
    while True:
        drawn = ChainedSum.draw(rng, rng.choice(LENGTHS))
        if drawn.problem in held_out:
            raise ValueError(f"{drawn.problem} is held out: choose another seed")
        text = drawn.problem
        if rng.random() >= SHARE_ORIGINAL:
            text = rng.choice([*rewordings(text), *harder(text)])
        solution = slipped(drawn, slips)
        if rng.random() < SHARE_HINTED:
            yield hinted(solution, text, rng.randint(1, len(solution.steps)))
        else:
            yield plain(solution, text)


def pass_rate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sums: Sequence[ChainedSum],
    prompts: Sequence[str],
    *,
    greedy: bool = False,
) -> float:
    """Return the share of prompts whose completion ends in the sum's value, one completion a prompt.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        sums: The sums, for their values.
        prompts: A prompt for each sum.
        greedy: Take the likeliest token each time, in place of sampling at temperature 1.
    """
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
    sampling: dict[str, Any] = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}
    with torch.inference_mode():
        tokens = model.generate(**batch, **sampling, max_new_tokens=_MAX_NEW_TOKENS)  # type: ignore[operator]  # torch types it Tensor or Module
    texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [
        text.rpartition("#### ")[2].strip() == drawn.answer for text, drawn in zip(texts, sums, strict=True)
    ]
    return sum(right) / len(right)


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, excluded: set[str]) -> str:
    """Measure the model on fresh sums, and return the figures as two tables in Markdown."""
    rng = random.Random(SEED_MEASURE)
    fresh = {length: _drawn(rng, length, excluded) for length in LENGTHS}
    kinds: dict[str, Callable[[ChainedSum], str]] = {
        "plain": lambda drawn: plain(drawn, drawn.problem).prompt,
        "half of the steps open the answer": lambda drawn: (
            prefixed(drawn, drawn.problem, len(drawn.steps) // 2).prompt
        ),
        "all but one open the answer": lambda drawn: (
            prefixed(drawn, drawn.problem, len(drawn.steps) - 1).prompt
        ),
        "half in the question": lambda drawn: (
            hinted(drawn, drawn.problem, max(1, len(drawn.steps) // 2)).prompt
        ),
        "all but one in the question": lambda drawn: (
            hinted(drawn, drawn.problem, max(1, len(drawn.steps) - 1)).prompt
        ),
        "all in the question": lambda drawn: hinted(drawn, drawn.problem, len(drawn.steps)).prompt,
    }
    lines = [f"| terms | {' | '.join(kinds)} |", "| --- " * (len(kinds) + 1) + "|"]
    for length, sums in fresh.items():
        rates = [pass_rate(model, tokenizer, sums, list(map(kind, sums))) for kind in kinds.values()]
        lines.append(f"| {length} | " + " | ".join(f"{rate:.0%}" for rate in rates) + " |")
    long = [drawn for length in (6, 7, 8) for drawn in fresh[length]]
    lines += ["", "| wording (6 to 8 terms) | passed |", "| --- | --- |"]
    wordings = [[drawn.problem, *rewordings(drawn.problem), *harder(drawn.problem)] for drawn in long]
    names = ["original", *ARITHMETIC_FRAMES[:5], "harder: irrelevant fact", "harder: story"]
    for name, texts in zip(names, zip(*wordings, strict=True), strict=True):
        rate = pass_rate(model, tokenizer, long, [text + "\n" for text in texts])
        lines.append(f"| {name} | {rate:.0%} |")
    greedy = pass_rate(model, tokenizer, long, [f"{drawn.problem}\n" for drawn in long], greedy=True)
    return "\n".join([*lines, f"| original, greedy | {greedy:.0%} |"])


def main() -> None:
    """Make the model, or only measure the one that is there."""
    parser = argparse.ArgumentParser(description="Make the demo's model.")
    parser.add_argument("--measure", action="store_true", help="measure the model in place and write nothing")
    parser.add_argument("--folder", type=Path, default=HERE / "demo_model", help="where the model lies")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED_WEIGHTS)
    problems = {
        name: set(pq.read_table(HERE / f"sums_{name}.parquet", columns=["problem"])["problem"].to_pylist())
        for name in ("train", "test")
    }
    if not arguments.measure:
        tokenizer = build_tokenizer(phrases(), MAX_LENGTH)
        model = build_model(tokenizer, LAYERS)
        examples = warm_up_examples(random.Random(SEED_EXAMPLES), random.Random(SEED_SLIPS), problems["test"])
        drawn = batches(examples, random.Random(SEED_BATCHES))
        train(model, tokenizer, drawn, steps=STEPS, ramp=RAMP, name="demo_model")
        model.save_pretrained(arguments.folder)
        tokenizer.save_pretrained(arguments.folder)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder)
    torch.manual_seed(SEED_MEASURE)
    print(measure(model, tokenizer, problems["train"] | problems["test"]))


def _drawn(rng: random.Random, length: int, excluded: set[str]) -> list[ChainedSum]:
    draws = (ChainedSum.draw(rng, length) for _ in itertools.count())
    return list(itertools.islice((drawn for drawn in draws if drawn.problem not in excluded), _MEASURED))


def _without_digits(literal: str) -> list[str]:
    """Split at digits, which stay tokens of their own."""
    return "".join("\n" if character.isdigit() else character for character in literal).split("\n")


if __name__ == "__main__":
    main()
