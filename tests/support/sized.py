"""A store of a given size with rows in every table that queries join, as a curation and a training run leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import (
    Attempt,
    Call,
    DifficultyEvent,
    Evaluation,
    Label,
    Problem,
    Record,
    Rollout,
    Run,
    Setting,
    TrainStep,
    Variant,
    Verdict,
)

VARIANTS_EACH = 5
GENERATIONS = 4
CHUNK = 200_000
START = datetime(2026, 1, 1)
KINDS = ("reword", "harder", "think_step", "image", "composite")
TEXT = "A train leaves at {0} o'clock with {1} passengers; at each of its stops a third of them get off. "

Columns = dict[str, Any]


def problem_id(number: int) -> str:
    """The id of a problem by its number."""
    return f"bench/{number:08d}"


def variant_id(number: int) -> str:
    """The id of a variant by its number."""
    return f"{problem_id(number // VARIANTS_EACH)}:{KINDS[number % VARIANTS_EACH]}:{number % VARIANTS_EACH}"


def _append(
    store: VariantStore, record: type[Record], total: int, columns: Callable[[Sequence[int]], Columns]
) -> None:
    for start in range(0, total, CHUNK):
        rows = range(start, min(start + CHUNK, total))
        blank = {name: [None] * len(rows) for name in record.model_fields}
        store.append_columns(record, [{**blank, **columns(rows)}])


def _problems(rows: Sequence[int]) -> Columns:
    return {
        "problem_id": [problem_id(i) for i in rows],
        "source": [("gsm8k", "mathvision", "own")[i % 3] for i in rows],
        "split": "train",
        "text": [TEXT.format(i % 24, i) for i in rows],
        "answer": [str(i) for i in rows],
        "human_level": [float(i % 5 + 1) for i in rows],
        "ingested_at": [START] * len(rows),
    }


def _status(number: int) -> str:
    return ("accepted", "accepted", "accepted", "rejected", "failed")[number * 7 % 11 % 5]


def _variants(rows: Sequence[int], decided: bool) -> Columns:
    statuses = [_status(i) if decided else "candidate" for i in rows]
    think_step = [KINDS[i % VARIANTS_EACH] == "think_step" for i in rows]
    return {
        "variant_id": [variant_id(i) for i in rows],
        "problem_id": [problem_id(i // VARIANTS_EACH) for i in rows],
        "kind": [KINDS[i % VARIANTS_EACH] for i in rows],
        "text": [TEXT.format(i % 12, i) for i in rows],
        "hint": [["First.", "Then."] if is_hint else [] for is_hint in think_step],
        "hint_steps": [2 if is_hint else None for is_hint in think_step],
        "hint_total": [4 if is_hint else None for is_hint in think_step],
        "delta_designed": [float(i % 9) - 4 for i in rows],
        "status": statuses,
        "reason": [None if s in ("accepted", "candidate") else "answer: the solver says 3" for s in statuses],
        "generator_model": "teacher",
        "prompt_version": "bench-1",
        "sample": [0] * len(rows),
        "created_at": [START + timedelta(seconds=i % 86_400) for i in rows],
    }


def _labels(subjects: list[str], kinds: list[str]) -> Columns:
    correct = [hash_of % 9 for hash_of in range(len(subjects))]
    return {
        "subject_id": subjects,
        "solver_model": "policy",
        "subject_kind": kinds,
        "samples": [8] * len(subjects),
        "correct": correct,
        "pass_rate": [c / 8 for c in correct],
        "difficulty": [9 - 8 * (c + 1) / 10 for c in correct],
        "difficulty_low": [1.0] * len(subjects),
        "difficulty_high": [9.0] * len(subjects),
        "created_at": [START] * len(subjects),
    }


def _verdicts(rows: Sequence[int]) -> Columns:
    return {
        "variant_id": [variant_id(i // 2) for i in rows],
        "check_name": [("format", "answer")[i % 2] for i in rows],
        "model": "",
        "sample": [0] * len(rows),
        "passed": [i % 2 == 0 or _status(i // 2) == "accepted" for i in rows],
        "created_at": [START] * len(rows),
    }


def _calls(rows: Sequence[int]) -> Columns:
    return {
        "request_hash": [f"{i:064x}" for i in rows],
        "purpose": [("reword", "harder", "solve")[i % 3] for i in rows],
        "endpoint": "bench",
        "model": [("teacher", "solver")[i % 2] for i in rows],
        "problem_id": [problem_id(i // VARIANTS_EACH) for i in rows],
        "prompt_tokens": [100 + i % 50 for i in rows],
        "completion_tokens": [200 + i % 90 for i in rows],
        "cost_usd": [0.001 * (i % 7) for i in rows],
        "latency_s": [0.5 + i % 5 for i in rows],
        "attempts": [1] * len(rows),
        "outcome": ["ok" if i % 50 else "http_500" for i in rows],
        "output_mode": "json_schema",
        "created_at": [START + timedelta(seconds=i % 86_400) for i in rows],
    }


def _rollouts(rows: Sequence[int], problems: int, attempt: int) -> Columns:
    group = [i // GENERATIONS for i in rows]
    accuracy = [float((g * 5 + i % GENERATIONS * (g % 3)) % 4 > 1) for g, i in zip(group, rows, strict=True)]
    return {
        "run_id": "train-1",
        "step": [g // 64 for g in group],
        "problem_id": [problem_id(g // 2 % problems) for g in group],
        "slot": [g % 2 for g in group],
        "sample": [i % GENERATIONS for i in rows],
        "variant_id": [variant_id(g // 2 % problems * VARIANTS_EACH) if g % 2 else "original" for g in group],
        "reward": accuracy,
        "accuracy": accuracy,
        "advantage": [a - 0.5 for a in accuracy],
        "completion_tokens": [100 + i % 400 for i in rows],
        "attempt": [attempt] * len(rows),
    }


def _events(rows: Sequence[int], problems: int) -> Columns:
    return {
        "run_id": "train-1",
        "step": [i // 32 for i in rows],
        "problem_id": [problem_id(i % problems) for i in rows],
        "old_difficulty": [1 + i % 80 / 10 for i in rows],
        "new_difficulty": [1 + (i + 7) % 80 / 10 for i in rows],
        "accuracy": [i % 5 / 4 for i in rows],
        "rollouts": [8] * len(rows),
        "rule": "paper",
        "attempt": [0] * len(rows),
    }


def _train_steps(rows: Sequence[int]) -> Columns:
    names = ("seconds", "cpu_seconds", "rollouts", "groups", "silent_groups", "problems", "silent_problems")
    counts = {name: [1 + i % 64 for i in rows] for name in (*names, "completion_tokens")}
    figures = {"loss": [0.1] * len(rows), "grad_norm": [1.0] * len(rows), "attempt": [0] * len(rows)}
    return {"run_id": "train-1", "step": list(rows), **counts, **figures}


def _evaluations(rows: Sequence[int]) -> Columns:
    return {
        "run_id": ["eval-1" if i % 2 else "train-1" for i in rows],
        "step": [i % 4 * 100 for i in rows],
        "split": "test",
        "problem_id": [problem_id(i // 4) for i in rows],
        "samples": [4] * len(rows),
        "correct": [i % 5 for i in rows],
    }


def sized_store(root: Path, variants: int) -> VariantStore:
    """A store of a number of variants, each recorded twice, with a training run that was resumed once."""
    store, problems = VariantStore(root, create=True), variants // VARIANTS_EACH
    rollouts = 2 * variants
    _append(store, Problem, problems, _problems)
    _append(store, Variant, variants, lambda rows: _variants(rows, decided=False))
    _append(store, Variant, variants, lambda rows: _variants(rows, decided=True))
    _append(store, Verdict, 2 * variants, _verdicts)
    _append(
        store, Label, problems, lambda rows: _labels([problem_id(i) for i in rows], ["original"] * len(rows))
    )
    _append(
        store,
        Label,
        variants // 2,
        lambda rows: _labels([variant_id(i) for i in rows], [KINDS[i % VARIANTS_EACH] for i in rows]),
    )
    _append(store, Call, variants, _calls)
    _append(store, Rollout, rollouts, lambda rows: _rollouts(rows, problems, attempt=0))
    _append(store, DifficultyEvent, variants // 2, lambda rows: _events(rows, problems))
    _append(store, TrainStep, max(rollouts // (64 * GENERATIONS), 1), _train_steps)
    _append(store, Evaluation, min(problems, 1_000) * 4, _evaluations)
    last_step = rollouts // (64 * GENERATIONS) - 1
    _append(
        store,
        Rollout,
        64 * GENERATIONS,
        lambda rows: {
            **_rollouts(rows, problems, attempt=1),
            "step": [last_step] * len(rows),
        },
    )
    store.append(
        [Attempt(run_id="train-1", attempt=number, resumed_step=number * last_step) for number in (0, 1)]
    )
    runs = [("ingest-1", "ingest"), ("generate-1", "generate"), ("train-1", "train"), ("eval-1", "eval")]
    store.append(
        [
            Run(
                run_id=run_id,
                kind=kind,
                model="teacher",
                started_at=START + timedelta(hours=number),
                ended_at=START + timedelta(hours=number + 1, minutes=number),
                outcome="ok",
            )
            for number, (run_id, kind) in enumerate(runs)
        ]
    )
    store.append([Setting(name="label_model", value="policy")])
    return store
