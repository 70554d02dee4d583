"""How much a run may spend, and whether it uses the Batch API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import Budget
from diva_grpo.schemas.config import BATCH_SIZE, FlowConfig, TeacherConfig


@dataclass(frozen=True, slots=True)
class Spending:
    """Budget of a run, and its use of the Batch API.

    Attributes:
        max_cost: dollars that may be spent; None for no limit.
        batch: whether to use the Batch API.
        batch_size: largest number of requests that wait for the Batch API at once.
        strict: whether the cost of requests in flight, too, must stay within the limit.
    """

    max_cost: float | None = None
    batch: bool = False
    batch_size: int = BATCH_SIZE
    strict: bool = False

    @classmethod
    def of(cls, config: FlowConfig) -> Self:
        """The settings of a flow. `strict` is off with the Batch API, which always reserves the largest cost."""
        strict = config.strict_budget and not config.batch
        return cls(config.max_cost, config.batch, config.batch_size, strict)

    def meter(self, unit: str, stage: str = "", total: int | None = None) -> Meter:
        """A meter with this budget; for the arguments see `Meter`."""
        return Meter(unit, total, Budget(self.max_cost, strict=self.strict), stage)

    def session(
        self,
        store: VariantStore,
        meter: Meter | None,
        teacher: TeacherConfig | None,
        solver: TeacherConfig | None = None,
        began_ns: int | None = None,
    ) -> Session:
        """A session with these settings; for the other arguments see `Session`.

        Args:
            store: see `Session`.
            meter: the meter to use; it brings its own budget. None makes one with this budget.
            teacher: see `Session`.
            solver: see `Session`.
            began_ns: see `Session`.

        Raises:
            ConfigError: the budget is limited and the price of a model is unknown, or a price table is unreadable.
        """
        return Session(
            store,
            teacher,
            solver=solver,
            meter=meter or self.meter("problems"),
            batch=self.batch_size if self.batch else None,
            began_ns=began_ns,
        )
