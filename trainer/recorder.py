"""`Recorder` collects the records of a training run and writes them in batches, from the main process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from diva_grpo.pipeline.diagnosis.in_memory import FactsInMemory
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Attempt, DifficultyEvent, Prompt, Record, Rollout, TrainStep


class Recorder:
    """Keeps records until `flush` appends them to the store, or to the facts in memory if the run has no store.

    Args:
        target: the store, or the facts; None writes nothing (for all processes except the main one).
        run_id: id of the training run.
        flush_steps: number of steps after which `maybe_flush` writes.

    Attributes:
        attempt: number of the present start or resume of the run, from 0.
        flushed_at: step of the last flush.
    """

    def __init__(self, target: VariantStore | FactsInMemory | None, run_id: str, flush_steps: int) -> None:
        self._target, self.run_id, self._flush_steps = target, run_id, flush_steps
        self.attempt = 0
        self._waiting: defaultdict[type[Record], list[Mapping[str, Any]]] = defaultdict(list)
        self.flushed_at = 0

    @property
    def active(self) -> bool:
        """Whether this process writes records."""
        return self._target is not None

    def start_attempt(self, resumed_step: int) -> None:
        """Record that the run starts or resumes at a step.

        Rows that earlier attempts wrote for this step and later ones are superseded. Facts in memory need no attempts:
        a checkpoint holds those of the steps before it.
        """
        self.flushed_at = resumed_step
        if isinstance(self._target, VariantStore):
            [(last,)] = self._target.query(
                "SELECT coalesce(max(attempt), -1) FROM attempts WHERE run_id = ?", [self.run_id]
            )
            self.attempt = last + 1
            self._target.append(
                [Attempt(run_id=self.run_id, attempt=self.attempt, resumed_step=resumed_step)]
            )

    def add(
        self,
        record: type[Rollout] | type[Prompt] | type[DifficultyEvent] | type[TrainStep],
        step: int,
        columns: Mapping[str, Any],
    ) -> None:
        """Keep rows for the next flush.

        Args:
            record: record type of the rows.
            step: training step.
            columns: the rows by column. `run_id`, `step` and `attempt` are added, if the record type has them.
        """
        shared = {"run_id": self.run_id, "step": step, "attempt": self.attempt}
        own = {name: value for name, value in shared.items() if name in record.model_fields}
        self._waiting[record].append({**columns, **own})

    def maybe_flush(self, step: int) -> None:
        """Flush if at least `flush_steps` steps have passed since the last flush."""
        if step - self.flushed_at >= self._flush_steps:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Append all kept records."""
        self.flushed_at = step
        if self._target is not None:
            for record, batches in self._waiting.items():
                self._target.append_columns(record, batches)
        self._waiting.clear()


class RecorderCallback(TrainerCallback):
    """Starts an attempt when training starts or resumes, and flushes the recorder when training ends."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start an attempt."""
        self._recorder.start_attempt(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Flush the recorder."""
        self._recorder.flush(state.global_step)
