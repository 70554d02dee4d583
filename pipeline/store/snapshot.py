"""The data that a trainer needs from the store, held in memory.

The accepted variants are in an Arrow table, in which the variants of one problem are adjacent rows. A batch therefore
reads one slice for each of its problems, whatever the size of the store (DESIGN.md, The store).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.pipeline.difficulty.variants import AcceptedVariants
from diva_grpo.pipeline.store.engine import Engine
from diva_grpo.pipeline.store.files.parts import Catalogue
from diva_grpo.pipeline.store.label_model import by_label_model
from diva_grpo.pipeline.store.monotone import MONOTONE, WEIGHT
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import Variant


class VariantText(NamedTuple):
    """The fields of a variant from which its prompt for the policy is made."""

    text: str
    hint: tuple[str, ...]
    recipe: str | None


@dataclass(frozen=True, slots=True)
class Deltas:
    """The offsets (`delta`) of all accepted variants of the given problems.

    Attributes:
        owner_V: (V,) index of each variant's problem in the given list of problems.
        delta_V: (V,) offset of each variant, in levels.
    """

    owner_V: npt.NDArray[np.intp]
    delta_V: npt.NDArray[np.float64]


@dataclass(slots=True)
class Snapshot:
    """The accepted variants of a store at one moment.

    Attributes:
        parts: names of the `variants` parts that were read. Each part has the name under which it was first written,
            even if it was merged later. A checkpoint keeps these names.
        taken_at: time when the snapshot was taken, in seconds of `time.monotonic`.
        problem_count: number of problems with at least one accepted variant.
        variant_count: number of accepted variants.
    """

    parts: list[str]
    taken_at: float
    problem_count: int
    variant_count: int
    _places: dict[str, int]
    _first: npt.NDArray[np.int64]
    _variant_ids: pa.StringArray
    _kinds: npt.NDArray[np.object_]
    _figures: FloatArray
    _texts: pa.Table
    _labels: dict[str, float]

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        """Return the accepted variants of the given problems, in the order of the problems."""
        count_P, number_V = self._numbers(problem_ids)
        variant_id_V = self._variant_ids.take(pa.array(number_V)).to_numpy(zero_copy_only=False)
        return AcceptedVariants(
            count_P, number_V, variant_id_V, self._kinds[number_V], *self._figures[:, number_V]
        )

    def deltas(self, problem_ids: Sequence[str]) -> Deltas:
        """Return the offsets (`delta`) of all accepted variants of the given problems."""
        count_P, number_V = self._numbers(problem_ids)
        return Deltas(np.repeat(np.arange(len(count_P)), count_P), self._figures[0, number_V])

    def _numbers(self, problem_ids: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (P,) the number of variants of each problem, and (V,) the row numbers of all these variants."""
        # A problem without variants gets the index after the last problem.
        none = len(self._first) - 1
        place_P = np.array([self._places.get(name, none) for name in problem_ids], np.int64)
        first_P = self._first[place_P]
        count_P = self._first[np.minimum(place_P + 1, none)] - first_P
        before_P = np.cumsum(count_P) - count_P
        return count_P, np.arange(count_P.sum()) + np.repeat(first_P - before_P, count_P)

    def texts(self, numbers: Sequence[int]) -> dict[int, VariantText]:
        """Return the texts of variants, by their numbers (`AcceptedVariant.number`)."""
        distinct = sorted(set(numbers))
        columns = self._texts.take(pa.array(distinct, pa.int64())).to_pydict()
        return {
            number: VariantText(text, tuple(hint), recipe)
            for number, text, hint, recipe in zip(distinct, *columns.values(), strict=True)
        }

    def labels(self) -> dict[str, float]:
        """Return the difficulty of each problem that the store's label model has labelled, by problem_id."""
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
_FIGURES = ("delta", "pass_rate", "steps_left", "share_left")
_PROBLEMS = "SELECT problem_id, min(variant_no) FROM accepted GROUP BY problem_id ORDER BY 2"


def load_snapshot(engine: Engine, catalogue: Catalogue, variant_parts: Sequence[str]) -> Snapshot:
    """Read the accepted variants of the named parts, and the labels, into memory.

    Args:
        engine: the store's engine.
        catalogue: lists the store's parts.
        variant_parts: names under which the parts were first written. If a part was merged since, its rows are read
            from the merged part.

    Raises:
        StoreError: a part is damaged or missing, or an accepted variant has no difficulty offset.
    """
    names = frozenset(variant_parts)
    wanted = catalogue.holding(Variant.table, names)
    with (
        engine.connect(query=_LOAD, schema="store", variant_parts=(wanted, names)) as connection,
        engine.naming_damage(_LOAD),
    ):
        connection.execute(_LOAD)
        connection.execute(MONOTONE)
        problems = connection.sql(_PROBLEMS).to_arrow_table()
        variants, texts = (
            connection.sql(f"SELECT {columns} FROM accepted ORDER BY variant_no")
            .to_arrow_table()
            .combine_chunks()
            for columns in (
                f"variant_id, kind, {', '.join(_FIGURES)}",
                "text, hint, recipe",
            )
        )
        labels = dict(connection.execute("SELECT problem_id, difficulty FROM original_labels").fetchall())
    if without := variants["delta"].null_count:
        first = variants["variant_id"].filter(variants["delta"].is_null())[0]
        raise StoreError(
            f"{without:,} accepted variants have no difficulty offset, {first} for one: write them again with a "
            "`delta_designed`, in levels"
        )
    ids, firsts = problems.columns
    kinds = variants["kind"].combine_chunks().dictionary_encode()
    return Snapshot(
        list(variant_parts),
        time.monotonic(),
        problems.num_rows,
        variants.num_rows,
        {problem_id: place for place, problem_id in enumerate(ids.to_pylist())},
        np.append(firsts.to_numpy(), variants.num_rows).astype(np.int64),
        variants["variant_id"].combine_chunks(),
        np.array(kinds.dictionary.to_pylist(), object)[kinds.indices.to_numpy()],
        np.array([variants[name].cast(pa.float64()).to_numpy() for name in _FIGURES]),
        texts,
        labels,
    )
