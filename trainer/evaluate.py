"""Accuracy of a model on the problems of a split, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.grade import grade
from pipeline.store import VariantStore
from schemas.question import Question
from schemas.records import Evaluation, Problem
from trainer.policy import PolicySolver


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy over problems.

    Attributes:
        problems: how many.
        samples: answers to each.
        pass_at_1: mean over problems of the share of right answers.
        standard_error: of that mean, over problems.
        pass_at_k: by k up to `samples`: chance that one of k answers is right (unbiased estimate,
            arXiv 2107.03374, equation 1).
    """

    problems: int
    samples: int
    pass_at_1: float
    standard_error: float
    pass_at_k: dict[int, float]


def score(correct_P: Sequence[int], samples: int) -> Score:
    """The score of `correct_P[p]` right answers of `samples` to each problem.

    Raises:
        ValueError: no problems.
    """
    if not correct_P:
        raise ValueError("no problems to score")
    share_P = np.asarray(correct_P, np.float64) / samples
    error = float(share_P.std(ddof=1) / math.sqrt(len(share_P))) if len(share_P) > 1 else math.nan
    powers = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    return Score(
        problems=len(correct_P),
        samples=samples,
        pass_at_1=float(share_P.mean()),
        standard_error=error,
        pass_at_k={k: float(np.mean([_pass_at(c, samples, k) for c in correct_P])) for k in powers},
    )


def _pass_at(correct: int, samples: int, k: int) -> float:
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def evaluate(
    store: VariantStore,
    solver: PolicySolver,
    problems: Sequence[Problem],
    *,
    samples: int,
    run_id: str,
    step: int,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """Answer the problems, grade, and keep a row a problem in `evaluations`.

    Args:
        store: where the rows go.
        solver: the model.
        problems: to answer.
        samples: answers to each.
        run_id: of the training run, or of the evaluation.
        step: of the model in that run.
        progress: told of answers done.
    """
    questions = [
        Question(p.problem_id, p.problem_id, p.text, p.answer, options=tuple(p.options)) for p in problems
    ]
    rows = []
    for problem, answers in zip(problems, solver.solve(questions, samples, progress), strict=True):
        outcomes = [grade(a.text, problem.answer, options=problem.options).outcome for a in answers]
        rows.append(
            Evaluation(
                run_id=run_id,
                step=step,
                split=problem.split,
                problem_id=problem.problem_id,
                samples=samples,
                correct=outcomes.count("correct"),
            )
        )
    store.append(rows)
    return score([row.correct for row in rows], samples)
