"""Runs of the testbed `llm`: an arm, a model, a seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import Variant
from diva_grpo.trainer.loading import load_tokenizer
from tests.bench import bed
from tests.bench.bed import Bed
from tests.bench.llm.task import LENGTH, Guests, accuracy_reward, fill_store

ANSWER_TOKENS = 24
ASKED, SAMPLES = 8, 64
"""Problems whose pass rates are measured, and answers to each without a hint."""
LORA_RANK, LEARNING_RATE = 16, 1e-4


def name_of(model: Path) -> str:
    """The model's name in names of files, where a dash stands before the seed."""
    return model.stem.replace("-", "_")


def bed_of(model: Path) -> Bed:
    """The testbed of a model."""
    return Bed(
        name_of(model),
        {"model": name_of(model)},
        accuracy_reward,
        ANSWER_TOKENS,
        rollouts=32,
        steps=40,
        chat=True,
        lora_rank=LORA_RANK,
        learning_rate=LEARNING_RATE,
    )


def prepare(out: Path, model: Path, seed: int, device: str) -> None:
    """Fill the store, and measure and print the pass rates by given steps; what is there stays."""
    torch.set_num_threads(1)
    folder = out / f"{name_of(model)}-s{seed}"
    if (folder / "preconditions.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    fill_store(Guests(seed), folder / "store")
    if model.suffix == ".gguf":
        from tests.support.plain_model import write_plain_model

        write_plain_model(model, folder / "warm")
    else:
        (folder / "warm").symlink_to(model.resolve())
    rates = _preconditions(folder, model, device)
    print(f"{folder.name}: pass rate by the steps given, and pass@{SAMPLES}: {rates}", flush=True)
    (folder / "preconditions.json").write_text(json.dumps(rates))


def _preconditions(folder: Path, model: Path, device: str) -> dict[str, float]:
    """Pass rate by the number of steps given in the question, and the share of problems solved without a hint."""
    from transformers import AutoModelForCausalLM

    store, testbed = VariantStore(folder / "store"), bed_of(model)
    tokenizer = load_tokenizer(str(folder / "warm"))
    policy: Any = AutoModelForCausalLM.from_pretrained(folder / "warm", dtype=torch.float32)
    policy = policy.to(device)
    torch.manual_seed(0)
    problems = {p.problem_id: p for p in store.problems(where="split = 'train'", limit=ASKED)}
    alone = [
        testbed.rate(policy, tokenizer, [question_of(problem)] * SAMPLES) for problem in problems.values()
    ]
    rates = {"0": sum(alone) / ASKED, f"pass@{SAMPLES}": sum(rate > 0 for rate in alone) / ASKED}
    for given in range(1, LENGTH + 1):
        hints = [v for v in store.read(Variant, "hint_steps = ?", [given]) if v.problem_id in problems]
        asked = [question_of(problems[v.problem_id], v) for v in hints for _ in range(4)]
        rates[str(given)] = testbed.rate(policy, tokenizer, asked)
    return rates


def train_run(out: Path, model: Path, arm: str, seed: int, device: str) -> None:
    """Train one run; the file is written when it has ended."""
    bed.train_run(out, bed_of(model), arm, seed, device)
