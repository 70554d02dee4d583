"""The testbed `llm`: its task, its store, and a run of both arms on a tiny model with a chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.bench import bed
from tests.bench.bed import Bed
from tests.bench.llm.summary import write_page
from tests.bench.llm.task import (
    COLOURS,
    LENGTH,
    SIZES,
    Guests,
    accuracy_reward,
    fill_store,
    found,
    hint_lines,
)


def test_a_hint_names_no_colour() -> None:
    lines = hint_lines(["Mira"] * len(COLOURS), list(COLOURS))
    assert found("\n".join(lines)) == ""


def test_only_all_colours_in_order_are_right() -> None:
    said = ["Red, blue.", "blue, red", "red", "red, blue, white"]
    assert accuracy_reward(said, ["red blue"] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert accuracy_reward([[{"role": "assistant", "content": said[0]}]], ["red blue"]) == [1.0]


def test_the_store_has_a_ladder_for_each_training_problem(tmp_path: Path) -> None:
    fill_store(Guests(seed=1), tmp_path / "store")
    rows = VariantStore(tmp_path / "store").query(
        "SELECT list(hint_steps ORDER BY hint_steps) FROM variants WHERE status = 'accepted' GROUP BY problem_id"
    )
    assert rows == [(list(range(1, LENGTH + 1)),)] * SIZES["train"]


@pytest.mark.slow
def test_both_arms_train_adapters_on_conversations(chat_model_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny-s1"
    fill_store(Guests(seed=1), folder / "store")
    (folder / "warm").symlink_to(chat_model_path)
    (folder / "preconditions.json").write_text(json.dumps({"0": 0.0}))
    tiny = Bed("tiny", {"model": "tiny"}, accuracy_reward, 4, rollouts=16, steps=2, chat=True, lora_rank=4)
    for arm in ("grpo", "signal"):
        bed.train_run(tmp_path, tiny, arm, 1, "cpu")
    (tmp_path / "results").mkdir()
    write_page(tmp_path, tmp_path / "results")
    page = (tmp_path / "results" / "README.md").read_text("utf-8")
    assert "signal - grpo at equal tokens: +0.000" in page
