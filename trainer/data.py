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
from diva_grpo.trainer.plain import PROBLEM_ID, VARIANTS, WholePrompt, problem_ids_of, with_ids
from diva_grpo.trainer.prompts import PromptBuilder

if TYPE_CHECKING:  # these need TRL, which other hosts of the curriculum do without
    from diva_grpo.trainer.config import DivaGRPOConfig
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


def settled_config(args: Any, dataset: Any, store: VariantStore | None) -> DivaGRPOConfig:
    """The options of a trainer, with those filled in that depend on its data.

    Args:
        args: as the user gives them.
        dataset: the training data.
        store: of the run, if it has one.

    Raises:
        ConfigError: they are another trainer's, or cannot work with these data; or the data bring variants beside
            those of a store, or have problems that the store has not.
    """
    if not isinstance(args, DivaGRPOConfig):
        raise ConfigError(
            f"args is a {type(args).__name__}: give a DivaGRPOConfig, which takes every field of GRPOConfig"
        )
    columns = set(getattr(dataset, "column_names", None) or ())
    if store is not None:
        if VARIANTS in columns:
            raise ConfigError(
                "the training data have a column `variants`, and a store is given: leave one of them out, since "
                "variants come from one source"
            )
        _check_known(dataset, store)
    return args.settled(variants=store is not None or VARIANTS in columns)


def _check_known(dataset: Dataset, store: VariantStore) -> None:
    """Check that all problems are the store's: records of others would belong to nothing."""
    ids = problem_ids_of(dataset) if PROBLEM_ID in dataset.column_names else []
    known = {problem_id for (problem_id,) in store.query("SELECT problem_id FROM problems")}
    missing = [problem_id for problem_id in ids if problem_id not in known]
    if missing or not ids:
        which = (
            f"{len(missing)} of the {len(ids)} problems of the training data are not in the store, such as {missing[0]}"
            if ids
            else f"none of the {len(dataset)} rows of the training data is in the store: they have no problem_id"
        )
        raise ConfigError(
            f"{which}: ingest the data (`diva ingest`) and train on the store's own rows "
            "(diva_grpo.trainer.data.problems_dataset), or leave the store out"
        )


def accuracy_function(names: Sequence[str], wanted: str | None) -> str:
    """The reward function that says right or wrong: the one that is wanted, `accuracy_reward`, or the only one.

    Raises:
        ConfigError: there is no such function, or it is not clear which one it is.
    """
    if wanted is None:
        if len(names) == 1:
            return names[0]
        wanted = "accuracy_reward"
        if wanted not in names:
            raise ConfigError(
                f"there are several reward functions ({', '.join(names)}): set accuracy_from to the one that says "
                "right (above 0.5) or wrong"
            )
    if wanted not in names:
        raise ConfigError(
            f"accuracy_from={wanted!r} is none of the reward functions: choose one of {', '.join(names)}"
        )
    return wanted


def check_dataset(dataset: Any, args: DivaGRPOConfig) -> tuple[Dataset, frozenset[str]]:
    """Training data with an id for each row, once they are known to fit the trainer.

    Args:
        dataset: a `datasets.Dataset` with a column `prompt`.
        args: options of the trainer.

    Returns:
        The dataset with a column `problem_id`, and columns that are none of the reward functions' business.

    Raises:
        ConfigError: they lack a column, name a problem twice, or are fewer than a generation batch needs.
    """
    if not isinstance(dataset, Dataset):
        given = f"not {type(dataset).__name__}: " if dataset is not None else ""
        raise ConfigError(
            f"DIVA-GRPO needs a map-style dataset as train_dataset, {given}one without rows by number has no row to "
            "come back to"
        )
    block, size = args.rollouts_per_problem, args.generation_batch_size
    if len(dataset) * block < size:
        # Rows that all processes generate for each row of per_device_train_batch_size.
        factor = args.steps_per_generation * args.world_size
        works = [n * block for n in range(len(dataset), 0, -1) if n * block % factor == 0]
        advice = f"per_device_train_batch_size={works[0] // factor} works" if works else "use fewer processes"
        raise ConfigError(
            f"the training data has {len(dataset)} problems, fewer than the {size // block} of a generation batch "
            f"({size} rollouts, {block} a problem): add problems, or make the batch smaller ({advice})"
        )
    identified, hidden = with_ids(dataset)
    if "prompt" not in dataset[0]:
        raise ConfigError("the training data has no column prompt")
    if PROBLEM_ID not in identified[0]:
        raise ConfigError(
            "a transform of the training data drops their column problem_id: keep it, or apply the transform with "
            ".map() instead of .set_transform()"
        )
    if len(set(problem_ids_of(identified))) != len(identified):
        raise ConfigError("a problem_id stands twice in the training data: one row a problem")
    return identified, hidden
