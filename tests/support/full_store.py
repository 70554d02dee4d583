"""A store with rows in every table, for tests of SQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import (
    Attempt,
    Call,
    DifficultyEvent,
    Evaluation,
    Kind,
    Label,
    Problem,
    Reject,
    Rollout,
    Setting,
    Shortage,
    Status,
    TrainStep,
    Variant,
    Verdict,
)


def full_store(root: Path) -> VariantStore:
    """Make a store with rows for every view that the named queries read."""
    store = VariantStore(root, create=True)
    store.append(
        [
            Problem(
                problem_id=f"s/{i}",
                source="s",
                split="train",
                text=f"{i} + 1?",
                answer="1",
                human_level=i + 1,
            )
            for i in range(3)
        ]
    )
    store.append([Reject(source="s.jsonl", row_number=2, reason="no answer", raw="{}")])
    made: dict[str, Any] = {
        "problem_id": "s/0",
        "generator_model": "t",
        "prompt_version": "1",
        "delta_designed": -2.0,
    }
    store.append(
        [
            Variant(
                variant_id="s/0:think_step:1",
                kind=Kind.THINK_STEP,
                text="?",
                hint=["Add."],
                hint_steps=1,
                hint_total=2,
                status=Status.ACCEPTED,
                **made,
            ),
            Variant(
                variant_id="s/0:reword:0",
                kind=Kind.REWORD,
                text="?",
                status=Status.REJECTED,
                reason="leak",
                **made,
            ),
        ]
    )
    store.append([Verdict(variant_id="s/0:reword:0", check_name="leak", passed=False)])
    levels: dict[str, Any] = {"samples": 4, "pass_rate": 0.5, "difficulty_low": 3.0, "difficulty_high": 8.0}
    store.append(
        [
            Label(
                subject_id="s/0",
                solver_model="p",
                subject_kind="original",
                correct=1,
                difficulty=6.3,
                **levels,
            ),
            Label(
                subject_id="s/0:think_step:1",
                solver_model="p",
                subject_kind="think_step",
                correct=3,
                difficulty=3.7,
                **levels,
            ),
        ]
    )
    store.append([Setting(name="label_model", value="p")])
    spent = {
        "seconds": 2.0,
        "cpu_seconds": 1.0,
        "rollouts": 2,
        "groups": 2,
        "silent_groups": 2,
        "problems": 1,
    }
    learnt = {"silent_problems": 1, "completion_tokens": 9, "loss": 0.0, "grad_norm": 0.0, "attempt": 1}
    store.append([TrainStep.model_validate({"run_id": "r", "step": 1, **spent, **learnt})])
    with store.run("generate", "{}", "t"):
        store.append(
            [
                Call(
                    request_hash="h",
                    purpose="reword",
                    endpoint="e",
                    model="t",
                    problem_id="s/0",
                    prompt_tokens=10,
                    completion_tokens=5,
                    cost_usd=0.01,
                    latency_s=1.0,
                    attempts=1,
                    outcome="ok",
                    output_mode="text",
                )
            ]
        )
    store.append(
        [
            Shortage(
                problem_id="s/0",
                kind=Kind.REWORD,
                wanted=1,
                accepted=0,
                tries=2,
                reason="leak (1)",
                generator_model="t",
            )
        ]
    )
    with store.run("train", "{}", "p", run_id="r"):
        store.append([Attempt(run_id="r", attempt=1, resumed_step=0)])
        store.append(
            [
                Rollout(
                    run_id="r",
                    step=1,
                    problem_id="s/0",
                    slot=slot,
                    sample=sample,
                    variant_id="s/0:think_step:1" if slot else "original",
                    reward=float(slot),
                    accuracy=float(slot),
                    advantage=0.0,
                    completion_tokens=3,
                    attempt=1,
                    reward_parts=json.dumps({"accuracy_reward": float(slot)}),
                    finish="ended",
                    graded_outcome="correct" if slot else "wrong",
                    graded_how="stated",
                )
                for slot in range(2)
                for sample in range(2)
            ]
        )
        step = TrainStep(
            run_id="r",
            step=1,
            seconds=1.0,
            cpu_seconds=1.0,
            rollouts=4,
            groups=2,
            silent_groups=2,
            problems=1,
            silent_problems=0,
            completion_tokens=12,
            loss=0.0,
            grad_norm=0.5,
            entropy=0.25,
            attempt=1,
        )
        store.append([step])
        [known] = store.read(Rollout, "slot = 0 AND sample = 0")
        store.append([known.model_copy(update={"run_id": "r2", "problem_id": "elsewhere/0"})])
        store.append(
            [
                DifficultyEvent(
                    run_id="r",
                    step=1,
                    problem_id="s/0",
                    old_difficulty=5.0,
                    new_difficulty=7.0,
                    accuracy=0.0,
                    rollouts=2,
                    rule="paper",
                    attempt=1,
                )
            ]
        )
    store.append(
        [
            Evaluation(run_id="r", step=1, split="test", problem_id=f"s/{i}", samples=4, correct=i)
            for i in range(3)
        ]
    )
    return store
