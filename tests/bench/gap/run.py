"""Runs of the testbed `gap`: an arm, a spectrum, a seed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from diva_grpo.schemas.question import Question
from diva_grpo.trainer.loading import load_tokenizer
from tests.bench import bed
from tests.bench.bed import Bed, originals
from tests.bench.gap.task import EASY, HARD, accuracy_reward, draw, fill_store, tested, warm_up

TOKENS_PER_STEP: Final = 3
"""Number, term and total."""
ASKED: Final = 128
"""Questions for each pass rate of the warm model."""


def bed_of(spectrum: str) -> Bed:
    """The testbed whose training problems have this spectrum."""
    tokens = TOKENS_PER_STEP * max(HARD) + 1
    return Bed(
        spectrum,
        {"spectrum": spectrum},
        accuracy_reward,
        tokens,
        rollouts=128,
        steps=60,
        asked=originals("test", "middle"),
    )


def prepare(out: Path, spectrum: str, seed: int, device: str) -> None:
    """Warm a model, fill its store, and measure its pass rates; what is there stays."""
    torch.set_num_threads(1)
    folder = out / f"{spectrum}-s{seed}"
    if (folder / "preconditions.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    warm_up(folder / "warm", seed)
    fill_store(folder / "store", spectrum, seed)
    (folder / "preconditions.json").write_text(json.dumps(_preconditions(folder, spectrum, seed)))


def _preconditions(folder: Path, spectrum: str, seed: int) -> dict[str, dict[str, float]]:
    """Pass rates of the warm model on originals by their steps, and on those tested by the steps that a hint leaves."""
    from transformers import AutoModelForCausalLM

    tokenizer: Any = load_tokenizer(str(folder / "warm"))
    model = AutoModelForCausalLM.from_pretrained(folder / "warm")
    torch.manual_seed(seed)
    rng, testbed = random.Random(f"asked {seed}"), bed_of(spectrum)

    def rate(steps: range, left: int | None = None) -> float:
        drawn = [draw(rng, rng.choice(steps)) for _ in range(ASKED)]
        hints = [d.hints[: len(d.terms) - left] if left else [] for d in drawn]
        asked = [
            Question("", "", sum_.question, str(sum_.totals[-1]), hint=tuple(hint))
            for sum_, hint in zip(drawn, hints, strict=True)
        ]
        return testbed.rate(model, tokenizer, asked)

    return {
        "originals": {str(n): rate(range(n, n + 1)) for n in range(min(EASY), max(HARD) + 1)},
        "left": {str(n): rate(tested(spectrum), n) for n in range(1, min(tested(spectrum)))},
    }


def train_run(out: Path, spectrum: str, arm: str, seed: int, device: str) -> None:
    """Train one run from the warm model; the file is written when it has ended."""
    bed.train_run(out, bed_of(spectrum), arm, seed, device)
