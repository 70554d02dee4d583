"""Any Hugging Face dataset as training data: an id for each row, and the variants that a row brings itself.

    dataset, hidden = with_ids(dataset)         # a column `problem_id`, where the dataset has none
    variants = DatasetVariants.of(dataset)      # of its column `variants`; None without one

Nothing of it needs a store.
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
"""Column that says which problem a row is."""
VARIANTS = "variants"
"""Column with a row's own variants: a list of {"prompt", "kind", "delta"}; "pass_rate", "steps_left" and "share_left"
(see `AcceptedVariant`) may be there."""

_IDENTITY = ("prompt", "image", "images")


def with_ids(dataset: Dataset) -> tuple[Dataset, frozenset[str]]:
    """Training data whose rows have a `problem_id`, and the columns that reward functions must not see.

    Where the column is missing, an id is a hash of the row's prompt and images, so it is the same in every process and
    in a resumed run, whatever the order of the rows; the second row with the same content gets `-2`. What is not part
    of it, such as the answer, may be corrected between two runs.

    Args:
        dataset: with a column `prompt`, or a transform that makes one.
    """
    hidden = {VARIANTS} & set(dataset.column_names)
    if PROBLEM_ID in dataset.column_names:
        return dataset, frozenset(hidden)
    return dataset.add_column(PROBLEM_ID, _row_ids(dataset)), frozenset(hidden | {PROBLEM_ID})


def problem_ids_of(dataset: Dataset) -> list[str]:
    """The column `problem_id`, whatever the format and the transform of the dataset."""
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
    """Some columns of all rows, as they are stored: images are not decoded, transforms not applied."""
    for table in dataset.with_format("arrow").iter(batch_size=1_000):
        for row in table.select(list(names)).to_pylist():
            yield {name: _content(value) for name, value in row.items()}


def _content(value: Any) -> Any:
    """A value with each file of an image by its bytes, or by its name alone: folders differ between machines."""
    if isinstance(value, list):
        return [_content(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"] or PurePath(value["path"] or "").name
    return value


def _plainly(value: Any) -> str:
    return blake2b(value).hexdigest() if isinstance(value, bytes) else str(value)


class WholePrompt(NamedTuple):
    """The prompt of a variant as a dataset brings it."""

    prompt: Prompt


@dataclass(frozen=True, slots=True)
class DatasetVariants:
    """The variants in the column `variants` of a dataset; a `VariantSource` of the curriculum.

    Attributes:
        variant_count: of all rows.
    """

    variant_count: int
    _dataset: Dataset
    _by_problem: dict[str, list[AcceptedVariant]]
    _places: list[tuple[int, int]]

    @classmethod
    def of(cls, dataset: Dataset) -> DatasetVariants | None:
        """Read the column; None where there is none.

        Raises:
            ConfigError: a variant lacks its prompt, its offset or a known kind.
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

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        """The variants of the given problems."""
        return AcceptedVariants.of([self._by_problem.get(problem_id, []) for problem_id in problem_ids])

    def texts(self, numbers: Sequence[int]) -> dict[int, WholePrompt]:
        """The prompts of variants, by their numbers (`AcceptedVariant.number`)."""
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
    """A prompt without the empty keys that Arrow gives messages of different keys."""
    if isinstance(prompt, str):
        return prompt
    return [{key: value for key, value in message.items() if value is not None} for message in prompt]
