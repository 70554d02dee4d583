"""Training data: one row a problem, with the prompt of its original; and the rows of a batch, with chosen prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from datasets import Dataset

from diva_grpo.pipeline.store import VariantStore, VariantText
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Problem
from diva_grpo.trainer.method.curriculum import Choice
from diva_grpo.trainer.plain import WholePrompt
from diva_grpo.trainer.prompts import PromptBuilder

if TYPE_CHECKING:  # it needs TRL, which other hosts of the curriculum do without
    from diva_grpo.trainer.vision import ImageRows

logger = logging.getLogger(__name__)

Texts: TypeAlias = Mapping[int, VariantText] | Mapping[int, WholePrompt]
"""What is shown of variants, by their numbers."""


def training_problems(
    store: VariantStore,
    *,
    split: str,
    where: str | None = None,
    limit: int | None = None,
    only: Sequence[str] | None = None,
    reads_images: bool = False,
) -> list[Problem]:
    """Problems to train on, in the order of their ids.

    Args:
        store: the store.
        split: of the problems.
        where: an SQL condition on the columns of `problems`, such as `source = 'gsm8k'`.
        limit: only the first `limit`.
        only: ids of the problems of a resumed run, which keeps to them where the store has grown.
        reads_images: whether the model does; else problems with images are left out, with a warning.

    Raises:
        ConfigError: no problem fits, one of `only` is missing, or the condition is not valid SQL.
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


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a generation batch of all processes divide: n rows a prompt, n (M + 1) rows a problem."""

    generations: int
    variants: int

    @property
    def block(self) -> int:
        """Rows of one problem."""
        return self.generations * (self.variants + 1)


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
        inputs: rows of the training data, as the sampler repeated them.
        choice: of the batch of all processes.
        texts: texts of the chosen variants, by number.
        layout: of the batch.
        first_row: position of the first row in the batch.
        prompts: builds a variant's prompt.
        images: gives the rows their images; None if the model reads only text.

    Returns:
        New rows, and the opening of each row's answer (empty without one).
    """
    rows: list[dict[str, Any]] = []
    openings: list[str] = []
    built: dict[tuple[int, int], tuple[dict[str, Any], str]] = {}  # shared by the n rows of a prompt
    for position, row in enumerate(inputs, first_row):
        place, slot = position // layout.block, position // layout.generations % (layout.variants + 1)
        if (place, slot) not in built:
            variant = choice.variant_PV[place][slot]
            text = texts[variant.number] if variant else None
            built[place, slot] = _prompt_columns(row, text, prompts, images)
        columns, opening = built[place, slot]
        rows.append({**row, **columns})
        openings.append(opening)
    return rows, openings


def opening_of(text: VariantText | WholePrompt, prompts: PromptBuilder) -> str:
    """The opening of the answer that a variant's hint gives; empty without one."""
    return "" if isinstance(text, WholePrompt) else prompts.prefix(text.hint)


def _prompt_columns(
    row: dict[str, Any],
    text: VariantText | WholePrompt | None,
    prompts: PromptBuilder,
    images: ImageRows | None,
) -> tuple[dict[str, Any], str]:
    """The columns of a prompt in place of the original's, and the opening of its answer."""
    prompt, opening, recipe = row["prompt"], "", None
    if isinstance(text, WholePrompt):
        prompt = text.prompt
    elif text is not None:
        prompt = prompts.prompt(text.text, row.get("options") or (), text.hint)
        opening, recipe = opening_of(text, prompts), text.recipe
    return images.columns(row, prompt, recipe) if images else {"prompt": prompt}, opening
