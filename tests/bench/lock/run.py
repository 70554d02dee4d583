"""Runs of the testbed `lock`: an arm, a case (length, and whether each step has its own rules), a seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final, NamedTuple

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
OWN_WARM_SEED: Final = 101
"""With own rules one warm model serves all seeds: a warm-up knows nothing of the tables, and costs more than a run."""
TOKENS_PER_STEP: Final = 4
"""Of a worked step at most: number, cue, rule and digit."""


class PreconditionError(Exception):
    """The warm model cannot do what the testbed supposes."""


class Case(NamedTuple):
    """What the problems of a run are.

    Attributes:
        own: whether each step has its own rules.
        length: number of steps.
    """

    own: bool
    length: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """Return the case of a text of the command line, such as `8` or `8-own`."""
        return cls(text.endswith("-own"), int(text.removesuffix("-own")))

    @property
    def name(self) -> str:
        """The name in files, such as `L8` or `L8-own`."""
        return f"L{self.length}" + "-own" * self.own

    def facts(self) -> dict[str, Any]:
        """Return what a line of figures says of it."""
        return {"length": self.length} | ({"own": True} if self.own else {})


def bed_of(case: Case) -> Bed:
    """The testbed of a case."""
    return Bed(case.name, case.facts(), accuracy_reward, TOKENS_PER_STEP * case.length)


def prepare(out: Path, case: Case, seed: int, device: str) -> None:
    """Warm a model, fill its stores, and measure the pass rate by given steps; what is there stays."""
    torch.set_num_threads(1)
    length, folder = case.length, out / f"{case.name}-s{seed}"
    if (folder / "preconditions.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    task = Lock(length, seed, case.own)
    if made := case.own and next(out.glob(f"{case.name}-s*/preconditions.json"), None):
        shutil.copytree(made.parent / "warm", folder / "warm")
    else:
        warm_up(Lock(length, OWN_WARM_SEED) if case.own else task, folder / "warm")
    fill_store(task, folder / "store")
    rates = _preconditions(folder, case)
    if rates[str(length)] < OBEYS:
        raise PreconditionError(
            f"{folder.name}: told all rules, the warm model is right at {rates[str(length)]:.2f}, not {OBEYS}: "
            "a longer warm-up is needed"
        )
    (folder / "preconditions.json").write_text(json.dumps(rates))


def _preconditions(folder: Path, case: Case) -> dict[str, float]:
    """Pass rate of the warm model by the number of steps given in the question, 256 answers each."""
    from transformers import AutoModelForCausalLM

    store = VariantStore(folder / "store")
    tokenizer = load_tokenizer(str(folder / "warm"))
    model = AutoModelForCausalLM.from_pretrained(folder / "warm")
    torch.manual_seed(0)
    problems = {p.problem_id: p for p in store.problems(where="split = 'train'")}
    testbed = bed_of(case)
    rates = {"0": testbed.rate(model, tokenizer, [question_of(p) for p in problems.values()])}
    for given in range(1, case.length + 1):
        hints = store.read(Variant, "hint_steps = ?", [given])
        asked = [question_of(problems[v.problem_id], v) for v in hints]
        rates[str(given)] = testbed.rate(model, tokenizer, asked)
    return rates


def train_run(out: Path, case: Case, arm: str, seed: int, device: str) -> None:
    """Train one run from the warm model; the file is written when it has ended."""
    bed.train_run(out, bed_of(case), arm, seed, device)
