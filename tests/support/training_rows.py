"""Rows of a training run as the trainer leaves them, made without training."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import (
    ORIGINAL,
    Attempt,
    DifficultyEvent,
    Evaluation,
    Prompt,
    Record,
    Rollout,
    Run,
    TrainStep,
)

BEGAN = datetime(2026, 3, 1, 12)


def begin_run(store: VariantStore, run_id: str, number: int = 0) -> None:
    """Record that a training run has begun; a higher number began later."""
    began = BEGAN + timedelta(hours=number)
    store.append([Run(run_id=run_id, kind="train", model="policy", started_at=began)])
    store.append([Attempt(run_id=run_id, attempt=0, resumed_step=0, started_at=began)])


def train_on(
    store: VariantStore,
    run_id: str,
    visits: Mapping[int, Mapping[str, Sequence[str]]],
    *,
    samples: int = 4,
    logged: int = 1,
    completion: str = "So it is \\boxed{42}.",
) -> None:
    """Append what steps of a run record: rollouts, prompts, difficulty and time.

    Args:
        store: the store.
        run_id: of the run.
        visits: by step, the problems with the variants that were given beside each original.
        samples: rollouts of a prompt.
        logged: problems of a step whose rollouts keep their words.
        completion: what each rollout says, after its number.
    """
    draw = random.Random(f"{run_id} {min(visits)}")
    columns: defaultdict[type[Record], defaultdict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))

    def add(record: type[Record], rows: int, **values: Any) -> None:
        for name, value in ({"run_id": run_id} | values).items():
            columns[record][name] += value if isinstance(value, list) else [value] * rows

    for step, problems in visits.items():
        for place, (problem_id, variants) in enumerate(problems.items()):
            for slot, variant_id in enumerate([ORIGINAL, *variants]):
                right = [draw.random() < 0.3 + 0.02 * (step % 20) for _ in range(samples)]
                mean = sum(right) / samples
                words = place < logged
                add(
                    Rollout, samples, step=step, problem_id=problem_id, slot=slot, sample=list(range(samples)),
                    variant_id=variant_id, reward=list(map(float, right)), accuracy=list(map(float, right)),
                    advantage=[one - mean for one in right],
                    completion_tokens=[draw.randrange(40, 200) for _ in right], attempt=0,
                    completion=[f"{n}. {completion}" for n in range(samples)] if words else None,
                    finish="ended" if words else None,
                    graded_outcome=["correct" if one else "wrong" for one in right] if words else None,
                    graded_answer="42" if words else None, graded_how="boxed" if words else None,
                    reward_parts=json.dumps({"accuracy_reward": mean}) if words else None,
                )  # fmt: skip
                if words:
                    add(
                        Prompt, 1, problem_id=problem_id, variant_id=variant_id, hint_style="prompt",
                        prompt=f"user: {variant_id}", opening="",
                    )  # fmt: skip
            add(
                DifficultyEvent, 1, step=step, problem_id=problem_id, old_difficulty=5.0,
                new_difficulty=draw.uniform(1, 9), accuracy=0.5, rollouts=samples, rule="paper", attempt=0,
            )  # fmt: skip
        groups = sum(1 + len(variants) for variants in problems.values())
        add(
            TrainStep, 1, step=step, seconds=draw.uniform(9, 11), cpu_seconds=5.0, rollouts=samples * groups,
            groups=groups, silent_groups=0, problems=len(problems), silent_problems=0,
            completion_tokens=100 * samples * groups, loss=0.01, grad_norm=0.5, attempt=0,
        )  # fmt: skip
    for record, values in columns.items():
        store.append_columns(record, [values])


def evaluated(store: VariantStore, run_id: str, problem_ids: Sequence[str], steps: Sequence[int]) -> None:
    """Append an evaluation at some steps, a little better each time."""
    for number, step in enumerate(steps):
        store.append([
            Evaluation(run_id=run_id, step=step, split="test", problem_id=name, samples=4, correct=min(4, 1 + number))
            for name in problem_ids
        ])  # fmt: skip
