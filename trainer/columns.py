"""Columns of records that all trainers with a `Curriculum` write."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from diva_grpo.trainer.method.curriculum import Choice, Curriculum, Visit


def event_columns(choice: Choice, visit: Visit, curriculum: Curriculum) -> dict[str, Any]:
    """Return columns of the table `difficulty_events`, one row per problem, without run_id, step and attempt.

    Args:
        choice: the prompts of a batch.
        visit: what `curriculum.observe` returned for it.
        curriculum: the curriculum of the run.
    """
    return {
        "problem_id": [curriculum.problem_ids[number] for number in choice.problem_P],
        "old_difficulty": visit.old_P,
        "new_difficulty": visit.new_P,
        "accuracy": pa.array(visit.accuracy_P, from_pandas=True),
        "rollouts": visit.judged_P,
        "rule": [curriculum.settings.difficulty_rule] * len(visit.old_P),
        "uncertainty": pa.array(visit.uncertainty_P, from_pandas=True),
        "chosen": choice.chosen_P.tolist(),
    }
