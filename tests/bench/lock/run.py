"""Runs of the testbed `lock`: an arm, a length, a seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import torch

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import Variant
from diva_grpo.trainer.loading import load_tokenizer
from tests.bench import bed
from tests.bench.bed import Bed
from tests.bench.lock.task import Lock, accuracy_reward, fill_store, warm_up

OBEYS: Final = 0.9
"""Least pass rate of a warm model when the question names all rules. Below it, a hint does not help."""
TOKENS_PER_STEP: Final = 4
"""Of a worked step at most: number, cue, rule and digit."""


class PreconditionError(Exception):
    """The warm model cannot do what the testbed supposes."""


def bed_of(length: int) -> Bed:
    """The testbed whose problems have `length` steps."""
    return Bed(f"L{length}", {"length": length}, accuracy_reward, TOKENS_PER_STEP * length)


def prepare(out: Path, length: int, seed: int, device: str) -> None:
    """Warm a model, fill its stores, and measure the pass rate by given steps; what is there stays."""
    torch.set_num_threads(1)
    folder, task = out / f"L{length}-s{seed}", Lock(length, seed)
    if (folder / "preconditions.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    warm_up(task, folder / "warm")
    fill_store(task, folder / "store")
    rates = _preconditions(folder, length)
    if rates[str(length)] < OBEYS:
        raise PreconditionError(
            f"{folder.name}: told all rules, the warm model is right at {rates[str(length)]:.2f}, not {OBEYS}: "
            "a longer warm-up is needed"
        )
    (folder / "preconditions.json").write_text(json.dumps(rates))


def _preconditions(folder: Path, length: int) -> dict[str, float]:
    """Pass rate of the warm model by the number of steps given in the question, 256 answers each."""
    from transformers import AutoModelForCausalLM

    store = VariantStore(folder / "store")
    tokenizer = load_tokenizer(str(folder / "warm"))
    model = AutoModelForCausalLM.from_pretrained(folder / "warm")
    torch.manual_seed(0)
    problems = {p.problem_id: p for p in store.problems(where="split = 'train'")}
    testbed = bed_of(length)
    rates = {"0": testbed.rate(model, tokenizer, [question_of(p) for p in problems.values()])}
    for given in range(1, length + 1):
        hints = store.read(Variant, "hint_steps = ?", [given])
        asked = [question_of(problems[v.problem_id], v) for v in hints]
        rates[str(given)] = testbed.rate(model, tokenizer, asked)
    return rates


def train_run(out: Path, length: int, arm: str, seed: int, device: str) -> None:
    """Train one run from the warm model; the file is written when it has ended."""
    bed.train_run(out, bed_of(length), arm, seed, device)
