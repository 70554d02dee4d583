"""Training runs that are planted in a store, each with one thing wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Kind, Problem, Prompt, Rollout, Run, Status, TrainStep, Variant

STEPS, PROBLEMS, PER_STEP, SAMPLES = 60, 16, 4, 8
RUN = "train-planted"
HINTS = [f"w/{i}:think_step:0" for i in range(PROBLEMS)]
"""Ids of the hint of each problem."""


class Policy(NamedTuple):
    """How a planted policy answers at a time from 0 (the first step) to 1 (the last).

    Attributes:
        right: chance of a right answer to an original.
        with_hint: chance of a right answer to a hinted prompt.
        truncated: chance that a completion is truncated, and then is wrong.
        truncated_right: whether all right completions are truncated after their answer.
        no_answer: chance that one ends without an answer, and then is wrong.
        unjudged: chance that one is not judged.
        tokens: of a completion.
        entropy: at a token.
        format_reward: chance of the second reward, which counts 0.5; None without such a function.
    """

    right: Callable[[float], float] = lambda time: 0.3 + 0.4 * time
    with_hint: Callable[[float], float] = lambda time: 0.5 + 0.4 * time
    truncated: float = 0.02
    truncated_right: bool = False
    no_answer: float = 0.02
    unjudged: float = 0.0
    tokens: Callable[[float], float] = lambda time: 60.0
    entropy: Callable[[float], float] = lambda time: 0.5 - 0.4 * time
    format_reward: Callable[[float], float] | None = None


def plant(
    store: VariantStore, policy: Policy, *, run_id: str = RUN, problem: str = "w", seed: int = 0
) -> None:
    """Write a run of `STEPS` steps, each with originals and hinted prompts of `PER_STEP` problems.

    Args:
        store: gets problems `w/0` and so on with an accepted hint each, and the run.
        policy: that answers.
        run_id: of the run.
        problem: what the ids of the run's problems begin with.
        seed: of the answers.
    """
    store.append([
        Problem(problem_id=f"w/{i}", source="w", split="train", text=f"{i} + 1?", answer=str(i + 1))
        for i in range(PROBLEMS)
    ])  # fmt: skip
    store.append([
        Variant(variant_id=HINTS[i], problem_id=f"w/{i}", kind=Kind.THINK_STEP, text=f"{i} + 1?",
                hint=["so"], hint_steps=1, hint_total=2, status=Status.ACCEPTED, generator_model="m",
                prompt_version="1", delta_designed=-2.0)
        for i in range(PROBLEMS)
    ])  # fmt: skip
    store.append([
        Prompt(run_id=run_id, problem_id=problem_id, variant_id="original", hint_style="prompt", prompt="What is it?")
        for problem_id in (f"{problem}/{i}" for i in range(PROBLEMS))
    ])  # fmt: skip
    rows, steps = planted(policy, run_id=run_id, problem=problem, seed=seed)
    store.append(rows)
    store.append(steps)
    store.append([Run(run_id=run_id, kind="train", outcome="ok")])


def planted(
    policy: Policy, *, run_id: str = RUN, problem: str = "w", seed: int = 0
) -> tuple[list[Rollout], list[TrainStep]]:
    """The rollouts and the steps of a run as of `plant`, in the order of the steps."""
    draw = np.random.default_rng(seed)
    ids = [f"{problem}/{i}" for i in range(PROBLEMS)]
    rows, steps = [], []
    for step in range(STEPS):
        time = step / (STEPS - 1)
        chosen = draw.choice(PROBLEMS, PER_STEP, replace=False)
        prompts = [(ids[i], slot, HINTS[i] if slot else "original") for i in chosen for slot in (0, 1)]
        made = [
            _rollout(policy, time, draw, run_id=run_id, step=step, problem_id=problem_id, slot=slot,
                     variant_id=variant_id, sample=sample)
            for problem_id, slot, variant_id in prompts
            for sample in range(SAMPLES)
        ]  # fmt: skip
        rows += made
        steps.append(_train_step(made, policy.entropy(time), step, run_id))
    return rows, steps


def _rollout(policy: Policy, time: float, draw: np.random.Generator, *, slot: int, **key: Any) -> Rollout:
    chance = (policy.with_hint if slot else policy.right)(time)
    accuracy: float | None = float(draw.random() < chance)
    finish, outcome, text = "ended", "correct" if accuracy else "wrong", "So it is 7."
    if accuracy and policy.truncated_right:
        finish = "truncated"
    if draw.random() < policy.truncated:
        accuracy, finish, outcome, text = 0.0, "truncated", "no_answer", "Let me see, and see,"
    elif draw.random() < policy.no_answer:
        accuracy, outcome, text = 0.0, "no_answer", "I do not know."
    if draw.random() < policy.unjudged:
        accuracy, outcome = None, "error"
    parts: dict[str, float | None] = {"accuracy_reward": accuracy}
    if policy.format_reward is not None:
        parts["format_reward"] = float(draw.random() < policy.format_reward(time))
    reward = None if accuracy is None else accuracy + 0.5 * (parts.get("format_reward") or 0.0)
    return Rollout(
        **key, slot=slot, reward=reward, accuracy=accuracy, advantage=0.0, attempt=0, finish=finish, completion=text,
        completion_tokens=round(policy.tokens(time)), reward_parts=json.dumps(parts), graded_outcome=outcome,
        graded_answer="7" if outcome in ("correct", "wrong") else None, graded_how="stated",
    )  # fmt: skip


def _train_step(rows: list[Rollout], entropy: float, step: int, run_id: str) -> TrainStep:
    of_group: dict[tuple[str, int], set[float | None]] = {}
    for row in rows:
        of_group.setdefault((row.problem_id, row.slot), set()).add(row.reward)
    silent = sum(len(rewards) == 1 for rewards in of_group.values())
    return TrainStep(
        run_id=run_id, step=step, seconds=1.0, cpu_seconds=1.0, rollouts=len(rows), groups=len(of_group),
        silent_groups=silent, problems=PER_STEP, silent_problems=0, completion_tokens=1000, loss=0.0,
        grad_norm=0.0 if silent == len(of_group) else 0.3, entropy=entropy, attempt=0,
    )  # fmt: skip
