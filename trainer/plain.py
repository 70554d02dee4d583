"""Any Hugging Face dataset as training data: ids for its rows, and variants from a column or from a second dataset.

    dataset, hidden = with_ids(dataset)                     # adds a column `problem_id`, if the dataset has none
    variants = DatasetVariants.of_column(dataset)           # reads the column `variants`
    variants = DatasetVariants.of_rows(variants, dataset)   # reads a dataset with one row per variant

This module does not need a store.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, NamedTuple

from datasets import Dataset

from diva_grpo.pipeline.difficulty.variants import AcceptedVariant, AcceptedVariants
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Kind
from diva_grpo.trainer.prompts import Prompt

PROBLEM_ID = "problem_id"
"""Column with the id of a row's problem."""
VARIANTS = "variants"
"""Column with the variants of a row: a list of dictionaries with the keys "prompt", "kind" and "delta", and optionally
"pass_rate", "steps_left" and "share_left" (see `AcceptedVariant`)."""

_NEEDED = ("prompt", "kind", "delta")

_IDENTITY = ("prompt", "image", "images")


def with_ids(dataset: Dataset) -> tuple[Dataset, frozenset[str]]:
    """Add a column `problem_id` to training data that has none.

    The id is a hash of the row's prompt and images. So it is the same in every process and in a resumed run, for any
    order of the rows, and it does not change if another column, such as the answer, is corrected. If rows have the same
    prompt and images, the second one gets the suffix `-2`, and so on.

    Args:
        dataset: a dataset with a column `prompt`, or with a transform that makes one.

    Returns:
        The dataset with a column `problem_id`, and the names of columns that reward functions must not get: `variants`,
        and `problem_id` if it was added here.
    """
    hidden = {VARIANTS} & set(dataset.column_names)
    if PROBLEM_ID in dataset.column_names:
        return dataset, frozenset(hidden)
    return dataset.add_column(PROBLEM_ID, _row_ids(dataset)), frozenset(hidden | {PROBLEM_ID})


def problem_ids_of(dataset: Dataset) -> list[str]:
    """Return the column `problem_id`, for any format and transform of the dataset."""
    return [str(problem_id) for problem_id in dataset.with_format(None)[PROBLEM_ID]]


def _row_ids(dataset: Dataset) -> list[str]:
    names = [name for name in _IDENTITY if name in dataset.column_names] or dataset.column_names
    seen: Counter[str] = Counter()
    ids = []
    for row in _raw_rows(dataset, names):
        text = json.dumps(row, sort_keys=True, default=_plainly)
        digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
        seen[digest] += 1
        ids.append(f"row-{digest}" if seen[digest] == 1 else f"row-{digest}-{seen[digest]}")
    return ids


def _raw_rows(dataset: Dataset, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the given columns of all rows as stored, without decoding images or applying transforms."""
    for table in dataset.with_format("arrow").iter(batch_size=1_000):
        for row in table.select(list(names)).to_pylist():
            yield {name: _content(value) for name, value in row.items()}


def _content(value: Any) -> Any:
    """Return a value in which each image file is replaced by its bytes, or else by its file name.

    The folder of the file is left out, because it differs between machines.
    """
    if isinstance(value, list):
        return [_content(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"] or PurePath(value["path"] or "").name
    return value


def _plainly(value: Any) -> str:
    return blake2b(value).hexdigest() if isinstance(value, bytes) else str(value)


class WholePrompt(NamedTuple):
    """The complete prompt of a variant, as it is in the dataset."""

    prompt: Prompt


@dataclass(frozen=True, slots=True)
class DatasetVariants:
    """The variants that a dataset brings; a `VariantSource` for the curriculum.

    Attributes:
        variant_count: number of variants of all problems.
    """

    variant_count: int
    _by_problem: dict[str, list[AcceptedVariant]]
    _read: Callable[[int], Any]

    @classmethod
    def of_column(cls, dataset: Dataset) -> DatasetVariants:
        """Read the column `variants` of training data with ids.

        Raises:
            ConfigError: a variant has no prompt, kind or delta, or an unknown kind; or one of the prompts of a variant
                and its row is a text and the other a conversation.
        """
        by_problem: dict[str, list[AcceptedVariant]] = {}
        places: list[tuple[int, int]] = []
        is_text = _is_text(dataset)
        for row_number, row in enumerate(_raw_rows(dataset, [PROBLEM_ID, VARIANTS])):
            problem_id, found = str(row[PROBLEM_ID]), []
            for place, variant in enumerate(row[VARIANTS] or ()):
                variant_id = f"{problem_id}:{place:03d}"
                where = f"column {VARIANTS}: {variant_id}"
                found.append(_accepted(variant, variant_id, len(places), where, is_text=is_text))
                places.append((row_number, place))
            by_problem[problem_id] = found
        stored = dataset.with_format("arrow")

        def read(number: int) -> Any:
            row_number, place = places[number]
            [variants] = stored[row_number][VARIANTS].to_pylist()
            return variants[place]["prompt"]

        return cls(len(places), by_problem, read)

    @classmethod
    def of_rows(cls, variants: Dataset, dataset: Dataset) -> DatasetVariants:
        """Read a dataset with one row per variant.

        Args:
            variants: its columns are `problem_id`, `prompt`, `kind` and `delta`, and optionally the others of a variant
                (see `VARIANTS`).
            dataset: the training data, with ids.

        Raises:
            ConfigError: a column or a value is missing, as for `of_column`; or rows have a `problem_id` that the
                training data do not have.
        """
        if missing := [name for name in (PROBLEM_ID, *_NEEDED) if name not in variants.column_names]:
            raise ConfigError(
                f"variants_dataset has no column {missing[0]}: it needs {PROBLEM_ID}, {', '.join(_NEEDED)}, one row a "
                "variant"
            )
        by_problem: dict[str, list[AcceptedVariant]] = {name: [] for name in problem_ids_of(dataset)}
        is_text = _is_text(dataset)
        unknown: Counter[str] = Counter()
        for number, row in enumerate(_raw_rows(variants, variants.column_names)):
            problem_id = str(row[PROBLEM_ID])
            if problem_id not in by_problem:
                unknown[problem_id] += 1
                continue
            found = by_problem[problem_id]
            where = f"variants_dataset: row {number}"
            found.append(_accepted(row, f"{problem_id}:{len(found):03d}", number, where, is_text=is_text))
        if unknown:
            raise ConfigError(
                f"{unknown.total()} of the {len(variants)} rows of variants_dataset have a {PROBLEM_ID} that the "
                f"training data do not have, such as {', '.join(list(unknown)[:3])}: correct them, or leave them out "
                "with .filter()"
            )
        stored = variants.with_format("arrow")
        return cls(len(variants), by_problem, lambda number: stored[number]["prompt"].to_pylist()[0])

    def kinds(self) -> dict[str, str]:
        """Return the kind of each variant, by variant_id."""
        return {variant.variant_id: variant.kind for found in self._by_problem.values() for variant in found}

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        """Return the variants of the given problems."""
        return AcceptedVariants.of([self._by_problem.get(problem_id, []) for problem_id in problem_ids])

    def texts(self, numbers: Sequence[int]) -> dict[int, WholePrompt]:
        """Return the prompts of variants, by their numbers (`AcceptedVariant.number`)."""
        return {number: WholePrompt(_without_empty(self._read(number))) for number in set(numbers)}


def _is_text(dataset: Dataset) -> bool:
    """Whether the prompts of training data are texts; else they are conversations."""
    return isinstance(dataset[0]["prompt"], str)


def _accepted(variant: Any, variant_id: str, number: int, where: str, *, is_text: bool) -> AcceptedVariant:
    """Return a variant of a dataset as the curriculum takes it.

    Args:
        variant: its values by name.
        variant_id: its id.
        number: its number, see `AcceptedVariant`.
        where: how an error names it.
        is_text: whether the prompt of its problem is a text; else it is a conversation.

    Raises:
        ConfigError: a value is missing or wrong.
    """
    if not isinstance(variant, dict) or any(variant.get(name) is None for name in _NEEDED):
        raise ConfigError(f"{where} lacks one of prompt, kind, delta (its difficulty offset in levels)")
    if not isinstance(variant["delta"], int | float) or not math.isfinite(variant["delta"]):
        raise ConfigError(f"{where} has the delta {variant['delta']!r}: give a finite number of levels")
    if variant["kind"] not in set(Kind):
        raise ConfigError(f"{where} has the kind {variant['kind']!r}: choose one of {', '.join(Kind)}")
    if isinstance(variant["prompt"], str) != is_text:
        raise ConfigError(
            f"{where}: of its prompt and that of its problem, one is a text and the other a conversation: give both "
            "alike"
        )
    share_left = variant.get("share_left")
    return AcceptedVariant(
        number,
        variant_id,
        str(variant["kind"]),
        float(variant["delta"]),
        variant.get("pass_rate"),
        variant.get("steps_left"),
        1.0 if share_left is None else float(share_left),
    )


def _without_empty(prompt: Any) -> Prompt:
    """Return a prompt without keys whose value is None; Arrow adds them if messages have different keys."""
    if isinstance(prompt, str):
        return prompt
    return [{key: value for key, value in message.items() if value is not None} for message in prompt]
