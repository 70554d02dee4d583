"""Training data from the store: one row a problem, with the prompt of its original."""

from __future__ import annotations

import logging

from datasets import Dataset

from pipeline.store import VariantStore
from schemas.exceptions import ConfigError
from schemas.records import Problem
from trainer.prompts import PromptBuilder

logger = logging.getLogger(__name__)


def training_problems(
    store: VariantStore, *, split: str, where: str | None = None, limit: int | None = None
) -> list[Problem]:
    """Problems to train on, in the order of their ids.

    Args:
        store: the store.
        split: of the problems.
        where: an SQL condition on the columns of `problems`, such as `source = 'gsm8k'`.
        limit: only the first so many.

    Raises:
        ConfigError: no problem fits, or the condition is no SQL.
    """
    problems = store.problems(
        where=f"split = '{split.replace(chr(39), chr(39) * 2)}' AND ({where or 'true'})"
    )
    readable = [problem for problem in problems if not problem.images]
    if len(readable) < len(problems):
        logger.warning(
            "%d problems with images are left out: the model reads text", len(problems) - len(readable)
        )
    if not readable:
        splits = [name for (name,) in store.query("SELECT DISTINCT split FROM problems ORDER BY 1")]
        raise ConfigError(
            f"no problem of split {split!r} fits; the store has the splits {', '.join(splits) or '(none)'}"
        )
    return readable[:limit]


def problems_dataset(problems: list[Problem], prompts: PromptBuilder) -> Dataset:
    """Rows for `DivaGRPOTrainer`: problem_id, prompt, answer and options."""
    return Dataset.from_list(
        [
            {
                "problem_id": problem.problem_id,
                "prompt": prompts.prompt(problem.text, problem.options),
                "answer": problem.answer,
                "options": problem.options,
            }
            for problem in problems
        ]
    )
