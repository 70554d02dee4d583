"""Supervised training in place of rollouts, on `lock`: can its solutions simply be imitated?

python -m tests.bench.lock.supervised --out runs/lock --results tests/bench/lock/results

Solutions are in the policy's manner (`1 red:a4`) or in the teacher's (`1 red asks for add one:4`). Those of the teacher
are judged by the answer alone, which is the last digit: in its manner no policy writes what the verifier compares.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset, disable_progress_bars
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import Problem, Variant
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.prompts import PromptBuilder
from tests.bench.bed import LEARNING_RATE
from tests.bench.lock.run import bed_of, prepare
from tests.bench.lock.summary import write_page
from tests.bench.lock.task import SIZES

LENGTH: Final = 8
MANNERS: Final = ("policy", "teacher")
SOLUTIONS: Final = SIZES["train"]
"""All training problems have one."""
EVALUATED: Final = (100, 300, 1_000)
"""Steps after which accuracy is measured. A thousand cost about the CPU seconds of a run of rollouts."""
BATCH: Final = 64
TOKENS_PER_STEP: Final = 6
"""Of a step in the teacher's manner at most: line break, number, cue, rule, colon with digit."""


def by_answer(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """1 where the last digit of a completion is that of the answer, else 0."""
    return [
        float(re.findall(r"\d", text)[-1:] == [right[-1]])
        for text, right in zip(completions, answer, strict=True)
    ]


def solution(problem: Problem, hint: list[str], manner: str) -> str:
    """The worked solution of a problem.

    Args:
        problem: with its steps in the policy's manner.
        hint: all rules in the teacher's words, a step each.
        manner: of `MANNERS`.
    """
    if manner == "policy":
        return "\n".join(problem.solution_steps)
    return "\n".join(f"{line}:{step[-1]}" for line, step in zip(hint, problem.solution_steps, strict=True))


def examples(store: VariantStore, manner: str) -> Dataset:
    """The training problems with their solutions."""
    prompts = PromptBuilder(chat=False)
    hints = {v.problem_id: list(v.hint) for v in store.read(Variant, "hint_steps = hint_total")}
    problems = store.problems(where="split = 'train'")
    return Dataset.from_list(
        [
            {"prompt": prompts.prompt(p.text), "completion": solution(p, hints[p.problem_id], manner)}
            for p in problems
        ]
    )


class _Evaluations(TrainerCallback):
    """Accuracy on held-out problems, and the CPU seconds of the training until then."""

    def __init__(self, store: VariantStore, tokenizer: Any, manner: str, seed: int) -> None:
        self._asked = [question_of(problem) for problem in store.problems(where="split = 'test'")]
        whole = bed_of(LENGTH)
        answer = replace(whole, reward=by_answer, completion_tokens=TOKENS_PER_STEP * LENGTH)
        self._beds = {"answer": answer} | ({"whole": whole} if manner == "policy" else {})
        self._tokenizer, self._seed, self._apart = tokenizer, seed, 0.0
        self.found: list[dict[str, float]] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step not in EVALUATED:
            return
        began, model, random_state = time.process_time(), kwargs["model"], torch.get_rng_state()
        torch.manual_seed(self._seed)
        model.eval()
        rates = {name: bed.rate(model, self._tokenizer, self._asked) for name, bed in self._beds.items()}
        model.train()
        torch.set_rng_state(random_state)
        self.found.append({"step": state.global_step, **rates, "cpu_seconds": began - self._apart})
        self._apart += time.process_time() - began


def train_run(out: Path, manner: str, seed: int) -> None:
    """Train one run from the warm model; its file is written when it has ended."""
    path = out / "supervised" / f"{manner}-s{seed}.json"
    if path.exists():
        return
    prepare(out, LENGTH, seed, "cpu")
    prepared, scratch = out / f"L{LENGTH}-s{seed}", out / "scratch" / f"supervised-{path.stem}"
    store, tokenizer = VariantStore(prepared / "store"), load_tokenizer(str(prepared / "warm"))
    random.seed(seed)
    evaluations, began = _Evaluations(store, tokenizer, manner, seed), time.process_time()
    trainer = SFTTrainer(
        str(prepared / "warm"),
        SFTConfig(
            output_dir=str(scratch),
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_steps=max(EVALUATED),
            seed=seed,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=max(EVALUATED),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=examples(store, manner),
        processing_class=tokenizer,
        callbacks=[evaluations],
    )
    trainer.train()
    at = [{**row, "cpu_seconds": row["cpu_seconds"] - began} for row in evaluations.found]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"manner": manner, "solutions": SOLUTIONS, "seed": seed, "at": at}))
    shutil.rmtree(scratch, ignore_errors=True)
    print(path.read_text(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.lock.supervised", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of `python -m tests.bench.lock`")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1 (default: 5)")
    parser.add_argument("--results", type=Path, help="write figures and page into this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    for seed in range(1, options.seeds + 1):
        for manner in MANNERS:
            train_run(options.out.resolve(), manner, seed)
    if options.results:
        write_page(options.out.resolve(), options.results)


if __name__ == "__main__":
    main()
