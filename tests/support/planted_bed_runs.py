"""Stores of a testbed whose runs follow curves that a test plants: no model, but the records that a run writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import DifficultyEvent, Evaluation, Problem, Rollout, Run, TrainStep
from tests.support.store_records import label, variant

EVERY = 10
"""Steps from one evaluation to the next."""
TESTED = 50
"""Held-out problems: accuracies are planted in fiftieths."""
TRAINED = 8
LABELLED = 4
NOW = datetime(2026, 1, 1, 12)


@dataclass(frozen=True)
class Planted:
    """Runs of one contender.

    Attributes:
        curves: by seed from 1, right answers of `TESTED` at each evaluation, every `EVERY` steps from 0.
        seconds: of the processor, of each step.
        tokens: of each step.
        rollouts: of each step.
        silent: prompt groups of each step without a signal, of four.
        group: main, grid or ablation.
        rate: the learning rate.
        split: on which the runs are evaluated.
        bench: more entries of the run's configuration.
        difficulty: live, after each step; None writes no events and no rollouts.
    """

    curves: Sequence[Sequence[int]]
    seconds: float = 1.0
    tokens: int = 100
    rollouts: int = 16
    silent: int = 1
    group: str = "main"
    rate: float = 1e-4
    split: str = "test"
    bench: Mapping[str, Any] = field(default_factory=dict)
    difficulty: float | None = None


def plant(out: Path, tasks: Mapping[str, Sequence[tuple[str, Planted]]]) -> None:
    """Make a store for each task, with the runs of each of its contenders by name."""
    for task, contenders in tasks.items():
        store = VariantStore(out / task / "store", create=True)
        _plant_problems(store)
        for contender, planted in contenders:
            for seed, curve in enumerate(planted.curves, 1):
                _plant_run(store, task, contender, planted, seed, curve)


def _plant_problems(store: VariantStore) -> None:
    """Problems, a hint for each of those that are trained on, and labels: right i of `LABELLED` times."""
    problems = [
        Problem(problem_id=f"p/{i}", source="p", split="train", text="?", answer="1") for i in range(TRAINED)
    ]
    tested = [
        Problem(problem_id=f"t/{i}", source="t", split="test", text="?", answer="1") for i in range(TESTED)
    ]
    hints = [
        variant(0, p.problem_id, variant_id=f"{p.problem_id}:hint", kind="think_step", hint=["one"], hint_steps=1,
                hint_total=2)
        for p in problems
    ]  # fmt: skip
    labels = [
        label(p.problem_id, min(i, LABELLED), LABELLED).model_copy(update={"subject_kind": "original"})
        for i, p in enumerate(problems)
    ]
    labels += [
        label(v.variant_id, LABELLED // 2, LABELLED).model_copy(update={"subject_kind": "think_step"})
        for v in hints
    ]
    store.append([*problems, *tested])
    store.append(hints)
    store.append(labels)
    store.put_setting("label_model", "policy")


def _plant_run(
    store: VariantStore, task: str, contender: str, planted: Planted, seed: int, curve: Sequence[int]
) -> None:
    run_id = f"{contender}-{planted.group}-{planted.rate:g}-{seed}"
    bench = {
        "task": task,
        "contender": contender,
        "seed": seed,
        "learning_rate": planted.rate,
        "group": planted.group,
    }
    config = json.dumps({"bench": bench | dict(planted.bench)})
    started = NOW + timedelta(minutes=seed)
    store.append(
        [Run(run_id=run_id, kind="train", model="warm", config=config, outcome="ok", started_at=started)]
    )
    steps = range((len(curve) - 1) * EVERY)
    row: dict[str, Any] = {"run_id": run_id, "attempt": 0}
    each = {
        "seconds": 2 * planted.seconds, "cpu_seconds": planted.seconds, "loss": 0.0, "grad_norm": 1.0,
        "grad_noise": 0.5,
    }  # fmt: skip
    counts = {
        "rollouts": planted.rollouts, "groups": 4, "silent_groups": planted.silent, "problems": 2,
        "silent_problems": planted.silent // 2, "completion_tokens": planted.tokens,
    }  # fmt: skip
    columns = {name: [value] * len(steps) for name, value in each.items()}
    store.append_columns(TrainStep, [{**row, "step": list(steps), **columns, **counts}])
    tested = {
        "problem_id": [f"t/{i}" for i in range(TESTED)],
        "samples": 1,
        "split": planted.split,
        "run_id": run_id,
    }
    store.append_columns(
        Evaluation,
        [
            {**tested, "step": i * EVERY, "correct": [int(j < right) for j in range(TESTED)]}
            for i, right in enumerate(curve)
        ],
    )
    if planted.difficulty is not None:
        _plant_visits(store, row, list(steps), planted.difficulty)


def _plant_visits(store: VariantStore, row: dict[str, Any], steps: list[int], difficulty: float) -> None:
    """One problem a step, by turns: right once of two originals, and twice of two with a hint."""
    problems = [f"p/{step % TRAINED}" for step in steps]
    change = {"old_difficulty": [5.0] * len(steps), "new_difficulty": [difficulty] * len(steps)}
    rest = {
        "accuracy": [0.5] * len(steps),
        "rollouts": 2,
        "rule": "paper",
        "uncertainty": [None] * len(steps),
    }
    store.append_columns(DifficultyEvent, [{**row, "step": steps, "problem_id": problems, **change, **rest}])
    rollouts = [
        {
            **row, "step": steps, "problem_id": problems, "slot": slot, "sample": sample,
            "variant_id": [f"{p}:hint" if slot else "original" for p in problems],
            "reward": [0.0] * len(steps), "accuracy": [float(slot or sample)] * len(steps),
            "advantage": [0.0] * len(steps), "completion_tokens": 3,
        }
        for slot in (0, 1)
        for sample in (0, 1)
    ]  # fmt: skip
    store.append_columns(Rollout, rollouts)
