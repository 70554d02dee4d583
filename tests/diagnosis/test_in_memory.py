"""The facts of a run without a store: those that a store would give, in memory that does not grow with the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pytest

from diva_grpo.pipeline.diagnosis import in_memory
from diva_grpo.pipeline.diagnosis.diagnose import Diagnosis, read_facts
from diva_grpo.pipeline.diagnosis.in_memory import FactsInMemory
from diva_grpo.pipeline.diagnosis.rules import Cause, find
from diva_grpo.pipeline.diagnosis.text import as_text, summary
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import DifficultyEvent, Record, Rollout, TrainStep
from tests.diagnosis.test_planted_runs import CONSEQUENCES, PLANTED
from tests.support.planted_runs import HINTS, RUN, STEPS, Policy, plant, planted

KINDS = dict.fromkeys(HINTS, "think_step")


def columns(rows: Sequence[Record]) -> Mapping[str, Any]:
    return {name: [getattr(row, name) for row in rows] for name in type(rows[0]).model_fields}


def kept(
    policy: Policy, *, flush_steps: int = 25, seed: int = 0, max_steps: int = in_memory.MAX_STEPS
) -> FactsInMemory:
    """The facts of a planted run whose records come in several flushes."""
    rollouts, steps = planted(policy, seed=seed)
    facts = FactsInMemory(KINDS, max_steps)
    for first in range(0, STEPS, flush_steps):
        flushed = range(first, first + flush_steps)
        for record, rows in ((Rollout, rollouts), (TrainStep, steps)):
            facts.append_columns(record, [columns([row for row in rows if row.step in flushed])])
    return facts


@pytest.mark.parametrize(
    "policy", [Policy(format_reward=lambda time: 0.5), Policy(unjudged=0.3), Policy(truncated=0.5)]
)
def test_they_are_those_of_a_store(policy: Policy, tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    plant(store, policy)
    of_store, in_memory_ = read_facts(store, RUN), kept(policy).facts()
    for name in ("groups", "gradients", "functions", "graded"):
        ours, theirs = ([asdict(row) for row in getattr(facts, name)] for facts in (in_memory_, of_store))
        assert len(ours) == len(theirs) > 0
        for mine, other in zip(ours, theirs, strict=True):
            assert mine == pytest.approx(other)


@pytest.mark.parametrize(("cause", "policy"), PLANTED, ids=[cause for cause, _ in PLANTED])
def test_a_planted_run_is_called_by_its_cause(cause: Cause, policy: Policy) -> None:
    """Also where steps are merged; the store's own test has them apart."""
    found = {finding.rule.cause for finding in find(kept(policy, max_steps=12).facts())}
    assert found - CONSEQUENCES.get(cause, set()) == {cause}


@pytest.mark.parametrize("max_steps", [STEPS, 12])
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_learns_is_not_called_anything(seed: int, max_steps: int) -> None:
    policy = Policy(format_reward=lambda time: 0.5 + 0.3 * time)
    facts = kept(policy, seed=seed, max_steps=max_steps).facts()
    found = Diagnosis("", facts, find(facts), [])
    assert found.findings == []
    text = summary(found)
    assert text.startswith(f"The run: {STEPS} steps with 3,840 rollouts in 480 groups, ")
    assert "diva diagnose" not in text
    assert "Nothing was found" in as_text(found)


def test_merged_steps_keep_all_counts_and_means() -> None:
    policy = Policy(unjudged=0.2, truncated=0.3)
    apart, merged = kept(policy).facts(), kept(policy, max_steps=8).facts()
    assert len(apart.steps()) == STEPS
    assert merged.steps() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert merged.step_count() == apart.step_count() == sum(row.steps for row in merged.gradients) == STEPS
    for name in ("groups", "rollouts", "unjudged", "truncated_not_right", "silent", "graded"):
        assert sum(getattr(row, name) for row in merged.groups) == sum(
            getattr(row, name) for row in apart.groups
        )
    for prompt in ("original", "hinted"):
        early = [row for row in apart.groups if row.prompt == prompt and row.step < 8]
        first = next(row for row in merged.groups if row.prompt == prompt)
        means = [row.accuracy for row in early for _ in range(row.judged_groups) if row.accuracy is not None]
        mean = sum(means) / len(means)
        assert first.accuracy == pytest.approx(mean)
        within = sum(
            row.judged_groups * (row.accuracy_variance + (row.accuracy or 0.0) ** 2) for row in early
        )
        assert first.accuracy_variance == pytest.approx(within / len(means) - mean**2)
    assert merged.gradients[0].entropy == pytest.approx(
        sum(g.entropy or 0.0 for g in apart.gradients[:8]) / 8
    )


def test_a_step_that_generates_twice_counts_once() -> None:
    rollouts, _ = planted(Policy())
    facts = FactsInMemory(KINDS)
    of_step = [row for row in rollouts if row.step == 0]
    for rows in (of_step[:16], of_step[16:]):
        facts.append_columns(Rollout, [columns(rows)])
    assert facts.facts().step_count() == 1
    assert sum(row.rollouts for row in facts.facts().groups) == len(of_step)


def test_a_checkpoint_holds_them(tmp_path: Path) -> None:
    whole = kept(Policy(format_reward=lambda time: 0.5), max_steps=12)
    again = FactsInMemory(KINDS, 12)
    again.append_columns(Rollout, [columns(planted(Policy(), seed=5)[0])])
    again.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert again.facts() == whole.facts()
    again.clear()
    assert again.facts().steps() == []


def test_other_records_are_left_out() -> None:
    facts = FactsInMemory({})
    facts.append_columns(DifficultyEvent, [{"problem_id": ["a"]}])
    facts.append_columns(Rollout, [])
    assert facts.facts().groups == []


def test_a_failure_of_duckdb_does_not_end_a_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small() -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        connection.execute("SET memory_limit = '1kB'")
        return connection

    monkeypatch.setattr(in_memory, "open_database", small)
    with caplog.at_level(logging.WARNING):
        facts = kept(Policy(), flush_steps=STEPS).facts()
    assert facts.groups == []
    assert "the diagnosis of the run leaves out 3840 records: Out of Memory Error" in caplog.text
