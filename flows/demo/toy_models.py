"""Small Llamas of bytes and phrases, warmed up on worked exercises: of the demo, and of the convergence testbed.

The prompt is a question and a line break, the answer its steps, one a line, and ``#### 41``.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

BATCH, LEARNING_RATE = 32, 3e-3
POOL = 8  # batches drawn at once and sorted by length, which saves a third of the time in padding

_IGNORED = -100  # the label that the cross-entropy of transformers leaves out


class Example(NamedTuple):
    """A prompt, and the answer that follows it."""

    prompt: str
    answer: str


def build_tokenizer(phrases: Sequence[str], max_length: int) -> PreTrainedTokenizerBase:
    """Build a tokenizer of the 256 bytes, each digit a token, and of phrases that are one token each.

    Any text can be encoded and comes back as it was.

    Args:
        phrases: In the order of their ids.
        max_length: Tokens that the model reads.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def build_model(tokenizer: PreTrainedTokenizerBase, layers: int) -> LlamaForCausalLM:
    """Build an untrained model: with two layers about 0.3 million parameters, with three 0.4."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
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


def batches(examples: Iterator[Example], rng: random.Random, size: int = BATCH) -> Iterator[list[Example]]:
    """Group examples into batches of about equal length each, in random order, without end."""
    while True:
        pool = sorted(itertools.islice(examples, POOL * size), key=lambda example: len("".join(example)))
        starts = list(range(0, len(pool), size))
        rng.shuffle(starts)
        yield from (pool[start : start + size] for start in starts)


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


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    drawn: Iterator[list[Example]],
    *,
    steps: int,
    ramp: int,
    name: str,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Train a model in place with AdamW, the learning rate rising at first and falling to 0 in the last quarter.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        drawn: Batches without end.
        steps: Batches that it is trained on.
        ramp: Steps in which the learning rate rises.
        name: Of the model, where progress is printed.
        learning_rate: After the rise.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / ramp, 1.0, (steps - step) / (0.25 * steps))
    )
    model.train()
    for step, batch in enumerate(itertools.islice(drawn, steps), start=1):
        loss = model(**encode(batch, tokenizer)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"{name}: warm-up step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    model.train(False)
