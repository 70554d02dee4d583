"""Rollouts with their words: what is stored is what was asked, written and graded; sampled, within a budget."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.pipeline.grade import grade
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Rollout, Variant
from diva_grpo.trainer.rewards import accuracy_reward
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_training import coin_reward, make_trainer

JOINED = """
SELECT r.*, p.prompt, p.opening, p.hint_style FROM rollouts r
JOIN prompts p USING (run_id, problem_id, variant_id) ORDER BY step, problem_id, slot, sample
"""


def rows(store: VariantStore, sql: str) -> list[dict[str, Any]]:
    with store.connect() as connection:
        found: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
    return found


@pytest.mark.parametrize("style", ["prompt", "prefix"])
@pytest.mark.parametrize("chat", [False, True])
def test_what_is_stored_is_what_the_rewards_saw(
    style: str, chat: bool, model_path: Path, chat_model_path: Path, tmp_path: Path
) -> None:
    store = planted_store(tmp_path / "store")
    wordings = [v for v in store.read(Variant) if v.kind == "reword"]
    store.append([v.model_copy(update={"status": "rejected"}) for v in wordings])
    seen: set[tuple[str, str, str]] = set()

    def spy(
        prompts: list[Any], completions: list[Any], problem_id: list[str], **_: Any
    ) -> list[float | None]:
        plain = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        asked = [p if isinstance(p, str) else p[-1]["content"] for p in prompts]
        seen.update(zip(problem_id, asked, plain, strict=True))
        return [None if i % 3 == 0 else float(i % 2) for i in range(len(plain))]

    spy.__name__ = "spy"
    trainer = make_trainer(
        store, chat_model_path if chat else model_path, tmp_path / "out", rewards=[accuracy_reward, spy],
        accuracy_from="accuracy_reward", hint_style=style, reward_max=2.0,
    )  # fmt: skip
    trainer.train()
    stored = rows(store, JOINED)
    assert len(stored) == 4 * 16, "two problems a step: all of them"
    for row in stored:
        text = row["opening"] + row["completion"]
        [question] = {
            asked for problem, asked, plain in seen if (problem, plain) == (row["problem_id"], text)
        }
        assert row["prompt"] == (f"<user>{question}</s><assistant>" if chat else question)
        assert bool(row["opening"]) == (style == "prefix" and row["variant_id"] != "original")
        given = "+ 3 = " in row["opening"] + row["prompt"].replace(" + 3 + 1", "")
        assert given == (row["variant_id"] != "original")
        parts = json.loads(row["reward_parts"])
        judged = [value for value in parts.values() if value is not None]
        assert row["reward"] == (pytest.approx(sum(judged)) if judged else None)
        assert list(parts) == ["accuracy_reward", "spy"]
        number = int(row["problem_id"].rpartition("/")[2])
        assert row["accuracy"] == parts["accuracy_reward"]
        assert (row["graded_outcome"] == "error") == (row["accuracy"] is None)
        assert (row["graded_outcome"] == "correct") == (row["accuracy"] == 1)
        if row["graded_outcome"] != "error":  # on a busy machine a deadline may pass
            found = grade(text, str(number + 4), deadline_s=60)
            expected = found.outcome, found.answer, found.how
            assert (row["graded_outcome"], row["graded_answer"], row["graded_how"]) == expected
        assert row["finish"] == ("truncated" if row["completion_tokens"] == 6 else "ended")
    assert any(row["reward_parts"].count("null") for row in stored)


def test_finish_is_told_from_the_last_token(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    make_trainer(sums, model_path, tmp_path / "out", max_completion_length=60).train()
    lengths = dict(sums.query("SELECT finish, max(completion_tokens) FROM rollouts GROUP BY finish"))
    assert lengths.keys() == {"ended", "truncated"}
    assert sums.query("SELECT min(completion_tokens) FROM rollouts WHERE finish = 'truncated'") == [(60,)]
    assert lengths["ended"] <= 60


@pytest.mark.parametrize(
    ("options", "problems"),
    [({}, 4), ({"log_rollouts": "all"}, 6), ({"log_rollouts": "1"}, 1), ({"log_rollouts": "none"}, 0)],
    ids=str,
)
def test_so_many_problems_of_a_step_are_stored_whole(
    options: dict[str, Any], problems: int, model_path: Path, tmp_path: Path
) -> None:
    store = planted_store(tmp_path / "store", problems=12)
    make_trainer(
        store, model_path, tmp_path / "out", per_device_train_batch_size=48, max_steps=2, **options
    ).train()
    assert store.query("SELECT count(*), count(finish), count(reward_parts) FROM rollouts") == [(96, 96, 96)]
    kept = store.query(
        "SELECT step, problem_id, count(completion), count(*) FROM rollouts GROUP BY ALL HAVING count(completion) > 0"
    )
    assert [(count, whole) for _, _, count, whole in kept] == [(8, 8)] * (2 * problems)
    asked = "SELECT DISTINCT run_id, problem_id, variant_id FROM rollouts WHERE completion IS NOT NULL"
    assert store.query("SELECT count(*) FROM prompts") == store.query(f"SELECT count(*) FROM ({asked})")
    # Other rewards than ours have no grade of ours.
    assert store.query("SELECT count(graded_outcome), count(graded_how) FROM rollouts") == [(0, 0)]


def test_refilled_rollouts_have_their_own_words(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=12)
    said: set[tuple[str, str]] = set()

    def mostly_silent(completions: list[str], problem_id: list[str], **_: Any) -> list[float | None]:
        said.update(zip(problem_id, completions, strict=True))
        flips = coin_reward(completions)
        return [0.0 if int(p[-1]) % 2 else flip for p, flip in zip(problem_id, flips, strict=True)]

    mostly_silent.__name__ = "coin_reward"
    make_trainer(
        store,
        model_path,
        tmp_path / "out",
        rewards=mostly_silent,
        refill_rounds=2,
        per_device_train_batch_size=32,
    ).train()
    stored = rows(store, JOINED)
    assert len(stored) == store.query("SELECT count(*) FROM rollouts")[0][0] > 4 * 32
    for row in stored:
        assert (row["problem_id"], row["completion"]) in said
        number = int(row["problem_id"][-3:])
        assert f"{number} + 3 + 1" in row["prompt"]


def test_the_budget_ends_texts_and_nothing_else(
    sums: VariantStore, model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(
        sums, model_path, tmp_path / "out", log_rollouts_mb=0.0005, save_strategy="steps", save_steps=1
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert sum("of log_rollouts_mb are used up" in record.message for record in caplog.records) == 1
    [(kept, all_rows)] = sums.query("SELECT count(completion), count(*) FROM rollouts")
    assert 0 < kept < all_rows == 64
    bytes_kept = "(SELECT sum(strlen(completion)) FROM rollouts) + (SELECT sum(strlen(prompt)) FROM prompts)"
    used = trainer.keeper.used_bytes
    assert sums.query(f"SELECT {bytes_kept}") == [(used,)]
    assert 500 <= used < 1500
    resumed = make_trainer(sums, model_path, tmp_path / "out", log_rollouts_mb=0.0005)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert sums.query("SELECT count(completion) FROM rollouts WHERE step = 3") == [(0,)]
    assert resumed.keeper.used_bytes == used


def test_wrong_numbers_are_refused(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="log_rollouts='some': a number of problems, all, or none"):
        make_trainer(sums, model_path, tmp_path / "out", log_rollouts="some")


@pytest.mark.parametrize("version", [1, 2])
def test_stores_of_today_have_no_words_and_take_some(version: int, tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "stores" / f"v{version}"
    store = VariantStore(shutil.copytree(old, tmp_path / "old"))
    before = store.read(Rollout)
    assert before
    assert all(r.completion is r.reward_parts is r.finish is r.graded_outcome is None for r in before)
    assert store.query("SELECT count(*) FROM prompts") == [(0,)]
    store.append(
        [before[0].model_copy(update={"completion": "3", "reward_parts": '{"accuracy_reward": 1.0}'})]
    )
    found = store.query(
        "SELECT completion, (reward_parts ->> 'accuracy_reward')::DOUBLE FROM rollouts WHERE completion IS NOT NULL"
    )
    assert found == [("3", 1.0)]
