"""Warnings of a training run about itself: each cause once, during the run and at its end; real steps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.pipeline.diagnosis.diagnose import diagnose, read_facts
from diva_grpo.pipeline.diagnosis.facts import Facts
from diva_grpo.pipeline.diagnosis.rules import RULES, Cause
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import QueryError
from diva_grpo.trainer import diagnosis
from diva_grpo.trainer.steps import StepRecorder
from tests.support.tiny_training import make_trainer

TITLES = {rule.cause: rule.title for rule in RULES}


def never_right(completions: list[Any], **columns: Any) -> list[float | None]:
    return [0.0] * len(completions)


def trained(sums: VariantStore, model: Path, folder: Path, **settings: Any) -> Any:
    reward = settings.pop("rewards", never_right)
    given = {"accuracy_from": reward.__name__, "store_flush_steps": 4, "max_steps": 12, **settings}
    trainer = make_trainer(sums, model, folder / "out", rewards=reward, **given)
    trainer.add_callback(StepRecorder(trainer.recorder, trainer, reward.__name__))
    trainer.train()
    return trainer


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == diagnosis.__name__]


def test_each_cause_is_a_warning_once_and_during_the_run(
    sums: VariantStore,
    model_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diagnosis, "SHARE_OF_TIME", 1e9)
    with caplog.at_level(logging.WARNING):
        trained(sums, model_path, tmp_path)
    lines = warned(caplog)
    # No completion of six tokens ends, so wrong groups are truncated ones; and the gradient is 0 throughout.
    for cause in (Cause.TRUNCATED, Cause.CONSTANT_REWARD, Cause.NOT_LEARNT):
        [line] = [line for line in lines if TITLES[cause] in line]
        assert line.startswith("step 5: ")
    assert len(lines) == 3
    assert "the gradient was 0 at all 4 steps" in lines[-1]
    found = diagnose(sums, "test")
    assert {finding.rule.cause for finding in found.findings} == {
        Cause.TRUNCATED, Cause.CONSTANT_REWARD, Cause.NOT_LEARNT
    }  # fmt: skip
    assert found.without_gain
    assert all(rows and all(row["completion"] is not None for row in rows) for rows in found.examples)


def test_a_diagnosis_waits_until_it_is_a_small_share_of_the_time(
    sums: VariantStore,
    model_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def counted(store: VariantStore, run_id: str) -> Facts:
        asked.append(run_id)
        return read_facts(store, run_id)

    monkeypatch.setattr(diagnosis, "read_facts", counted)
    monkeypatch.setattr(diagnosis, "SHARE_OF_TIME", 1e-9)
    with caplog.at_level(logging.WARNING):
        trained(sums, model_path, tmp_path)
    assert len(asked) == 2  # at the first flush, and at the end


def test_a_store_that_cannot_be_read_in_time_does_not_end_a_run(
    sums: VariantStore,
    model_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*of: Any) -> None:
        raise QueryError("the query took longer than 30 s")

    monkeypatch.setattr(diagnosis, "read_facts", slow)
    with caplog.at_level(logging.WARNING):
        assert trained(sums, model_path, tmp_path, max_steps=2).state.global_step == 2
    assert warned(caplog) == ["no diagnosis: the query took longer than 30 s"]
