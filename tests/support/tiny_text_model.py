"""Tiny models and stores that tests build for themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Kind, Label, Problem, Setting, Variant

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tiny_model(folder: Path, *, chat: bool = False, seed: int = 0) -> Path:
    """A random byte-level Llama of some thousand parameters, saved where `from_pretrained` finds it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: i for i, sign in enumerate(["<pad>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>"
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def planted_store(root: Path, *, problems: int = 8, variants: bool = True) -> VariantStore:
    """A store of one-line sums with three accepted variants each: a wording and two hints."""
    store = VariantStore(root, create=True)
    rows, made = [], []
    for i in range(problems):
        problem_id = f"sums/{i:03d}"
        rows.append(
            Problem(
                problem_id=problem_id,
                source="sums",
                split="train",
                text=f"{i} + 3 + 1 = ?",
                answer=str(i + 4),
                solution_steps=[f"{i} + 3 = {i + 3}", f"{i + 3} + 1 = {i + 4}"],
            )
        )
        common: dict[str, Any] = {
            "problem_id": problem_id,
            "status": "accepted",
            "generator_model": "test",
            "prompt_version": "test-1",
        }
        made.append(
            Variant(
                variant_id=f"{problem_id}:reword:0",
                kind=Kind.REWORD,
                text=f"What is {i} + 3 + 1?",
                delta_designed=0.0,
                **common,
            )
        )
        for j, delta in ((1, -2.0), (2, -8.0)):
            made.append(
                Variant(
                    variant_id=f"{problem_id}:think_step:{j}",
                    kind=Kind.THINK_STEP,
                    text=rows[-1].text,
                    hint=rows[-1].solution_steps[:j],
                    hint_steps=j,
                    hint_total=2,
                    delta_designed=delta,
                    **common,
                )
            )
    store.append(rows)
    if variants:
        store.append(made)
    return store


def add_labels(store: VariantStore, difficulty: float = 7.0) -> None:
    """A label of the same difficulty for every problem, by the store's label model."""
    labels = [
        Label(
            subject_id=problem.problem_id,
            solver_model="policy",
            subject_kind="original",
            samples=8,
            correct=2,
            pass_rate=0.25,
            difficulty=difficulty,
            difficulty_low=5.0,
            difficulty_high=8.0,
        )
        for problem in store.read(Problem)
    ]
    store.append(labels)
    store.append([Setting(name="label_model", value="policy")])
