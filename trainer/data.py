"""Training data with one row per problem and the prompt of its original; rows of a batch with the chosen prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from datasets import Dataset

from diva_grpo.pipeline.store import VariantStore, VariantText
from diva_grpo.pipeline.store.files.database import quoted
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Problem
from diva_grpo.trainer.method.curriculum import Choice
from diva_grpo.trainer.plain import WholePrompt
from diva_grpo.trainer.prompts import PromptBuilder

if TYPE_CHECKING:  # this import needs TRL, which may be missing if another trainer uses this module
    from diva_grpo.trainer.vision import ImageRows

logger = logging.getLogger(__name__)

Texts: TypeAlias = Mapping[int, VariantText] | Mapping[int, WholePrompt]
"""Texts of variants, by `AcceptedVariant.number`."""


def training_problems(
    store: VariantStore,
    *,
    split: str,
    where: str | None = None,
    limit: int | None = None,
    only: Sequence[str] | None = None,
    reads_images: bool = False,
) -> list[Problem]:
    """Return the problems to train on, in the order of their ids, or in that of `only`.

    Args:
        store: the store.
        split: split of the problems.
        where: an SQL condition on the columns of `problems`, such as `source = 'gsm8k'`; None for no condition.
        limit: return only the first `limit` problems; None for all.
        only: ids of the problems of a resumed run, which are returned even if the store has more problems by now.
        reads_images: whether the model reads images. If not, problems with images are left out with a warning.

    Raises:
        ConfigError: no problem fits, a problem of `only` is missing, the condition is not valid SQL, or `limit` is
            below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"max_problems={limit}: at least 1")
    problems = store.problems(where=f"split = {quoted(split)} AND ({where or 'true'})")
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
    if only is None:
        return readable[:limit]
    by_id = {problem.problem_id: problem for problem in readable}
    missing = [problem_id for problem_id in only if problem_id not in by_id]
    if missing:
        raise ConfigError(
            f"the store lacks {len(missing)} of the {len(only)} problems of the run, such as {missing[0]}: resume with "
            "the store and split that it began with"
        )
    grown = len(readable[:limit]) - len(only)
    if grown > 0:
        logger.warning("the run keeps to its %d problems: the store has %d more by now", len(only), grown)
    return [by_id[problem_id] for problem_id in only]


def problems_dataset(problems: list[Problem], prompts: PromptBuilder) -> Dataset:
    """Return training data for `DivaGRPOTrainer`, one row per problem.

    The columns are problem_id, prompt, answer, options, image_hashes and text. Images are given by content hash and not
    loaded here. The text is needed for variants that draw it into an image.
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


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a generation batch are grouped: n rows per prompt, n (M + 1) consecutive rows per problem.

    Attributes:
        generations: number n of rollouts per prompt.
        variants: number M of variants per problem.
    """

    generations: int
    variants: int

    @property
    def block(self) -> int:
        """Number of rows per problem, n (M + 1)."""
        return self.generations * (self.variants + 1)

    def place_of(self, row: int) -> tuple[int, int]:
        """Return the place of the problem and the slot of the prompt of a row of the batch."""
        return divmod(row // self.generations, self.variants + 1)


def rows_of_choice(
    inputs: Sequence[dict[str, Any]],
    choice: Choice,
    texts: Texts,
    layout: Layout,
    first_row: int,
    prompts: PromptBuilder,
    images: ImageRows | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Give the rows of one process the prompts that the curriculum chose.

    Args:
        inputs: this process's rows of the training data, repeated by the sampler.
        choice: the chosen prompts of the batch of all processes.
        texts: texts of the chosen variants, by number.
        layout: layout of the batch.
        first_row: position of this process's first row in the batch.
        prompts: builds the prompts of variants.
        images: loads the images of the rows; None if the model reads only text.

    Returns:
        New rows, and the opening of the answer in each row (empty if it has none).
    """
    rows: list[dict[str, Any]] = []
    openings: list[str] = []
    built: dict[int, tuple[dict[str, Any], str]] = {}  # shared by the n rows of a prompt
    for position, row in enumerate(inputs, first_row):
        prompt = position // layout.generations
        if prompt not in built:
            place, slot = layout.place_of(position)
            variant = choice.variant_PV[place][slot]
            text = texts[variant.number] if variant else None
            built[prompt] = _prompt_columns(row, text, prompts, images)
        columns, opening = built[prompt]
        rows.append(row | columns)
        openings.append(opening)
    return rows, openings


def opening_of(text: VariantText | WholePrompt, prompts: PromptBuilder) -> str:
    """Return the opening of the answer to a variant: its hint if the hint style is `prefix`, else an empty text."""
    return "" if isinstance(text, WholePrompt) else prompts.prefix(text.hint)


def _prompt_columns(
    row: dict[str, Any],
    text: VariantText | WholePrompt | None,
    prompts: PromptBuilder,
    images: ImageRows | None,
) -> tuple[dict[str, Any], str]:
    """Return the columns that replace the prompt of a row, and the opening of the answer.

    Args:
        row: row of the training data.
        text: text of the variant; None for the original.
        prompts: builds the prompt of a variant.
        images: loads the images of the row; None if there are none to load.
    """
    prompt, opening, recipe = row["prompt"], "", None
    if isinstance(text, WholePrompt):
        prompt = text.prompt
    elif text is not None:
        prompt = prompts.prompt(text.text, row.get("options") or (), text.hint)
        opening, recipe = opening_of(text, prompts), text.recipe
    return images.columns(row, prompt, recipe) if images else {"prompt": prompt}, opening
