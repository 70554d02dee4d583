"""The rows of an export for `verifiers` (`diva export OUT --preset verifiers`), for any release of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from diva_grpo.schemas.exceptions import ConfigError

_BATCH_ROWS = 256
_FACTS = ("options", "problem_id", "kind", "hint_steps", "delta", "difficulty")


@dataclass(frozen=True, slots=True)
class Row:
    """An original or a variant.

    Attributes:
        id: the problem_id of an original, or the variant_id of a variant.
        content: content of the user's message: the question, or its parts as OpenAI's API has them if there are images.
        answer: reference answer.
        facts: `options` (texts of the choices A, B, ...), `problem_id`, `kind`, `hint_steps`, `delta` (offset from the
            original, in levels) and `difficulty` (measured, 1 to 9, or None).
    """

    id: str
    content: str | list[dict[str, Any]]
    answer: str
    facts: dict[str, Any]


def rows(
    folder: Path, split: str, kinds: Sequence[str] = (), hint_steps: Sequence[int] = ()
) -> Iterator[Row]:
    """Yield the rows of an export, ordered by problem and variant.

    Args:
        folder: folder of the Parquet files, whose names begin with the split.
        split: split of the problems.
        kinds: kinds to load, such as `original` and `think_step`; all if empty.
        hint_steps: of the variants with a hint, only those with one of these numbers of steps; all if empty.

    Raises:
        ConfigError: there is no such split, no row fits, or a row has not one image for each `<image>`.
    """
    paths = sorted(folder.glob(f"{split}-*.parquet"))
    if not paths:
        splits = sorted({path.name.rpartition("-of-")[0][:-6] for path in folder.glob("*.parquet")})
        raise ConfigError(f"no split {split!r}: choose from {', '.join(splits)}")
    found = False
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                steps_fit = not hint_steps or not row["hint_steps"] or row["hint_steps"] in hint_steps
                if steps_fit and (not kinds or row["kind"] in kinds):
                    found = True
                    yield _row(row)
    if not found:
        raise ConfigError(
            f"split {split!r} has no row of kinds {kinds or 'all'} with hint_steps {hint_steps or 'all'}"
        )


def _row(row: dict[str, Any]) -> Row:
    name = row["problem_id"] if row["kind"] == "original" else row["variant_id"]
    images = [image["bytes"] for image in row.get("images") or ()]
    places = row["prompt"].count("<image>")
    if images and len(images) != places:
        raise ConfigError(
            f"row {name}: its question has {places} `<image>` for {len(images)} images: mend its source, export again"
        )
    facts = {fact: row[fact] for fact in _FACTS} | {"options": row["options"] or []}
    return Row(name, _content(row["prompt"], images), row["answer"], facts)


def _content(text: str, images: list[bytes]) -> str | list[dict[str, Any]]:
    if not images:
        return text
    parts: list[dict[str, Any]] = []
    for number, said in enumerate(text.split("<image>")):
        if number:
            parts.append({"type": "image_url", "image_url": {"url": _data_url(images[number - 1])}})
        if said:
            parts.append({"type": "text", "text": said})
    return parts


def _data_url(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        return f"data:{image.get_format_mimetype()};base64,{base64.b64encode(content).decode()}"
