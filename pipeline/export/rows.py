"""Select and read the rows to export: originals and accepted variants, or the rows of a view."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
from PIL import Image

from diva_grpo.pipeline.images.shown import MIN_PIXELS, Shown
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.database import MAX_SPILL_MB, quoted
from diva_grpo.pipeline.store.label_model import BY_LABEL_MODEL
from diva_grpo.pipeline.store.sql import lock, split_statements
from diva_grpo.schemas.config import MAX_PIXELS
from diva_grpo.schemas.exceptions import ConfigError, QueryError, StoreError, first_line
from diva_grpo.schemas.question import place_images, render_question
from diva_grpo.schemas.records import ORIGINAL, Kind

MEMORY_MB = 512
"""Memory limit of DuckDB, in MB. Rows that do not fit are sorted on disk, in a temporary folder."""

_BATCH_ROWS = 1_000

_SIDES = {
    "problems": "originals",
    "variants": "accepted",
    "training": "(SELECT * FROM originals UNION ALL BY NAME SELECT * FROM accepted)",
}
TRAINING = tuple(_SIDES)
"""Values of `--what` that select training rows. Any other value is a view, which is exported without changes."""

_ROWS = """
WITH label AS (
    SELECT subject_id, difficulty, pass_rate FROM labels
    WHERE {by_label_model}
), problem AS (
    SELECT problem_id, source, split, text, answer, options, list_transform(images, lambda i: i.hash) AS images,
           solution_steps, human_level
    FROM problems
), originals AS (
    SELECT p.*, p.text AS original, '{original}' AS variant_id, '{original}' AS kind, NULL::VARCHAR[] AS hint,
           NULL::VARCHAR AS recipe, 0.0::DOUBLE AS delta, l.difficulty, l.pass_rate,
           NULL::VARCHAR AS generator_model, NULL::VARCHAR AS prompt_version
    FROM problem p LEFT JOIN label l ON l.subject_id = p.problem_id
), accepted AS (
    SELECT p.* REPLACE (coalesce(v.text, p.text) AS text), p.text AS original, v.variant_id, v.kind, v.hint,
           v.recipe::VARCHAR AS recipe, v.delta, l.difficulty, l.pass_rate, v.generator_model, v.prompt_version
    FROM variants v JOIN problem p USING (problem_id) LEFT JOIN label l ON l.subject_id = v.variant_id
    WHERE v.status = 'accepted'
)
SELECT * FROM {side}
"""


@dataclass(frozen=True)
class Picture:
    """An exported image: its content, and a file name that is the hash of the content."""

    name: str
    content: bytes


@dataclass(frozen=True)
class TrainingRow:
    """An original or an accepted variant.

    Attributes:
        values: the columns of the problem and of the variant, by name.
        pictures: the images in the order of the problem. They are perturbed if the variant has a recipe.
    """

    values: Mapping[str, Any]
    pictures: list[Picture] = field(default_factory=list)

    @property
    def question(self) -> str:
        """The question with options and hint. `<image>` or `<image1>` marks the position of an image."""
        return render_question(
            self.values["text"], options=self.values["options"], hint=self.values["hint"] or ()
        )

    def placed(self, instruction: str) -> tuple[list[dict[str, str]], list[Picture]]:
        """Return the question as a list of text and image parts, and the images in the order of these parts.

        Args:
            instruction: text to append to the question.
        """
        parts, order = place_images(self.question + instruction, len(self.pictures))
        return parts, [self.pictures[i] for i in order]


@dataclass(frozen=True)
class Wanted:
    """The conditions for the rows to export.

    Attributes:
        what: `training`, `problems`, `variants`, or a view.
        where: an SQL condition on the columns of the rows; None for no condition.
        solved: select only rows for which the worked solution of the original is valid.
        pass_rate: lowest and highest measured pass rate of a row, both inclusive; None for no condition.
        control: select random rows with a label instead of the rows with this pass rate. In each split their number is
            the number of rows with this pass rate.
    """

    what: str
    where: str | None = None
    solved: bool = False
    pass_rate: tuple[float, float] | None = None
    control: bool = False

    def query(self) -> str:
        """Return the SQL query that selects the rows."""
        body = self.what
        if self.what in TRAINING:
            body = _ROWS.format(side=_SIDES[self.what], original=ORIGINAL, by_label_model=BY_LABEL_MODEL)
        source = f"(\n{body}\n)" if self.what in TRAINING else body
        select = f"SELECT * FROM {source} WHERE (\n{self.where or 'true'}\n)"
        if self.solved:
            # The solution is not valid for the other kinds: a harder text asks another question, and a hint already
            # contains a part of the solution.
            kinds = ", ".join(map(quoted, (ORIGINAL, Kind.REWORD, Kind.IMAGE, Kind.IMAGE_TEXT)))
            select = f"SELECT * FROM ({select}) WHERE len(solution_steps) > 0 AND kind IN ({kinds})"
        if self.pass_rate is None:
            return select
        fits = f"pass_rate BETWEEN {self.pass_rate[0]} AND {self.pass_rate[1]}"
        if not self.control:
            return f"SELECT * FROM ({select}) WHERE {fits}"
        return (
            f"SELECT * EXCLUDE (fitting, drawn) FROM (SELECT *, count(*) FILTER ({fits}) OVER (PARTITION BY split) "
            "AS fitting, row_number() OVER (PARTITION BY split ORDER BY md5(problem_id || variant_id), problem_id) "
            f"AS drawn FROM ({select}) WHERE pass_rate IS NOT NULL) WHERE drawn <= fitting"
        )


class Selection:
    """The rows of an export, counted once and then read as a stream.

    Attributes:
        is_training: True for training rows, False for the rows of a view.
        splits: number of rows of each split, in alphabetical order. The rows of a view are one split, `train`.
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
        """Read the rows of one split as a stream of Arrow batches, in the order of their ids."""
        order = "problem_id, variant_id" if self.is_training else "ALL"
        # The split is a literal, because DuckDB's Python client keeps the whole result of a query with parameters.
        query = f"SELECT * FROM selected WHERE {self._split} = {quoted(split)} ORDER BY {order}"
        return self._connection.sql(query).to_arrow_reader(_BATCH_ROWS)

    def rows(self, split: str) -> Iterator[TrainingRow]:
        """Yield the training rows of one split with their images. The images of a variant with a recipe are perturbed.

        Raises:
            StoreError: an image is missing from the store.
            RecipeError: a perturbed image cannot be rendered.
        """
        for batch in self.batches(split):
            for values in batch.to_pylist():
                yield TrainingRow(values, self._pictures(values))

    def _pictures(self, values: Mapping[str, Any]) -> list[Picture]:
        paths = [self._store.image_path(digest) for digest in values["images"]]
        if values["recipe"] is None:
            return [Picture(path.name, path.read_bytes()) for path in paths]
        # With the size limits of training, so that the pixels are the same as in our trainer.
        shown = Shown(tuple(paths), values["recipe"], values["original"], MIN_PIXELS, MAX_PIXELS)
        return [_png(image) for image in shown.open()]


def _png(image: Image.Image) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Picture(f"{hashlib.sha256(buffer.getvalue()).hexdigest()}.png", buffer.getvalue())


@contextmanager
def selection(store: VariantStore, wanted: Wanted) -> Iterator[Selection]:
    """Select the rows to export. The SQL runs on a connection that can read only the tables of the store.

    Args:
        store: the store.
        wanted: the conditions for the rows.

    Raises:
        ConfigError: the condition `where` is not valid SQL for these columns.
        StoreError: there is not enough memory, or compaction deleted a file before it was read (the export took longer
            than compaction's grace period).
    """
    where, select = wanted.where, wanted.query()
    try:
        with store.connect(query=select, memory_mb=MEMORY_MB) as connection, store.naming_damage(select):
            lock(connection, store, memory_mb=MEMORY_MB, spill_mb=MAX_SPILL_MB)
            if len(split_statements(select)) != 1:
                raise ConfigError(f"--where {where!r} is not one condition")
            connection.execute(f"CREATE TEMPORARY VIEW selected AS {select}")
            try:
                yield Selection(store, connection, wanted.what)
            except duckdb.IOException as error:
                if "No files found" in str(error):  # compaction deleted a file that this connection reads
                    raise _not_to_the_end(store, error) from error
                raise
    except duckdb.OutOfMemoryException as error:
        raise _not_to_the_end(store, error) from error
    except (duckdb.Error, QueryError) as error:
        if where is None:
            raise
        raise ConfigError(f"--where {where!r}: {first_line(error)}") from error


def _not_to_the_end(store: VariantStore, error: duckdb.Error) -> StoreError:
    return StoreError(f"{store.place.url} could not be read to the end: {first_line(error)}: export again")
