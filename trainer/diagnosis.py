"""Diagnoses a training run while it is running, from its records so far, and logs each finding as a warning."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from diva_grpo.pipeline.diagnosis.diagnose import Diagnosis, diagnose, read_facts
from diva_grpo.pipeline.diagnosis.facts import Facts
from diva_grpo.pipeline.diagnosis.in_memory import FactsInMemory
from diva_grpo.pipeline.diagnosis.rules import Cause, find
from diva_grpo.pipeline.diagnosis.text import summary
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import QueryError, StoreError
from diva_grpo.trainer.recorder import Recorder

T = TypeVar("T")
logger = logging.getLogger(__name__)

SHARE_OF_TIME = 0.01
"""Largest share of a run's time that its diagnoses may take."""


class DiagnosisCallback(TrainerCallback):
    """Diagnoses a run whenever its records were flushed, and at its end. Each cause is logged only once in a run.

    Args:
        source: where the recorder puts the records: a store, or the facts in memory.
        recorder: the recorder of the run.
        summarise: whether a summary is logged at the end: as a warning if something was found, else as information.

    Attributes:
        last: the latest diagnosis, without examples; None if there is none.
    """

    def __init__(
        self, source: VariantStore | FactsInMemory, recorder: Recorder, *, summarise: bool = False
    ) -> None:
        self._source, self._recorder, self._summarise = source, recorder, summarise
        self._warned: set[Cause] = set()
        self._flushed_at = 0
        self._not_before = 0.0
        self.last: Diagnosis | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Forget the run before."""
        self._warned, self.last = set(), None
        self._flushed_at = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Diagnose the run if records were flushed since the last diagnosis, and `SHARE_OF_TIME` allows it."""
        if self._recorder.flushed_at > self._flushed_at and time.monotonic() >= self._not_before:
            self._diagnose(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Diagnose the run at its end."""
        self._diagnose(state.global_step)
        if self._summarise and self.last:
            logger.log(logging.WARNING if self.last.findings else logging.INFO, "%s", summary(self.last))

    def _diagnose(self, step: int) -> None:
        began = time.monotonic()
        self._flushed_at = self._recorder.flushed_at
        facts = _or_warned(lambda: facts_of(self._source, self._recorder.run_id))
        findings = find(facts) if facts else []
        run_id = self._recorder.run_id
        self.last = Diagnosis(run_id, facts, findings, [[]] * len(findings)) if facts else None
        for finding in findings:
            rule = finding.rule
            if rule.cause not in self._warned:
                self._warned.add(rule.cause)
                logger.warning("step %d: %s: %s. %s", step, rule.title, finding.evidence, rule.to_do)
        now = time.monotonic()
        self._not_before = now + (now - began) / SHARE_OF_TIME


def facts_of(source: VariantStore | FactsInMemory, run_id: str) -> Facts:
    """Return the facts of a run so far.

    Raises:
        QueryError: a query takes too long.
        StoreError: a part file of the store is damaged.
    """
    return source.facts() if isinstance(source, FactsInMemory) else read_facts(source, run_id)


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
