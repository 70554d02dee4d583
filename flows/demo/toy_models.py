"""Small Llama models with tokens for bytes and phrases, pretrained on worked exercises.

The demo and the convergence testbed use them. A prompt is a question and a line break. An answer has one step per
line, and ends with a line such as ``#### 41``.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

BATCH, LEARNING_RATE = 32, 3e-3
POOL = 8  # batches that are drawn together and sorted by length; less padding saves a third of the time

_IGNORED = -100  # the label of tokens that do not count in the loss of transformers


class Example(NamedTuple):
    """A prompt, and the answer that follows it."""

    prompt: str
    answer: str


def build_tokenizer(phrases: Sequence[str], max_length: int) -> PreTrainedTokenizerBase:
    """Build a tokenizer with one token for each of the 256 bytes (so one per digit) and one for each phrase.

    Any text can be encoded, and decoding gives the same text.

    Args:
        phrases: The phrases, in the order of their ids.
        max_length: Maximum number of tokens that the model reads.
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


def build_model(
    tokenizer: PreTrainedTokenizerBase,
    layers: int,
    *,
    hidden_size: int = 96,
    tie_word_embeddings: bool = True,
) -> LlamaForCausalLM:
    """Build an untrained model. By default it has about 0.3 million parameters with two layers, 0.4 million with three.

    Args:
        tokenizer: Its tokenizer.
        layers: Number of layers.
        hidden_size: Width of the hidden states, a multiple of 8.
        tie_word_embeddings: Whether the embeddings of tokens are also the rows of the output layer.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            # With the usual 0.02, a model this narrow takes about twice as long until it starts to learn.
            torch.nn.init.normal_(parameter, std=0.08)
    return model


def batches(examples: Iterator[Example], rng: random.Random, size: int = BATCH) -> Iterator[list[Example]]:
    """Yield batches of examples of similar length, in random order, without end.

    Args:
        examples: Examples without end.
        rng: Chooses the order.
        size: Examples per batch.
    """
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
    """Train a model in place on examples, see `fit`.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        drawn: Batches without end.
        steps: Number of training steps, with one batch each.
        ramp: Number of steps in which the learning rate rises.
        name: Name of the model, for the printed progress.
        learning_rate: Learning rate after the rise.
    """
    inputs = (encode(batch, tokenizer) for batch in drawn)
    fit(model, inputs, steps=steps, ramp=ramp, name=name, learning_rate=learning_rate)


def fit(
    model: PreTrainedModel,
    inputs: Iterator[dict[str, Tensor]],
    *,
    steps: int,
    ramp: int,
    name: str,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Train a model in place with AdamW.

    The learning rate rises linearly at first, then stays constant, and falls to 0 in the last quarter of the steps.

    Args:
        model: The model.
        inputs: Arguments of its forward pass for each batch, with labels; without end.
        steps: Number of training steps, with one batch each.
        ramp: Number of steps in which the learning rate rises.
        name: Name of the model, for the printed progress.
        learning_rate: Learning rate after the rise.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / ramp, 1.0, (steps - step) / (0.25 * steps))
    )
    model.train()
    for step, batch in enumerate(itertools.islice(inputs, steps), start=1):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"{name}: warm-up step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    model.train(False)
