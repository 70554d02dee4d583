"""The testbed before training: how well the warm model does, and what helps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb


@dataclass(frozen=True)
class Early:
    """Groups of one sort of prompt before a contender's first evaluation, when the model is still about the warm one.

    Attributes:
        contender: whose groups.
        kind: original, or that of the variants.
        steps_left: of the worked solution, those that the hint leaves out; None without a hint.
        groups: how many.
        right: share of right rollouts.
        all_wrong: share of groups without a right rollout.
        all_right: share of groups without a wrong one.
    """

    contender: str
    kind: str
    steps_left: int | None
    groups: int
    right: float
    all_wrong: float
    all_right: float


@dataclass(frozen=True)
class Start:
    """The testbed before training.

    Attributes:
        problems: by split, how many.
        samples: answers of the warm model to each problem that is trained on.
        pass_rates: problems by pass rate: none right, up to 1/4, 1/2, 3/4, less than all, all.
        early_steps: steps before the first evaluation.
        early: groups of these steps.
        visits: by contender that has rollouts, how often a run comes to each problem, mean.
    """

    problems: dict[str, int]
    samples: int
    pass_rates: list[int]
    early_steps: int
    early: list[Early]
    visits: dict[str, float]


_PASS_RATES = """
    SELECT coalesce(min(samples), 0),
           count_if(p = 0), count_if(p > 0 AND p <= 0.25), count_if(p > 0.25 AND p <= 0.5),
           count_if(p > 0.5 AND p <= 0.75), count_if(p > 0.75 AND p < 1), count_if(p = 1)
    FROM (SELECT samples, correct / samples AS p FROM labels WHERE task = $task)
"""
_EARLY_STEPS = "SELECT coalesce(min(step), 0) FROM evaluations WHERE task = $task AND step > 0"
_EARLY = f"""
    SELECT r.contender, kind, steps_left, sum(groups)::INTEGER, sum(correct) / sum(judged),
           sum(all_wrong) / sum(groups), sum(all_right) / sum(groups)
    FROM rollouts JOIN runs r USING (task, run_id)
    WHERE task = $task AND r.run_group = 'main' AND r.outcome = 'ok' AND step < ({_EARLY_STEPS})
    GROUP BY r.contender, kind, steps_left ORDER BY kind <> 'original', kind, steps_left
"""
_VISITS = """
    SELECT contender, avg(visits) FROM (
        SELECT r.contender, sum(t.problems) / any_value(p.problems) AS visits
        FROM runs r JOIN train_steps t USING (task, run_id)
        JOIN problems p ON p.task = r.task AND p.split = 'train'
        WHERE r.task = $task AND r.run_group = 'main' AND r.outcome = 'ok' GROUP BY r.contender, r.run_id
        HAVING visits > 0
    ) GROUP BY contender
"""
_PROBLEMS = "SELECT split, problems FROM problems WHERE task = $task ORDER BY split"


def start_of(results: duckdb.DuckDBPyConnection, task: str, order: Sequence[str]) -> Start:
    """What a task's training starts from.

    Args:
        results: with the tables of `tests.bench.convergence.results`.
        task: of the testbed.
        order: names of contenders, in the order in which they are shown.
    """
    problems, [(samples, *pass_rates)], [(early_steps,)], early, visits = (
        results.execute(query, {"task": task}).fetchall()
        for query in (_PROBLEMS, _PASS_RATES, _EARLY_STEPS, _EARLY, _VISITS)
    )
    return Start(
        problems=dict(problems),
        samples=samples,
        pass_rates=pass_rates,
        early_steps=early_steps,
        early=sorted((Early(*row) for row in early), key=lambda each: order.index(each.contender)),
        visits=dict(sorted(visits, key=lambda each: order.index(each[0]))),
    )
