"""Runs of the testbed `figures`: an arm, a seed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import Question, question_of
from diva_grpo.schemas.recipe import Recipe
from diva_grpo.trainer.loading import load_processor
from diva_grpo.trainer.vision import ImageRows
from tests.bench import bed
from tests.bench.bed import GENERATIONS, Asked, Bed, accepted_variants
from tests.bench.figures.task import accuracy_reward, fill_store, warm_up

CASE: Final = "figures"
"""The only one."""
ANSWER_TOKENS: Final = 2
"""A digit, and the end."""
LEARNING_RATE: Final = 1e-4
"""With 7e-4, as in the other testbeds, GRPO and `response` forget within 10 steps how to count clean figures."""
ASKED: Final = 32
"""Groups of `GENERATIONS` answers for each pass rate of the warm model."""


def held_out(store: VariantStore) -> Asked:
    """The measures: a random perturbed figure of each held-out problem, and the clean one."""
    problems = store.problems(where="split = 'test'")
    rng, variants = random.Random("held out"), accepted_variants(store)
    return {
        "perturbed": [question_of(p, rng.choice(variants[p.problem_id])) for p in problems],
        "clean": [question_of(p) for p in problems],
    }


def bed_of(case: str) -> Bed:
    """The testbed."""
    return Bed(
        case,
        {"case": case},
        accuracy_reward,
        ANSWER_TOKENS,
        rollouts=64,
        steps=40,
        asked=held_out,
        learning_rate=LEARNING_RATE,
        eval_every=20,
    )


def prepare(out: Path, case: str, seed: int, device: str) -> None:
    """Warm a model, fill its store, and measure its pass rates; what is there stays."""
    torch.set_num_threads(1)
    folder = out / f"{case}-s{seed}"
    if (folder / "preconditions.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    warm_up(folder / "warm", seed)
    fill_store(folder / "store", seed)
    (folder / "preconditions.json").write_text(json.dumps(_preconditions(folder, case, seed)))


def _preconditions(folder: Path, case: str, seed: int) -> dict[str, dict[str, float]]:
    """Pass rate of the warm model and share of silent groups, on training problems, by kind and strength."""
    from transformers import AutoModelForImageTextToText

    store = VariantStore(folder / "store")
    processor: Any = load_processor(str(folder / "warm"))
    model = AutoModelForImageTextToText.from_pretrained(folder / "warm")
    torch.manual_seed(seed)
    problems = store.problems(where="split = 'train'")
    asked: dict[str, list[Question]] = {"original": [question_of(problem) for problem in problems]}
    variants = accepted_variants(store)
    for problem in problems:
        for variant in variants[problem.problem_id]:
            recipe = Recipe.model_validate_json(variant.recipe or "")
            strength = f"{variant.kind} {recipe.strength:.2f}"
            asked.setdefault(strength, []).append(question_of(problem, variant))
    rates: dict[str, dict[str, float]] = {"right": {}, "silent": {}}
    for name, questions in sorted(asked.items()):
        chosen = random.Random(name).sample(questions, ASKED)
        rewards = bed_of(case).rewards(
            model,
            processor,
            [question for question in chosen for _ in range(GENERATIONS)],
            ImageRows(store.image_path),
        )
        groups = [rewards[i : i + GENERATIONS] for i in range(0, len(rewards), GENERATIONS)]
        rates["right"][name] = sum(rewards) / len(rewards)
        rates["silent"][name] = sum(len(set(group)) == 1 for group in groups) / len(groups)
    return rates


def train_run(out: Path, case: str, arm: str, seed: int, device: str) -> None:
    """Train one run from the warm model; the file is written when it has ended."""
    bed.train_run(out, bed_of(case), arm, seed, device)
