"""Runs with one thing wrong: each is called by its cause, and one that learns is not called anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from diva_grpo.pipeline.diagnosis.diagnose import diagnose, training_run
from diva_grpo.pipeline.diagnosis.rules import RULES, Cause
from diva_grpo.pipeline.diagnosis.text import as_json, as_text, summary
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Evaluation
from tests.support.planted_runs import RUN, Policy, plant

# The run of the method's paper that was seen: 0.95 to 1.0 right on prompts with the full solution, 0.0 on originals,
# and a logged reward that rises to 0.45.
COPYING = Policy(right=lambda time: 0.0, with_hint=lambda time: 0.45 + 0.55 * min(1.0, 2 * time))

PLANTED: list[tuple[Cause, Policy]] = [
    (Cause.UNJUDGED, Policy(unjudged=0.3)),
    (Cause.TRUNCATED, Policy(truncated=0.5)),
    (Cause.NO_ANSWER, Policy(no_answer=0.4)),
    (Cause.CONSTANT_REWARD, Policy(format_reward=lambda time: 0.0)),
    (Cause.ALL_WRONG, Policy(right=lambda time: 0.001, with_hint=lambda time: 0.02)),
    (Cause.ALL_RIGHT, Policy(right=lambda time: 0.995, with_hint=lambda time: 0.995, truncated=0.0, no_answer=0.0)),
    (Cause.COPYING, COPYING),
    (Cause.OTHER_REWARD, Policy(lambda time: 0.1, lambda time: 0.2, format_reward=lambda time: time)),
    (Cause.ENTROPY, Policy(lambda time: 0.3 + 0.1 * time, entropy=lambda time: 0.5 * 0.001**time)),
    (Cause.LENGTH, Policy(lambda time: 0.3 - 0.2 * time, tokens=lambda time: 80 * 0.05**time)),
    (Cause.NOT_LEARNT, Policy(lambda time: 0.02, lambda time: 0.3)),
]  # fmt: skip
# What follows from a cause is found too.
CONSEQUENCES = {
    Cause.ALL_WRONG: {Cause.NOT_LEARNT},
    Cause.LENGTH: {Cause.NOT_LEARNT},
}


@pytest.fixture
def store(tmp_path: Path) -> VariantStore:
    return VariantStore(tmp_path / "store", create=True)


@pytest.mark.parametrize(("cause", "policy"), PLANTED, ids=[cause for cause, _ in PLANTED])
def test_a_planted_run_is_called_by_its_cause(store: VariantStore, cause: Cause, policy: Policy) -> None:
    plant(store, policy)
    found = diagnose(store, RUN)
    causes = {finding.rule.cause for finding in found.findings}
    assert causes - CONSEQUENCES.get(cause, set()) == {cause}
    first = next(i for i, finding in enumerate(found.findings) if finding.rule.cause == cause)
    assert len({row["problem_id"] for row in found.examples[first]}) == 3
    assert all(row["completion"] for row in found.examples[first])
    text = as_text(found, 100)
    assert f"[{cause}]" in text
    assert "What to do:" in text
    assert RULES[[rule.cause for rule in RULES].index(cause)].title in summary(found)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_learns_is_not_called_anything(store: VariantStore, seed: int) -> None:
    plant(store, Policy(format_reward=lambda time: 0.5 + 0.3 * time), seed=seed)
    found = diagnose(store, RUN)
    assert found.findings == []
    assert not found.without_gain
    assert "Nothing was found" in as_text(found)


def test_truncated_completions_that_are_right_are_no_finding(store: VariantStore) -> None:
    plant(store, Policy(truncated_right=True))
    assert store.query("SELECT avg((finish = 'truncated')::INTEGER) > 0.5 FROM rollouts") == [(True,)]
    assert diagnose(store, RUN).findings == []


def test_every_cause_has_a_planted_run() -> None:
    assert (
        {cause for cause, _ in PLANTED} | {Cause.UNKNOWN_PROBLEMS}
        == {rule.cause for rule in RULES}
        == set(Cause)
    )


def test_problems_that_the_store_does_not_know_are_counted(store: VariantStore) -> None:
    plant(store, Policy(), problem="elsewhere")
    found = diagnose(store, RUN)
    assert [finding.rule.cause for finding in found.findings] == [Cause.UNKNOWN_PROBLEMS]
    assert found.findings[0].evidence.startswith("16 problems with 3,840 rollouts are not in the store")


def test_copying_says_both_accuracies_and_shows_hinted_rollouts(store: VariantStore) -> None:
    plant(store, COPYING)
    [finding] = diagnose(store, RUN).findings
    assert (
        "0.00 in the first third of the steps, 0.00 in the last; reward of all prompts: 0.3"
        in finding.evidence
    )
    [examples] = diagnose(store, RUN).examples
    assert {row["kind"] for row in examples} == {"think_step"}


def test_a_score_on_held_out_problems_that_rises_is_a_gain(store: VariantStore) -> None:
    plant(store, Policy(lambda time: 0.02, lambda time: 0.3))
    store.append([
        Evaluation(run_id=RUN, step=step, split="test", problem_id=f"t/{i}", samples=4, correct=correct + i % 2)
        for step, correct in ((0, 0), (60, 2))
        for i in range(20)
    ])  # fmt: skip
    assert diagnose(store, RUN).findings == []


def test_the_latest_run_is_the_default(store: VariantStore) -> None:
    with pytest.raises(ConfigError, match="no rollouts: `diva train` records them"):
        training_run(store)
    plant(store, Policy(), run_id="train-1")
    plant(store, COPYING, run_id="train-2", seed=1)
    assert training_run(store) == "train-2"
    assert training_run(store, "train-1") == "train-1"
    with pytest.raises(
        ConfigError, match="--run r: the store has no rollouts of it; it has those of train-2, train-1"
    ):
        training_run(store, "r")


def test_a_diagnosis_as_values(store: VariantStore) -> None:
    plant(store, COPYING)
    values = as_json(diagnose(store, RUN))
    assert values["steps"] == 60
    assert values["accuracy_on_originals_without_hints"] == {"first": 0.0, "last": 0.0}
    [finding] = values["findings"]
    assert finding["cause"] == "copying"
    assert len(finding["examples"]) == 3
