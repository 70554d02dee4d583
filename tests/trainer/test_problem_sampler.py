"""Problems drawn by live difficulty, in real training steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.schemas.exceptions import ConfigError
from tests.support.tiny_text_model import add_labels, planted_store
from tests.support.tiny_training import loss_inputs, make_trainer, two_processes

EVENTS = "SELECT step, problem_id, chosen, accuracy FROM difficulty_events ORDER BY ALL"


def _mixed(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """Right for one rollout in two of even problems, and for none of odd ones."""
    numbers = [int(re.findall(r"\d+", prompt)[0]) for prompt in prompts]
    return [float(number % 2 == 0 and i % 2 == 0) for i, number in enumerate(numbers)]


_mixed.__name__ = "coin_reward"


@pytest.mark.parametrize("sampler", ["difficulty", "pool"])
def test_problems_that_teach_come_more_often(sampler: str, model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=16)
    trainer: Any = make_trainer(
        store,
        model_path,
        tmp_path / "out",
        rewards=_mixed,
        num_variants=0,
        max_steps=20,
        problem_sampler=sampler,
    )
    prompts: list[str] = []
    inner = trainer._generate

    def spy(asked: list[Any]) -> Any:
        prompts.extend(asked)
        return inner(asked)

    trainer._generate = spy
    trainer.train()
    events = store.query(EVENTS)
    assert len(events) == 20 * 4, "no problem twice in a step"
    # The prompts that TRL answered are those of the problems that were drawn.
    asked = [int(prompts[i].split()[0]) for i in range(0, len(prompts), 4)]
    by_step = [sorted(asked[4 * step : 4 * step + 4]) for step in range(20)]
    assert by_step == [
        sorted(int(problem_id.split("/")[1]) for at, problem_id, *_ in events if at == step)
        for step in range(20)
    ]
    later = [int(problem_id.split("/")[1]) % 2 == 0 for step, problem_id, *_ in events if step >= 6]
    assert sum(later) > 0.65 * len(later)
    assert {chosen for _, _, chosen, _ in events} <= {"signal", "open", "revisit"}
    logged = trainer.state.log_history[-2]
    assert logged["diva/problems/hard"] > 0
    assert logged["diva/problems/easy"] == 0
    assert 0 < logged["diva/problems/signal"] <= 0.25


def test_epoch_order_says_so(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=8)
    trainer = make_trainer(store, model_path, tmp_path / "out", max_steps=4, refill_rounds=1, rewards=_mixed)
    trainer.train()
    assert store.query("SELECT DISTINCT chosen FROM difficulty_events ORDER BY 1") == [
        ("epoch",),
        ("refill",),
    ]
    assert not any("problems/" in name for log in trainer.state.log_history for name in log)


@pytest.mark.parametrize(
    "options",
    [
        {"refill_rounds": 2, "problem_sampler": "difficulty"},
        {"problem_sampler": "pool", "steps_per_generation": 2, "per_device_train_batch_size": 8},
        {"problem_sampler": "difficulty", "gradient_accumulation_steps": 2, "steps_per_generation": 1},
    ],
    ids=str,
)
def test_it_goes_with_other_options(options: dict[str, Any], model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=16)
    trainer = make_trainer(store, model_path, tmp_path / "out", rewards=_mixed, **options)
    seen = loss_inputs(trainer)
    trainer.train()
    assert seen
    rows = store.query("SELECT count(*), count(DISTINCT (step, problem_id, slot, sample)) FROM rollouts")
    assert rows[0][0] == rows[0][1] > 0
    events = store.query("SELECT count(*) FROM difficulty_events")[0][0]
    assert events * 8 == rows[0][0], "each visit is recorded, those of two generations of a step too"


def test_wrong_settings(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    for options, words in (
        ({"problem_sampler": "best"}, "choose one of epoch, difficulty, pool"),
        ({"pool_revisit": 1.5}, "pool_revisit=1.5: from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_trainer(store, model_path, tmp_path / "out", **options)


@pytest.mark.slow
def test_two_processes_draw_the_same_problems(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=16)
    add_labels(store)
    reports = two_processes(store, model_path, tmp_path / "out", problem_sampler="difficulty", max_steps=6)
    assert reports[0]["difficulty"] == reports[1]["difficulty"]
    assert store.query("SELECT count(*), count(DISTINCT (step, problem_id)) FROM difficulty_events") == [
        (12, 12)
    ]
    for step in range(6):
        recorded = [a for (a,) in store.query("SELECT advantage FROM rollouts WHERE step = ?", [step])]
        seen = reports[0]["advantages"][step] + reports[1]["advantages"][step]
        assert sorted(seen) == pytest.approx(sorted(recorded), abs=1e-6)
