"""The testbed's models: tiny Llamas, warmed up on exercises of all levels alike by a teacher that slips.

What the model is shown is wrong in a share of the steps, and goes on from there. So it learns to work exercises out,
and to be as unsure at every step: long ones come out right now and then, and the more often the more steps are given.
A model that is only cut short in its warm-up knows some facts and not others; 60 steps of GRPO made it hardly better.

Some warm-up examples have steps in the question, so that the paper's form of a hint means something to the model;
steps that open an answer look like any other answer to it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from schemas.question import HINT_CLOSING, HINT_OPENING, render_question
from tests.bench.convergence.tasks import Task, held_out

SEED = 1
BATCH, LEARNING_RATE, RAMP = 32, 3e-3, 50
POOL = 8  # batches drawn at once and sorted by length, which saves padding
SHARE_ORIGINAL, SHARE_HINTED = 0.6, 0.2
"""Shares of the examples with the original wording, and with steps in the question."""
_IGNORED = -100


class Example(NamedTuple):
    """A prompt and the answer that follows it."""

    prompt: str
    answer: str


def build_tokenizer(task: Task) -> PreTrainedTokenizerBase:
    """A tokenizer of the 256 bytes, each digit a token, and of the phrases that prompts are made of."""
    pieces = [piece for frame in task.frames for piece in frame.split("{body}")]
    pieces += ["#### ", HINT_OPENING, HINT_CLOSING, *task.words]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    phrases = sorted({piece for piece in pieces if len(piece) > 1})
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """The untrained model: two layers, about 0.3 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if (
            parameter.dim() == 2
        ):  # with the usual 0.02 so narrow a model takes twice as long to learn anything
            torch.nn.init.normal_(parameter, std=0.08)
    return model


def examples(task: Task, rng: random.Random) -> Iterator[Example]:
    """Examples without end, none of them of the store's problems."""
    excluded = held_out(task)
    for exercise in task.exercises(rng, task.warm_levels):
        if exercise.body in excluded:
            continue
        frame = task.frames[0] if rng.random() < SHARE_ORIGINAL else rng.choice(task.frames[1:])
        text = frame.format(body=exercise.body)
        steps, answer = exercise.worked(rng, task.slips)
        given = rng.randint(1, len(steps)) if rng.random() < SHARE_HINTED else 0
        prompt = render_question(text, hint=steps[:given])
        yield Example(f"{prompt}\n", "\n".join([*steps[given:], f"#### {answer}"]))


def _batches(drawn: Iterator[Example], rng: random.Random) -> Iterator[list[Example]]:
    while True:
        pool = sorted(itertools.islice(drawn, POOL * BATCH), key=lambda example: len("".join(example)))
        starts = list(range(0, len(pool), BATCH))
        rng.shuffle(starts)
        yield from (pool[start : start + BATCH] for start in starts)


def encode(batch: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Padded on the right, with the loss on the answers only; each tensor (examples, tokens)."""
    prompts = [tokenizer.encode(example.prompt) for example in batch]
    answers = [[*tokenizer.encode(example.answer), tokenizer.eos_token_id] for example in batch]
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    rows: dict[str, list[list[Any]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        used = len(prompt) + len(answer)
        rows["input_ids"].append([*prompt, *answer, *[tokenizer.pad_token_id] * (width - used)])
        rows["attention_mask"].append([1] * used + [0] * (width - used))
        rows["labels"].append([_IGNORED] * len(prompt) + answer + [_IGNORED] * (width - used))
    return {name: torch.tensor(values) for name, values in rows.items()}


def warm_up(task: Task, folder: Path, *, steps: int | None = None, seed: int = SEED) -> None:
    """Train a model from nothing and save it, with its tokenizer.

    Args:
        task: what it learns.
        folder: where it is saved.
        steps: of AdamW, the learning rate falling to 0 in the last quarter; default the task's.
        seed: of weights and examples.
    """
    total = steps or task.warm_steps
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(task)
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / RAMP, 1.0, (total - step) / (0.25 * total))
    )
    drawn = _batches(examples(task, random.Random(seed)), random.Random(seed))
    model.train()
    for step, batch in enumerate(itertools.islice(drawn, total), start=1):
        loss = model(**encode(batch, tokenizer)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"{task.name}: warm-up step {step} of {total}, loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
