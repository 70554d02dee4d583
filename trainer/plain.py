"""Any Hugging Face dataset as training data: ids for its rows, and variants from one of its columns.

    dataset, hidden = with_ids(dataset)         # adds a column `problem_id`, if the dataset has none
    variants = DatasetVariants.of(dataset)      # reads the column `variants`; None if there is none

This module does not need a store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
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
    """The variants in the column `variants` of a dataset; a `VariantSource` for the curriculum.

    Attributes:
        variant_count: number of variants of all rows.
    """

    variant_count: int
    _dataset: Dataset
    _by_problem: dict[str, list[AcceptedVariant]]
    _places: list[tuple[int, int]]

    @classmethod
    def of(cls, dataset: Dataset) -> DatasetVariants | None:
        """Read the column `variants` of a dataset; return None if it has none.

        Raises:
            ConfigError: a variant has no prompt, kind or delta, or an unknown kind; or one of the prompts of a variant
                and its row is a text and the other a conversation.
        """
        if VARIANTS not in dataset.column_names:
            return None
        by_problem: dict[str, list[AcceptedVariant]] = {}
        places: list[tuple[int, int]] = []
        for row_number, row in enumerate(_raw_rows(dataset, [PROBLEM_ID, "prompt", VARIANTS])):
            problem_id, found = str(row[PROBLEM_ID]), []
            for place, variant in enumerate(row[VARIANTS] or ()):
                found.append(_accepted(variant, f"{problem_id}:{place:03d}", len(places), row["prompt"]))
                places.append((row_number, place))
            by_problem[problem_id] = found
        return cls(len(places), dataset.with_format("arrow"), by_problem, places)

    def kinds(self) -> dict[str, str]:
        """Return the kind of each variant, by variant_id."""
        return {variant.variant_id: variant.kind for found in self._by_problem.values() for variant in found}

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        """Return the variants of the given problems."""
        return AcceptedVariants.of([self._by_problem.get(problem_id, []) for problem_id in problem_ids])

    def texts(self, numbers: Sequence[int]) -> dict[int, WholePrompt]:
        """Return the prompts of variants, by their numbers (`AcceptedVariant.number`)."""
        shown = {}
        for number in set(numbers):
            row_number, place = self._places[number]
            [variants] = self._dataset[row_number][VARIANTS].to_pylist()
            shown[number] = WholePrompt(_without_empty(variants[place]["prompt"]))
        return shown


def _accepted(variant: Any, variant_id: str, number: int, original: Any) -> AcceptedVariant:
    wanted = {"prompt", "kind", "delta"}
    if not isinstance(variant, dict) or any(variant.get(name) is None for name in wanted):
        raise ConfigError(
            f"column {VARIANTS}: {variant_id} lacks one of prompt, kind, delta (its difficulty offset in levels)"
        )
    if variant["kind"] not in set(Kind):
        raise ConfigError(
            f"column {VARIANTS}: {variant_id} has the kind {variant['kind']!r}: choose one of {', '.join(Kind)}"
        )
    if isinstance(variant["prompt"], str) != isinstance(original, str):
        raise ConfigError(
            f"column {VARIANTS}: of {variant_id} and its row, one prompt is a text and the other a conversation: give "
            "both alike"
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
