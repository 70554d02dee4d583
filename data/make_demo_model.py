"""Make the demo's model: a tiny Llama that does chained sums, about equally unsure at every step.

    python data/make_demo_model.py                     writes data/demo_model (about five minutes on one core)
    python data/make_demo_model.py --measure           only measures the model that is there

Supervised warm-up on freshly drawn sums, none of which is in ``sums_test.parquet``, by a teacher that slips: one
step in eight of what the model is shown ends at a wrong total, and the steps behind it go on from there. The model
learns to add, and to be as unsure at every step: a sum of 6 to 8 terms comes out right now and then, and clearly
more often when its first steps are given. So reinforcement learning has something to learn, hints have something
to give, and what is learnt on some sums serves on others.

The prompt is the problem's text and a line break. The answer is the steps, one a line, and ``#### 41``.
"""

import argparse
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow.parquet as pq
import torch
from sums import ChainedSum
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from pipeline.scripted_wordings import (
    ARITHMETIC_FRAMES,
    ARITHMETIC_STORIES,
    IRRELEVANT_FACTS,
    harder,
    rewordings,
)
from schemas.question import HINT_CLOSING, HINT_OPENING, render_question

HERE = Path(__file__).parent

SEED_WEIGHTS, SEED_EXAMPLES, SEED_BATCHES, SEED_SLIPS = 1, 1, 2, 9
SEED_MEASURE = 20_260_301
STEPS, BATCH, LEARNING_RATE, RAMP = 1500, 32, 3e-3, 100
POOL = 8  # batches drawn at once and sorted by length, which saves a third of the time in padding
LENGTHS = range(2, 9)
SHARE_ORIGINAL, SHARE_HINTED = 0.4, 0.15
"""Shares of the warm-up's examples with the original wording, and with hints in the question."""

SHARE_SLIPS = 0.12
"""Share of the steps in the warm-up that end at a wrong total."""

_PAD, _EOS = "<pad>", "<eos>"
_IGNORED = -100  # the label that the cross-entropy of transformers leaves out
_MEASURED = 200  # sums for each figure of the table
_MAX_NEW_TOKENS = 112  # seven steps of at most 13 tokens, the answer, and some room


class Example(NamedTuple):
    """A prompt, and the answer that follows it."""

    prompt: str
    answer: str


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


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Build a tokenizer of the 256 bytes and of the phrases that prompts and answers are made of.

    Any text can be encoded and comes back as it was. Each digit is a token, and so is a fixed phrase.
    """
    frames = [*ARITHMETIC_FRAMES, *ARITHMETIC_STORIES, "What is {expression}?"]
    literals = [literal for frame in frames for literal in frame.split("{expression}")]
    literals += [*IRRELEVANT_FACTS, HINT_OPENING.strip(), HINT_CLOSING.strip()]
    phrases = {phrase for literal in literals for phrase in _without_digits(literal) if len(phrase) > 1}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken(phrase, normalized=False) for phrase in [" + ", " - ", " = ", "#### ", *sorted(phrases)]]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def build_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Build the untrained model: three layers, about 0.4 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            # With the usual 0.02 a model this narrow takes about twice as long to learn anything.
            torch.nn.init.normal_(parameter, std=0.08)
    return model


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


def batches(examples: Iterator[Example], rng: random.Random) -> Iterator[list[Example]]:
    """Group examples into batches of about equal length each, in random order, without end."""
    while True:
        pool = sorted(itertools.islice(examples, POOL * BATCH), key=lambda example: len("".join(example)))
        starts = list(range(0, len(pool), BATCH))
        rng.shuffle(starts)
        yield from (pool[start : start + BATCH] for start in starts)


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Encode examples for training, padded on the right, with the loss on the answers only.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, each of shape (examples, tokens).
    """
    prompts = [tokenizer.encode(example.prompt) for example in examples]
    answers = [[*tokenizer.encode(example.answer), tokenizer.eos_token_id] for example in examples]
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        used = len(prompt) + len(answer)
        padding = width - used
        rows["input_ids"].append([*prompt, *answer, *[tokenizer.pad_token_id] * padding])
        rows["attention_mask"].append([1] * used + [0] * padding)
        rows["labels"].append([_IGNORED] * len(prompt) + answer + [_IGNORED] * padding)
    return {name: torch.tensor(values) for name, values in rows.items()}


def warm_up(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, drawn_batches: Iterator[list[Example]]
) -> None:
    """Train the model in place for ``STEPS`` steps of AdamW, the learning rate falling to 0 in the last quarter."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / RAMP, 1.0, (STEPS - step) / (0.25 * STEPS))
    )
    model.train()
    for step, drawn in enumerate(itertools.islice(drawn_batches, STEPS), start=1):
        loss = model(**encode(drawn, tokenizer)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.train(False)


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
        tokenizer = build_tokenizer()
        model = build_model(tokenizer)
        examples = warm_up_examples(random.Random(SEED_EXAMPLES), random.Random(SEED_SLIPS), problems["test"])
        warm_up(model, tokenizer, batches(examples, random.Random(SEED_BATCHES)))
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
