"""A run on a plain dataset diagnoses itself: real steps, each with one thing wrong, and one with nothing wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from diva_grpo import DivaGRPOConfig, DivaGRPOTrainer
from diva_grpo.pipeline.diagnosis.rules import RULES, Cause
from diva_grpo.pipeline.diagnosis.text import as_text
from diva_grpo.trainer import diagnosis
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.rewards import accuracy_reward
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_training import SETTINGS

TITLES = {rule.cause: rule.title for rule in RULES}
ROWS = [{"prompt": f"{i} + 3 = ?\n", "answer": str(i + 3)} for i in range(8)]
HINTED = [
    {**row, "variants": [{"prompt": f"Hint: {row['prompt']}", "kind": "think_step", "delta": -3.0}]}
    for row in ROWS
]


def never_right(completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


def copied(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [float("Hint" in prompt) for prompt in prompts]


def ever_better(completions: list[str], trainer_state: Any, **columns: Any) -> list[float]:
    """A right answer in 3 of 10 rollouts at first, and in 7 of 10 at the end."""
    time = trainer_state.global_step / trainer_state.max_steps
    draws = [sum(text.encode()) * 37 + 11 * place for place, text in enumerate(completions)]
    return [float(draw % 10 < 3 + 4 * time) for draw in draws]


def trainer(model: Path, folder: Path, reward: Any, rows: list[dict[str, Any]] = ROWS, **options: Any) -> Any:
    """Its completions are of two characters, so that most of them end within six tokens."""
    characters = AutoTokenizer.from_pretrained(model)(";!")["input_ids"]
    others = [number for number in range(258) if number not in (1, *characters)]
    settings = {
        **{name: value for name, value in SETTINGS.items() if name != "accuracy_from"},
        "generation_kwargs": {"suppress_tokens": others},
        "store_flush_steps": 4,
        "max_steps": 12,
        **options,
    }
    args = DivaGRPOConfig(output_dir=str(folder), **settings)
    return DivaGRPOTrainer(str(model), reward, args, Dataset.from_list(rows))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(diagnosis, "SHARE_OF_TIME", 1e9)
    caplog.set_level(logging.INFO, logger=diagnosis.__name__)


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    of_ours = [record for record in caplog.records if record.name == diagnosis.__name__]
    return [record.getMessage() for record in of_ours if record.levelno == level]


def causes(trained: Any) -> set[Cause]:
    return {finding.rule.cause for finding in trained.diagnosis.findings}


def test_what_is_never_right_is_a_warning_once_and_a_summary(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = trainer(model_path, tmp_path, never_right)
    before = trained.diagnosis
    assert before is None
    trained.train()
    *warnings, summary = said(caplog, logging.WARNING)
    # Each at the first records that show it: the last third of them must have eight groups to be called all wrong.
    at = {Cause.CONSTANT_REWARD: 5, Cause.NOT_LEARNT: 5, Cause.ALL_WRONG: 9}
    assert sorted(line.split(": ")[:2] for line in warnings) == sorted(
        [f"step {step}", TITLES[cause]] for cause, step in at.items()
    )
    assert causes(trained) == set(at)
    assert summary.startswith("The run: 12 steps with 192 rollouts in 48 groups, 100% of them silent\n")
    assert summary.endswith(f"Found: {'; '.join(f.rule.title for f in trained.diagnosis.findings)}.")
    assert f"[{Cause.ALL_WRONG}]" in as_text(trained.diagnosis)


def test_hints_of_the_dataset_that_are_copied(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = trainer(model_path, tmp_path, copied, HINTED, max_steps=24, store_flush_steps=12)
    trained.train()
    assert Cause.COPYING in causes(trained)
    assert [TITLES[Cause.COPYING] in line for line in said(caplog, logging.WARNING)].count(True) == 2, (
        "and summary"
    )


def test_answers_that_our_grader_does_not_find(model_path: Path, tmp_path: Path) -> None:
    trained = trainer(model_path, tmp_path, accuracy_reward)
    trained.train()
    assert {Cause.NO_ANSWER, Cause.CONSTANT_REWARD} <= causes(trained)
    assert Cause.ALL_WRONG not in causes(trained)


def test_a_run_that_learns_has_no_warning_and_goes_on_where_it_was_resumed(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 6}
    whole = trainer(model_path, tmp_path, ever_better, **options)
    whole.train()
    assert said(caplog, logging.WARNING) == []
    [summary] = said(caplog, logging.INFO)
    assert "accuracy on originals without hints: 0." in summary
    resumed = trainer(model_path, tmp_path, ever_better, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed.diagnosis.facts.groups == whole.diagnosis.facts.groups
    assert resumed.diagnosis.facts.step_count() == 12
    resumed.train()
    assert resumed.diagnosis.facts.step_count() == 12, "another run begins"


def test_a_summary_with_a_store_names_the_command(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = planted_store(tmp_path / "store", problems=8)
    data = problems_dataset(store.problems(), PromptBuilder(chat=False))
    settings = {name: value for name, value in SETTINGS.items() if name != "accuracy_from"}
    args = DivaGRPOConfig(output_dir=str(tmp_path / "out"), **{**settings, "max_steps": 2})
    trained = DivaGRPOTrainer(str(model_path), never_right, args, data, store=store)
    trained.train()
    assert Cause.NOT_LEARNT in causes(trained)
    [(run_id,)] = store.query("SELECT run_id FROM runs")
    summary = said(caplog, logging.WARNING)[-1]
    assert summary.startswith(f"Run {run_id}: 2 steps with 32 rollouts")
    assert summary.endswith("`diva diagnose` shows rollouts, and says what to do.")
