"""Diagnoses a training run while it is running, from its records so far, and logs each finding as a warning."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from diva_grpo.pipeline.diagnosis.diagnose import Diagnosis, diagnose, read_facts
from diva_grpo.pipeline.diagnosis.rules import Cause, find
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import QueryError, StoreError
from diva_grpo.trainer.recorder import Recorder

T = TypeVar("T")
logger = logging.getLogger(__name__)

SHARE_OF_TIME = 0.01
"""Largest share of a run's time that its diagnoses may take."""


class DiagnosisCallback(TrainerCallback):
    """Diagnoses a run after its records were written to the store, and at its end. Each cause is logged only once.

    Args:
        store: the store with the records.
        recorder: the recorder of the run.
    """

    def __init__(self, store: VariantStore, recorder: Recorder) -> None:
        self._store, self._recorder = store, recorder
        self._warned: set[Cause] = set()
        self._flushed_at = 0
        self._not_before = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Diagnose the run if records were written since the last diagnosis, and `SHARE_OF_TIME` allows it."""
        if self._recorder.flushed_at > self._flushed_at and time.monotonic() >= self._not_before:
            self._warn(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Diagnose the run at its end."""
        self._warn(state.global_step)

    def _warn(self, step: int) -> None:
        began = time.monotonic()
        self._flushed_at = self._recorder.flushed_at
        facts = _or_warned(lambda: read_facts(self._store, self._recorder.run_id))
        for finding in find(facts) if facts else ():
            rule = finding.rule
            if rule.cause not in self._warned:
                self._warned.add(rule.cause)
                logger.warning("step %d: %s: %s. %s", step, rule.title, finding.evidence, rule.to_do)
        now = time.monotonic()
        self._not_before = now + (now - began) / SHARE_OF_TIME


def diagnosis_of(store: VariantStore, run_id: str) -> Diagnosis | None:
    """Return the diagnosis of a run; None, with a warning, if the store cannot be read or a query fails."""
    return _or_warned(lambda: diagnose(store, run_id))


def _or_warned(read: Callable[[], T]) -> T | None:
    """Return the result of `read`; None, with a warning, if it fails, because a failed diagnosis must not end a run."""
    try:
        return read()
    except (QueryError, StoreError) as error:
        logger.warning("no diagnosis: %s", error)
        return None
