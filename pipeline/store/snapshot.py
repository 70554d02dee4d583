"""What a trainer needs of the store, in memory: accepted variants in an Arrow table, those of a problem in a row.

So the variants of a batch are a slice for each problem, whatever the size of the store (DESIGN.md, The store).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diva_grpo.pipeline.store.engine import Engine
from diva_grpo.pipeline.store.files.parts import Catalogue
from diva_grpo.pipeline.store.label_model import by_label_model
from diva_grpo.pipeline.store.monotone import MONOTONE, WEIGHT
from diva_grpo.schemas.records import Variant


@dataclass(frozen=True, slots=True)
class SnapshotVariant:
    """What a selector needs to know of an accepted variant.

    Attributes:
        number: its row in this snapshot, for `Snapshot.texts`.
        delta: in use; of one family of image operations, never smaller for a larger strength.
        pass_rate: its label by the store's label model, None without one.
        steps_left: steps of the worked solution that its hint leaves to do; None without a hint.
        share_left: of all its steps, that share; 1 without a hint.
    """

    number: int
    variant_id: str
    kind: str
    delta: float
    pass_rate: float | None
    steps_left: int | None = None
    share_left: float = 1.0


@dataclass(frozen=True, slots=True)
class VariantText:
    """What the policy is shown of a variant."""

    text: str
    hint: tuple[str, ...]
    recipe: str | None


@dataclass(frozen=True, slots=True)
class Deltas:
    """The deltas of the variants of several problems.

    Attributes:
        owner_V: (V,) place of each variant's problem among those that were asked for.
        delta_V: (V,) in use, in levels.
    """

    owner_V: npt.NDArray[np.intp]
    delta_V: npt.NDArray[np.float64]


@dataclass(slots=True)
class Snapshot:
    """Accepted variants at one moment.

    Attributes:
        parts: names of the `variants` parts that were read, as they were written: a checkpoint keeps them.
        taken_at: monotonic seconds, for the age of the snapshot.
        problem_count: problems with at least one accepted variant.
        variant_count: accepted variants.
    """

    parts: list[str]
    taken_at: float
    problem_count: int
    variant_count: int
    _spans: dict[str, tuple[int, int]]
    _variants: pa.Table
    _texts: pa.Table
    _labels: dict[str, float]

    def candidates(self, problem_ids: Sequence[str]) -> dict[str, list[SnapshotVariant]]:
        """The accepted variants of the given problems, each list in the order of variant_id."""
        spans = {problem_id: self._spans.get(problem_id, (0, 0)) for problem_id in problem_ids}
        numbers = [number for first, end in spans.values() for number in range(first, end)]
        columns = self._variants.take(pa.array(numbers, pa.int64())).to_pydict()
        variants = map(SnapshotVariant, numbers, *columns.values())
        return {problem_id: list(islice(variants, end - first)) for problem_id, (first, end) in spans.items()}

    def deltas(self, problem_ids: Sequence[str]) -> Deltas:
        """The deltas of the accepted variants of the given problems."""
        spans = [self._spans.get(problem_id, (0, 0)) for problem_id in problem_ids]
        first_P, end_P = np.array(spans, np.int64).reshape(-1, 2).T
        count_P = end_P - first_P
        owner_V = np.repeat(np.arange(len(spans)), count_P)
        # Rows first, first + 1, ... of each problem.
        row_V = np.arange(count_P.sum()) + (first_P - np.cumsum(count_P) + count_P)[owner_V]
        return Deltas(owner_V, self._variants["delta"].to_numpy()[row_V])

    def texts(self, numbers: Sequence[int]) -> dict[int, VariantText]:
        """What is shown of variants, by `SnapshotVariant.number`."""
        distinct = sorted(set(numbers))
        rows = self._texts.take(pa.array(distinct, pa.int64())).to_pylist()
        return {
            number: VariantText(row["text"], tuple(row["hint"]), row["recipe"])
            for number, row in zip(distinct, rows, strict=True)
        }

    def labels(self) -> dict[str, float]:
        """Difficulty by problem_id, measured by the store's label model."""
        return dict(self._labels)


_LOAD = f"""
CREATE TABLE labelled AS
    SELECT subject_id, pass_rate, difficulty FROM store.labels
    WHERE {by_label_model("store")};
CREATE TABLE original_labels AS
    SELECT p.problem_id, l.difficulty FROM store.problems p JOIN labelled l ON l.subject_id = p.problem_id;
CREATE TABLE accepted AS
    SELECT (dense_rank() OVER (ORDER BY v.problem_id))::INTEGER - 1 AS problem_no,
           (row_number() OVER (ORDER BY v.problem_id, v.variant_id))::INTEGER - 1 AS variant_no,
           v.variant_id, v.problem_id, v.kind, v.delta, {WEIGHT} AS weight, l.pass_rate, v.text, v.hint,
           v.recipe::VARCHAR AS recipe, v.hint_total - v.hint_steps AS steps_left,
           coalesce((v.hint_total - v.hint_steps) / v.hint_total, 1.0) AS share_left
    FROM store.variants v LEFT JOIN labelled l ON l.subject_id = v.variant_id
    WHERE v.status = 'accepted' ORDER BY variant_no;
DROP TABLE labelled;
"""
_SPANS = "SELECT problem_id, min(variant_no), max(variant_no) + 1 FROM accepted GROUP BY problem_id"


def load_snapshot(engine: Engine, catalogue: Catalogue, variant_parts: Sequence[str]) -> Snapshot:
    """Read the accepted variants of the named parts, and the labels, into memory.

    Args:
        engine: of the store.
        catalogue: of its parts.
        variant_parts: names of parts, as they were written; of those merged since, their rows are read.

    Raises:
        StoreError: a part is damaged or missing.
    """
    names = frozenset(variant_parts)
    wanted = catalogue.holding(Variant.table, names)
    with (
        engine.connect(query=_LOAD, schema="store", variant_parts=(wanted, names)) as connection,
        engine.naming_damage(_LOAD),
    ):
        connection.execute(_LOAD)
        connection.execute(MONOTONE)
        rows: list[tuple[Any, ...]] = connection.execute(_SPANS).fetchall()
        variants, texts = (
            connection.sql(f"SELECT {columns} FROM accepted ORDER BY variant_no")
            .to_arrow_table()
            .combine_chunks()
            for columns in (
                "variant_id, kind, delta, pass_rate, steps_left, share_left",
                "text, hint, recipe",
            )
        )
        labels = dict(connection.execute("SELECT problem_id, difficulty FROM original_labels").fetchall())
    spans = {problem_id: (first, end) for problem_id, first, end in rows}
    return Snapshot(
        list(variant_parts), time.monotonic(), len(spans), variants.num_rows, spans, variants, texts, labels
    )
