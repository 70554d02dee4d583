"""What is exported, row by row: originals and accepted variants, or the rows of a view."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
from PIL import Image

from diva_grpo.pipeline.images.shown import MAX_PIXELS, MIN_PIXELS, Shown
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import BY_LABEL_MODEL
from diva_grpo.pipeline.store.sql import first_line, lock, quoted, split_statements
from diva_grpo.schemas.exceptions import ConfigError, QueryError, StoreError
from diva_grpo.schemas.question import place_images, render_question
from diva_grpo.schemas.records import ORIGINAL

MEMORY_MB = 512
"""Memory of the engine; what does not fit is sorted on disk, in a folder that goes with the export."""

_BATCH_ROWS = 1_000

_SIDES = {
    "problems": "originals",
    "variants": "accepted",
    "training": "(SELECT * FROM originals UNION ALL BY NAME SELECT * FROM accepted)",
}
TRAINING = tuple(_SIDES)
"""Choices that are training rows; any other is a view, exported as it is."""

_ROWS = """
WITH label AS (
    SELECT subject_id, difficulty FROM labels
    WHERE {by_label_model}
), problem AS (
    SELECT problem_id, source, split, text, answer, options, list_transform(images, lambda i: i.hash) AS images,
           solution_steps, human_level
    FROM problems
), originals AS (
    SELECT p.*, p.text AS original, '{original}' AS variant_id, '{original}' AS kind, NULL::VARCHAR[] AS hint,
           NULL::VARCHAR AS recipe, 0.0::DOUBLE AS delta, l.difficulty,
           NULL::VARCHAR AS generator_model, NULL::VARCHAR AS prompt_version
    FROM problem p LEFT JOIN label l ON l.subject_id = p.problem_id
), accepted AS (
    SELECT p.* REPLACE (coalesce(v.text, p.text) AS text), p.text AS original, v.variant_id, v.kind, v.hint,
           v.recipe::VARCHAR AS recipe, v.delta, l.difficulty, v.generator_model, v.prompt_version
    FROM variants v JOIN problem p USING (problem_id) LEFT JOIN label l ON l.subject_id = v.variant_id
    WHERE v.status = 'accepted'
)
SELECT * FROM {side}
"""


@dataclass(frozen=True)
class Picture:
    """An image as it is exported: its bytes, and a file name that is their hash."""

    name: str
    content: bytes


@dataclass(frozen=True)
class TrainingRow:
    """An original or an accepted variant.

    Attributes:
        values: columns of the problem and of the variant.
        pictures: in the order of the problem; perturbed where the variant says so.
    """

    values: Mapping[str, Any]
    pictures: list[Picture] = field(default_factory=list)

    @property
    def question(self) -> str:
        """The question with options and hint, its images marked by `<image>` or `<image1>`."""
        return render_question(
            self.values["text"], options=self.values["options"], hint=self.values["hint"] or ()
        )

    def placed(self, instruction: str) -> tuple[list[dict[str, str]], list[Picture]]:
        """The question as parts of text and of images, and the images in the order of these parts."""
        parts, order = place_images(self.question + instruction, len(self.pictures))
        return parts, [self.pictures[i] for i in order]


class Selection:
    """The rows of an export, counted once and read as a stream.

    Attributes:
        is_training: whether they are training rows, or those of a view.
        splits: rows by split, in order; the rows of a view are one split.
        with_images: whether any row has an image.
    """

    def __init__(self, store: VariantStore, connection: duckdb.DuckDBPyConnection, what: str) -> None:
        self._store, self._connection, self._what = store, connection, what
        self.is_training = what in TRAINING
        self._split = "split" if self.is_training else "'train'"
        self.splits = dict(
            connection.execute(
                f"SELECT {self._split}, count(*) FROM selected GROUP BY ALL ORDER BY ALL"
            ).fetchall()
        )
        images = "len(images) > 0" if self.is_training else "false"
        self.with_images = bool(
            connection.execute(f"SELECT bool_or({images}) FROM selected").fetchall()[0][0]
        )

    def batches(self, split: str) -> pa.RecordBatchReader:
        """Rows of one split as a stream of Arrow batches, in the order of their ids."""
        order = "problem_id, variant_id" if self.is_training else "ALL"
        # The split as a literal: with parameters DuckDB's Python client holds the whole result.
        query = f"SELECT * FROM selected WHERE {self._split} = {quoted(split)} ORDER BY {order}"
        return self._connection.sql(query).to_arrow_reader(_BATCH_ROWS)

    def rows(self, split: str) -> Iterator[TrainingRow]:
        """Training rows of one split with their images, rendered where a variant perturbs them.

        Raises:
            StoreError: an image is missing from the store.
            RecipeError: an image cannot be rendered as its variant says.
        """
        for batch in self.batches(split):
            for values in batch.to_pylist():
                yield TrainingRow(values, self._pictures(values))

    def _pictures(self, values: Mapping[str, Any]) -> list[Picture]:
        paths = [self._store.image_path(digest) for digest in values["images"]]
        if values["recipe"] is None:
            return [Picture(path.name, path.read_bytes()) for path in paths]
        # In the bounds of training: the same pixels as our own trainer shows.
        shown = Shown(tuple(paths), values["recipe"], values["original"], MIN_PIXELS, MAX_PIXELS)
        return [_png(image) for image in shown.open()]


def _png(image: Image.Image) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Picture(f"{hashlib.sha256(buffer.getvalue()).hexdigest()}.png", buffer.getvalue())


@contextmanager
def selection(store: VariantStore, what: str, where: str | None) -> Iterator[Selection]:
    """Select what to export, by a connection that reads the store's tables and nothing else.

    Args:
        store: the store.
        what: `training`, `problems`, `variants`, or a view.
        where: an SQL condition on the columns of the rows.

    Raises:
        ConfigError: the condition is no SQL condition on these columns.
        StoreError: the rows need more memory than there is, or took longer than the grace of a compaction.
    """
    body = f"SELECT * FROM {what}"
    if what in TRAINING:
        body = _ROWS.format(side=_SIDES[what], original=ORIGINAL, by_label_model=BY_LABEL_MODEL)
    with TemporaryDirectory(prefix="diva-export-") as spill, store.connect() as connection:
        lock(connection, store, memory_mb=MEMORY_MB, spill=Path(spill))
        select = f"SELECT * FROM (\n{body}\n) WHERE (\n{where or 'true'}\n)"
        try:
            if len(split_statements(select)) != 1:
                raise ConfigError(f"--where {where!r} is not one condition")
            connection.execute(f"CREATE TEMPORARY VIEW selected AS {select}")
            yield Selection(store, connection, what)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise StoreError(
                f"{store.place.url} could not be read to the end: {first_line(error)}: export again"
            ) from error
        except (duckdb.Error, QueryError) as error:
            if where is None:
                raise
            raise ConfigError(f"--where {where!r}: {first_line(error)}") from error
