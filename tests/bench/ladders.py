"""Hints of a testbed's problem, from its first step to its whole solution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diva_grpo.pipeline.difficulty.design import designed_delta
from diva_grpo.schemas.records import Kind, Problem, Status, Variant


def hint_ladder(problem: Problem, lines: Sequence[str], prompt_version: str) -> Iterator[Variant]:
    """An accepted variant for each number of steps given, with the offset that the method designs for it.

    Args:
        problem: whose hints.
        lines: a step each.
        prompt_version: of the testbed.
    """
    total = len(lines)
    for given in range(1, total + 1):
        yield Variant(
            variant_id=f"{problem.problem_id}:think_step:source:{given}",
            problem_id=problem.problem_id,
            kind=Kind.THINK_STEP,
            text=problem.text,
            hint=list(lines[:given]),
            hint_steps=given,
            hint_total=total,
            solution_answer=problem.answer,
            delta_designed=designed_delta(Kind.THINK_STEP, given, total),
            status=Status.ACCEPTED,
            generator_model="source",
            prompt_version=prompt_version,
        )
