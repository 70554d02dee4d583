"""Checks when a trainer gets its data: fills in the options that depend on the data, and adds ids to the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.plain import PROBLEM_ID, VARIANTS, problem_ids_of, with_ids


def settled_config(
    args: Any, dataset: Any, store: VariantStore | None, variants_dataset: Any = None
) -> DivaGRPOConfig:
    """Return the options of a trainer, with values for those that depend on the training data.

    Args:
        args: the options as the user gives them.
        dataset: the training data.
        store: the store of the run; None without one.
        variants_dataset: a dataset of variants; None without one.

    Raises:
        ConfigError: `args` is not a `DivaGRPOConfig`; the options cannot work with the data; variants come from more
            than one source; a store is given, and the data have problems that are not in it; or a dataset of variants
            is given, and the data have no column `problem_id`.
    """
    if not isinstance(args, DivaGRPOConfig):
        raise ConfigError(
            f"args is a {type(args).__name__}: give a DivaGRPOConfig, which takes every field of GRPOConfig"
        )
    columns = set(getattr(dataset, "column_names", None) or ())
    sources = {
        "a column `variants` of the training data": VARIANTS in columns,
        "variants_dataset": variants_dataset is not None,
        "a store": store is not None,
    }
    given = [name for name, is_there in sources.items() if is_there]
    if len(given) > 1:
        raise ConfigError(
            f"variants come from one source, and here are {' and '.join(given)}: leave one of them out"
        )
    if variants_dataset is not None:
        if not isinstance(variants_dataset, Dataset):
            raise ConfigError(
                f"variants_dataset is a {type(variants_dataset).__name__}: give a datasets.Dataset, one row a variant"
            )
        if PROBLEM_ID not in columns:
            raise ConfigError(
                f"the rows of variants_dataset name problems by {PROBLEM_ID}: give the training data this column too"
            )
    if store is not None:
        _check_known(dataset, store)
    return args.settled(variants=bool(given))


def _check_known(dataset: Dataset, store: VariantStore) -> None:
    """Check that all problems are in the store, because the run's records refer to problems of the store."""
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
    """Return the name of the reward function that decides whether an answer is right or wrong.

    Args:
        names: names of all reward functions.
        wanted: the name that the user gives. None chooses the only function, or `accuracy_reward` of several.

    Raises:
        ConfigError: there is no function of the given name; or none is given, and none of several is
            `accuracy_reward`.
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
    """Check training data, and add a column `problem_id` if there is none.

    Args:
        dataset: a `datasets.Dataset` with a column `prompt`.
        args: options of the trainer.

    Returns:
        The dataset with a column `problem_id`, and the names of columns that reward functions must not get.

    Raises:
        ConfigError: it is not a `datasets.Dataset`, a column is missing, two rows have the same problem_id, or there
            are fewer problems than a generation batch needs.
    """
    if not isinstance(dataset, Dataset):
        given = f"not {type(dataset).__name__}: " if dataset is not None else ""
        raise ConfigError(
            f"DIVA-GRPO needs a map-style dataset as train_dataset, {given}one without rows by number has no row to "
            "come back to"
        )
    block, size = args.rollouts_per_problem, args.generation_batch_size
    if len(dataset) * block < size:
        # The number of rows of a generation batch is per_device_train_batch_size times this factor.
        factor = args.steps_per_generation * args.world_size
        works = [n * block for n in range(len(dataset), 0, -1) if n * block % factor == 0]
        advice = f"per_device_train_batch_size={works[0] // factor} works" if works else "use fewer processes"
        raise ConfigError(
            f"the training data has {len(dataset)} problems, fewer than the {size // block} of a generation batch "
            f"({size} rollouts, {block} a problem): add problems, or make the batch smaller ({advice})"
        )
    identified, hidden = with_ids(dataset)
    if "prompt" not in dataset[0]:
        raise ConfigError(
            "the training data has no column `prompt`: add it, or rename the column that holds the prompts"
        )
    if PROBLEM_ID not in identified[0]:
        raise ConfigError(
            "a transform of the training data drops their column problem_id: keep it, or apply the transform with "
            ".map() instead of .set_transform()"
        )
    twice = [name for name, count in Counter(problem_ids_of(identified)).items() if count > 1]
    if twice:
        raise ConfigError(
            f"a problem_id stands twice in the training data: {len(twice)} of them do, such as {twice[0]}; give each "
            "problem one row"
        )
    return identified, hidden
