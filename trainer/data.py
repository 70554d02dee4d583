"""Training data from the store: one row a problem, with the prompt of its original."""

from __future__ import annotations

import logging

from datasets import Dataset

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Problem
from diva_grpo.trainer.prompts import PromptBuilder

logger = logging.getLogger(__name__)


def training_problems(
    store: VariantStore,
    *,
    split: str,
    where: str | None = None,
    limit: int | None = None,
    reads_images: bool = False,
) -> list[Problem]:
    """Problems to train on, in the order of their ids.

    Args:
        store: the store.
        split: of the problems.
        where: an SQL condition on the columns of `problems`, such as `source = 'gsm8k'`.
        limit: only the first so many.
        reads_images: whether the model does; else problems with images are left out, with a warning.

    Raises:
        ConfigError: no problem fits, or the condition is no SQL.
    """
    problems = store.problems(
        where=f"split = '{split.replace(chr(39), chr(39) * 2)}' AND ({where or 'true'})"
    )
    readable = [problem for problem in problems if reads_images or not problem.images]
    if len(readable) < len(problems):
        logger.warning(
            "%d problems with images are left out: the model reads text alone", len(problems) - len(readable)
        )
    if problems and not readable:
        raise ConfigError(
            f"all {len(problems)} problems have images, and the model reads text alone: train a vision-language model"
        )
    if not readable:
        splits = [name for (name,) in store.query("SELECT DISTINCT split FROM problems ORDER BY 1")]
        raise ConfigError(
            f"no problem of split {split!r} fits; the store has the splits {', '.join(splits) or '(none)'}"
        )
    return readable[:limit]


def problems_dataset(problems: list[Problem], prompts: PromptBuilder) -> Dataset:
    """Rows for `DivaGRPOTrainer`: problem_id, prompt, answer, options, and what is needed to show images.

    Images stay references, by content hash; a recipe may draw the problem's own text into one.
    """
    return Dataset.from_list(
        [
            {
                "problem_id": problem.problem_id,
                "prompt": prompts.prompt(problem.text, problem.options),
                "answer": problem.answer,
                "options": problem.options,
                "text": problem.text,
                "image_hashes": [image.hash for image in problem.images],
            }
            for problem in problems
        ]
    )
