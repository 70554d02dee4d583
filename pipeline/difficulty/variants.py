"""The accepted variants of some problems as arrays: what the store gives a selection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.difficulty.scale import FloatArray


class AcceptedVariant(NamedTuple):
    """What a selection needs to know of an accepted variant.

    Attributes:
        number: by which its source finds its text.
        variant_id: its id.
        kind: one of `reword harder think_step image image_text composite`.
        delta: difficulty offset in use, in levels; of one family of image operations, never smaller for a larger
            strength.
        pass_rate: of its label by the store's label model; None without one.
        steps_left: steps of the worked solution that its hint leaves to do; None without a hint.
        share_left: the same as a share of all steps; 1 without a hint.
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
    """Of P problems: V rows in all, those of a problem next to each other in the order of variant_id.

    Attributes:
        count_P: (P,) number of variants of each problem.
        number_V, variant_id_V, kind_V, delta_V, share_left_V: (V,) columns of `AcceptedVariant`; ids and kinds are
            arrays of objects.
        pass_rate_V, steps_left_V: (V,) the same, with NaN for None.
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
        """The arrays of given variants, a sequence for each problem in the order of variant_id."""
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
        """(V,) place of each variant's problem among the P."""
        return np.repeat(np.arange(len(self.count_P)), self.count_P)

    @property
    def place_V(self) -> npt.NDArray[np.int64]:
        """(V,) place of each variant among those of its problem, from 0."""
        return np.arange(self.count_P.sum()) - np.repeat(np.cumsum(self.count_P) - self.count_P, self.count_P)

    def where(self, keep_V: npt.NDArray[np.bool_]) -> AcceptedVariants:
        """Those of the V rows that are kept."""
        count_P = np.bincount(self.owner_V[keep_V], minlength=len(self.count_P))
        columns = (getattr(self, field.name)[keep_V] for field in fields(self) if field.name != "count_P")
        return AcceptedVariants(count_P, *columns)

    def rows(self, row_C: npt.NDArray[np.int64] | None = None) -> list[AcceptedVariant]:
        """The variants in some of the V rows, by default in all."""
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
