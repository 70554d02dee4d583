"""What a run may spend, and whether it asks its teacher by the Batch API."""

from __future__ import annotations

from dataclasses import dataclass

from diva_grpo.pipeline.session import work
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import Purse
from diva_grpo.pipeline.teacher.wire.batch import exchange
from diva_grpo.schemas.config import BATCH_SIZE, TeacherConfig


@dataclass(frozen=True, slots=True)
class Spending:
    """How a run pays for its requests.

    Attributes:
        max_cost: dollars that may be spent; None for any.
        batch: use the Batch API.
        batch_size: requests that wait for it at once.
    """

    max_cost: float | None = None
    batch: bool = False
    batch_size: int = BATCH_SIZE

    @property
    def shard_size(self) -> int:
        """Problems whose records are written together."""
        return exchange.SHARD_SIZE if self.batch else work.SHARD_SIZE

    def meter(self, unit: str, total: int | None = None) -> Meter:
        """Counts of a run that spends so."""
        return Meter(unit, total, Purse(self.max_cost))

    def teacher(self, config: TeacherConfig, meter: Meter) -> work.TeacherRun:
        """A teacher that is paid so.

        Raises:
            ConfigError: there is a limit in dollars, and no price of the model.
        """
        connect = exchange.by_batch(meter, self.batch_size) if self.batch else work.live
        return work.TeacherRun(config, meter, connect)
