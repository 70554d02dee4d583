"""The accepted variants of some problems as arrays. The store provides them, and selectors choose from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.difficulty.scale import FloatArray


class AcceptedVariant(NamedTuple):
    """The properties of an accepted variant that selectors use.

    Attributes:
        number: number by which `Snapshot.texts` finds its text.
        variant_id: id of the variant.
        kind: one of `reword harder think_step image image_text composite`.
        delta: the offset in use, in levels. Among image variants of a problem with the same operations, it never falls
            as the strength grows.
        pass_rate: pass rate of its label by the store's label model; None without a label.
        steps_left: number of steps of the worked solution that its hint does not give; None without a hint.
        share_left: `steps_left` divided by the number of all steps; 1 without a hint.
    """

    number: int
    variant_id: str
    kind: str
    delta: float
    pass_rate: float | None = None
    steps_left: int | None = None
    share_left: float = 1.0


@dataclass(frozen=True, slots=True)
class AcceptedVariants:
    """The V accepted variants of P problems, as arrays with one row for each variant.

    The rows of a problem are adjacent, in the order of variant_id.

    Attributes:
        count_P: (P,) number of variants of each problem.
        number_V, variant_id_V, kind_V, delta_V, share_left_V: (V,) the attributes of `AcceptedVariant`; ids and kinds
            are arrays of objects.
        pass_rate_V, steps_left_V: (V,) these attributes of `AcceptedVariant`, with NaN for None.
    """

    count_P: npt.NDArray[np.int64]
    number_V: npt.NDArray[np.int64]
    variant_id_V: npt.NDArray[np.object_]
    kind_V: npt.NDArray[np.object_]
    delta_V: FloatArray
    pass_rate_V: FloatArray
    steps_left_V: FloatArray
    share_left_V: FloatArray

    @classmethod
    def of(cls, variants: Sequence[Sequence[AcceptedVariant]]) -> AcceptedVariants:
        """Convert variants to arrays.

        Args:
            variants: for each problem, its variants in the order of variant_id.
        """
        rows = [variant for of_problem in variants for variant in of_problem]
        number, variant_id, kind, *figures = zip(*rows, strict=True) if rows else [()] * 7
        return cls(
            np.array([len(of_problem) for of_problem in variants], np.int64),
            np.array(number, np.int64),
            np.array(variant_id, object),
            np.array(kind, object),
            *(np.array(figure, np.float64) for figure in figures),
        )

    @property
    def owner_V(self) -> npt.NDArray[np.int64]:
        """(V,) index of each variant's problem, from 0 to P - 1."""
        return np.repeat(np.arange(len(self.count_P)), self.count_P)

    @property
    def place_V(self) -> npt.NDArray[np.int64]:
        """(V,) index of each variant among the variants of its problem, from 0."""
        return np.arange(self.count_P.sum()) - np.repeat(np.cumsum(self.count_P) - self.count_P, self.count_P)

    def where(self, keep_V: npt.NDArray[np.bool_]) -> AcceptedVariants:
        """Return only the variants for which `keep_V` (V,) is true, for the same P problems."""
        count_P = np.bincount(self.owner_V[keep_V], minlength=len(self.count_P))
        columns = (getattr(self, field.name)[keep_V] for field in fields(self) if field.name != "count_P")
        return AcceptedVariants(count_P, *columns)

    def rows(self, row_C: npt.NDArray[np.int64] | None = None) -> list[AcceptedVariant]:
        """Return variants as tuples.

        Args:
            row_C: (C,) rows of the variants; default all rows.
        """
        rows = np.arange(len(self.number_V)) if row_C is None else row_C
        return list(
            map(
                AcceptedVariant,
                self.number_V[rows].tolist(),
                self.variant_id_V[rows].tolist(),
                self.kind_V[rows].tolist(),
                self.delta_V[rows].tolist(),
                [None if math.isnan(rate) else rate for rate in self.pass_rate_V[rows].tolist()],
                [None if math.isnan(left) else int(left) for left in self.steps_left_V[rows].tolist()],
                self.share_left_V[rows].tolist(),
            )
        )
