"""Runs of the testbed `llm`: an arm, a model, a seed."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import Variant
from diva_grpo.trainer.loading import load_tokenizer
from tests.bench import bed
from tests.bench.bed import Asked, Bed, accepted_variants
from tests.bench.llm.task import GUESTS, PROMPTS, Guests, accuracy_reward, fill_store, warm_up

ANSWER_TOKENS: Final = 4 * len(GUESTS)
ASKED, SAMPLES = 2, 64
"""Problems whose pass rates without a hint are measured, and answers to each."""
ASKED_WITH_HINTS: Final = 16
"""Answers to hints of each length, one to a problem."""
OBEYS: Final = 0.7
"""Least pass rate of the warm model when all colours are told. Below it, a hint does not help."""


class PreconditionError(Exception):
    """The warm model cannot do what the testbed supposes."""


def name_of(model: Path) -> str:
    """The model's name in names of files, where a dash stands before the seed."""
    return model.stem.replace("-", "_")


def held_out(store: VariantStore) -> Asked:
    """The measures: the held-out problems without hints, and with the colours of half of the guests told."""
    problems = store.problems(where="split = 'test'")
    variants, half = accepted_variants(store), len(GUESTS) // 2
    return {
        "test": [question_of(problem) for problem in problems],
        "half": [
            question_of(problem, hint)
            for problem in problems
            for hint in variants[problem.problem_id]
            if hint.hint_steps == half
        ],
    }


def bed_of(model: Path) -> Bed:
    """The testbed of a model."""
    return Bed(
        name_of(model),
        {"model": name_of(model)},
        accuracy_reward,
        ANSWER_TOKENS,
        rollouts=16,
        steps=20,
        asked=held_out,
        learning_rate=5e-4,
        eval_every=10,
        prompts=PROMPTS,
        lora_rank=16,
        dtype="bfloat16",
    )


def prepare(out: Path, model: Path, seed: int, device: str) -> None:
    """Warm the model, fill the store, and measure the pass rates by given steps; what is there stays.

    One warm model serves all seeds: it knows no table.
    """
    torch.set_num_threads(1)
    folder, warm = out / f"{name_of(model)}-s{seed}", out / "warm" / name_of(model)
    if (folder / "preconditions.json").exists():
        return
    warm.parent.mkdir(exist_ok=True)
    with warm.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # seeds are made ready at the same time
        if not warm.exists():
            _warm(model, warm)
    shutil.rmtree(folder, ignore_errors=True)
    fill_store(Guests(seed), folder / "store")
    (folder / "warm").symlink_to(warm)
    rates = _preconditions(folder, model, device)
    print(f"{folder.name}: pass rate by the steps given, and pass@{SAMPLES}: {rates}", flush=True)
    if rates[str(len(GUESTS))] < OBEYS:
        raise PreconditionError(
            f"{folder.name}: the warm model does not follow hints: a longer warm-up is needed"
        )
    (folder / "preconditions.json").write_text(json.dumps(rates))


def _warm(model: Path, folder: Path) -> None:
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    if model.suffix == ".gguf":
        from tests.support.plain_model import write_plain_model

        write_plain_model(model, part / "plain")
        model = part / "plain"
    warm_up(model, part / "warm")
    (part / "warm").rename(folder)
    shutil.rmtree(part)


def _preconditions(folder: Path, model: Path, device: str) -> dict[str, float]:
    """Pass rate by the number of steps given in the question, and the share of problems solved without a hint."""
    from transformers import AutoModelForCausalLM

    store, testbed = VariantStore(folder / "store"), bed_of(model)
    tokenizer = load_tokenizer(str(folder / "warm"))
    policy: Any = AutoModelForCausalLM.from_pretrained(folder / "warm", dtype=testbed.dtype)
    policy = policy.to(device)
    torch.manual_seed(0)
    problems = store.problems(where="split = 'train'")
    alone = [
        testbed.rate(policy, tokenizer, [question_of(problem)] * SAMPLES) for problem in problems[:ASKED]
    ]
    rates = {"0": sum(alone) / ASKED, f"pass@{SAMPLES}": sum(rate > 0 for rate in alone) / ASKED}
    by_id = {problem.problem_id: problem for problem in problems[:ASKED_WITH_HINTS]}
    for given in range(1, len(GUESTS) + 1):
        hints = store.read(Variant, "hint_steps = ? AND problem_id IN (SELECT unnest(?))", [given, [*by_id]])
        asked = [question_of(by_id[hint.problem_id], hint) for hint in hints]
        rates[str(given)] = testbed.rate(policy, tokenizer, asked)
    return rates


def train_run(out: Path, model: Path, arm: str, seed: int, device: str) -> None:
    """Train one run; the file is written when it has ended."""
    bed.train_run(out, bed_of(model), arm, seed, device)
