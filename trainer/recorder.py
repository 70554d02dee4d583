"""Rollouts and difficulty events on their way to the store, appended in batches by one process."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.store import VariantStore
from schemas.records import Attempt, DifficultyEvent, Rollout


class Recorder:
    """Keeps records until `flush`.

    Args:
        store: where they go; None keeps nothing (all processes but the main one).
        run_id: of the training run.
        flush_steps: steps after which `maybe_flush` writes.
    """

    def __init__(self, store: VariantStore | None, run_id: str, flush_steps: int) -> None:
        self._store, self.run_id, self._flush_steps = store, run_id, flush_steps
        self.attempt = 0
        self._rollouts: list[Rollout] = []
        self._events: list[DifficultyEvent] = []
        self._flushed_at = 0

    @property
    def active(self) -> bool:
        """Whether records are kept by this process."""
        return self._store is not None

    def start_attempt(self, resumed_step: int) -> None:
        """Note a start or a resume: rows of earlier attempts from this step on are superseded."""
        self._flushed_at = resumed_step
        if self._store is not None:
            [(last,)] = self._store.query(
                "SELECT coalesce(max(attempt), -1) FROM attempts WHERE run_id = ?", [self.run_id]
            )
            self.attempt = last + 1
            self._store.append([Attempt(run_id=self.run_id, attempt=self.attempt, resumed_step=resumed_step)])

    def add(self, rollouts: Sequence[Rollout], events: Sequence[DifficultyEvent]) -> None:
        """Keep records for the next flush."""
        self._rollouts += rollouts
        self._events += events

    def maybe_flush(self, step: int) -> None:
        """Write, if `flush_steps` have passed since the last time."""
        if step - self._flushed_at >= self._flush_steps:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Write what there is."""
        self._flushed_at = step
        if self._store is not None:
            self._store.append(self._rollouts)
            self._store.append(self._events)
            self._rollouts, self._events = [], []
