"""What a run may spend, and whether it asks by the Batch API."""

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
    """How a run pays for its requests.

    Attributes:
        max_cost: dollars that may be spent; None for any.
        batch: use the Batch API.
        batch_size: requests that wait for it at once.
        strict: never overspend, whatever the requests in flight may still cost.
    """

    max_cost: float | None = None
    batch: bool = False
    batch_size: int = BATCH_SIZE
    strict: bool = False

    @classmethod
    def of(cls, config: FlowConfig) -> Self:
        """That of a flow. A batch never overspends by itself."""
        strict = config.strict_budget and not config.batch
        return cls(config.max_cost, config.batch, config.batch_size, strict)

    def meter(self, unit: str, stage: str = "", total: int | None = None) -> Meter:
        """Counts of a run that spends so; see `Meter`."""
        return Meter(unit, total, Budget(self.max_cost, strict=self.strict), stage)

    def session(
        self,
        store: VariantStore,
        meter: Meter | None,
        teacher: TeacherConfig | None,
        solver: TeacherConfig | None = None,
        began_ns: int | None = None,
    ) -> Session:
        """A session that is paid so.

        Raises:
            ConfigError: there is a limit in dollars, and no price of a model.
        """
        return Session(
            store,
            teacher,
            solver=solver,
            meter=meter or self.meter("problems"),
            batch=self.batch_size if self.batch else None,
            began_ns=began_ns,
        )
