"""What a task's warm model can do before any training, measured once and printed before the runs of a plan."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.policy import HintStyle
from diva_grpo.schemas.question import Question, question_of
from diva_grpo.schemas.records import Kind, Status, Variant
from diva_grpo.trainer.evaluation.policy import PolicySolver

FILE = "preconditions.json"
GROUP = 8
"""Answers to each original: a group of GRPO."""
HINTED: Mapping[str, HintStyle] = {"in the question": "prompt", "opening the answer": "prefix"}
"""By how it is said, the style of a hint."""


def measure(
    store: VariantStore,
    model: Path,
    right: Callable[[list[str], list[str]], list[float]],
    max_new_tokens: int,
) -> dict[str, Any]:
    """How many of the problems that are trained on a model solves, and how much help it takes.

    Args:
        store: with the problems and their variants.
        model: folder of the warm model.
        right: 1 or 0 for each answer, from answers and references.
        max_new_tokens: longest answer.

    Returns:
        What `told` puts into words.
    """
    problems = {problem.problem_id: problem for problem in store.problems(where="split = 'train'")}
    hints = store.read(Variant, "status = ? AND kind = ?", [Status.ACCEPTED, Kind.THINK_STEP])
    asked = {name: PolicySolver(str(model), hint_style=style, max_new_tokens=max_new_tokens, name="warm")
             for name, style in HINTED.items()}  # fmt: skip

    def shares(solver: PolicySolver, questions: Sequence[Question], samples: int) -> list[float]:
        answers = solver.solve(questions, samples)
        return [
            sum(right([answer.text for answer in given], [question.answer] * samples)) / samples
            for question, given in zip(questions, answers, strict=True)
        ]

    alone = shares(asked["opening the answer"], [question_of(p) for p in problems.values()], GROUP)
    by_level: defaultdict[float, list[float]] = defaultdict(list)
    for problem, value in zip(problems.values(), alone, strict=True):
        by_level[problem.human_level or 0].append(value)
    hinted: dict[str, dict[str, float]] = {}
    for name, solver in asked.items():
        by_left: defaultdict[int, list[float]] = defaultdict(list)
        values = shares(solver, [question_of(problems[v.problem_id], v) for v in hints], 1)
        for variant, value in zip(hints, values, strict=True):
            by_left[(variant.hint_total or 0) - (variant.hint_steps or 0)].append(value)
        hinted[name] = {str(left): _mean(found) for left, found in sorted(by_left.items(), reverse=True)}
    return {
        "problems": len(problems),
        "right": _mean(alone),
        "by_steps": {f"{level:g}": _mean(found) for level, found in sorted(by_level.items())},
        "all_wrong": _mean([float(value == 0) for value in alone]),
        "all_right": _mean([float(value == 1) for value in alone]),
        "hinted": hinted,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def told(folder: Path, steps: int, prompts: int) -> str:
    """What was measured of a task, in words.

    Args:
        folder: of the task.
        steps: of a run.
        prompts: of a step of GRPO, a problem each.
    """
    found = json.loads((folder / FILE).read_text())
    rates = ", ".join(f"{level} steps {rate:.2f}" for level, rate in found["by_steps"].items())
    lines = [
        f"{folder.name}: {found['problems']} problems, {found['right']:.2f} right before training ({rates}); "
        f"groups of {GROUP} all wrong {100 * found['all_wrong']:.0f} %, all right {100 * found['all_right']:.0f} %",
        f"  {steps} steps of GRPO come to each problem {steps * prompts / found['problems']:.1f} times",
    ]
    for name, by_left in found["hinted"].items():
        rates = ", ".join(f"{left}: {rate:.2f}" for left, rate in by_left.items())
        lines.append(f"  right with steps {name}, by how many are left: {rates}")
    return "\n".join(lines)
