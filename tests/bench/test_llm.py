"""The testbed `llm`: its task, its store, and a run of both arms on a tiny model with a chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.bench import bed
from tests.bench.bed import Bed
from tests.bench.llm import run
from tests.bench.llm.summary import CURVE, page, read, write_page
from tests.bench.llm.task import (
    COLOURS,
    GUESTS,
    PROMPTS,
    SIZES,
    Guests,
    accuracy_reward,
    fill_store,
    found,
    hint_lines,
)

FOLDER = Path(__file__).parent / "llm" / "results"


def test_a_hint_names_no_colour() -> None:
    lines = hint_lines(["Tom"] * len(COLOURS), list(COLOURS))
    assert found("\n".join(lines)) == ""


def test_only_all_colours_in_order_are_right() -> None:
    said = ["Red, blue.", "blue, red", "red", "red, blue, white"]
    assert accuracy_reward(said, ["red blue"] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert accuracy_reward([[{"role": "assistant", "content": said[0]}]], ["red blue"]) == [1.0]


def test_the_store_has_a_ladder_for_each_problem(tmp_path: Path) -> None:
    fill_store(Guests(seed=1), tmp_path / "store")
    store = VariantStore(tmp_path / "store")
    rows = store.query(
        "SELECT list(hint_steps ORDER BY hint_steps) FROM variants WHERE status = 'accepted' GROUP BY problem_id"
    )
    assert rows == [(list(range(1, len(GUESTS) + 1)),)] * sum(SIZES.values())
    measures = run.held_out(store)
    assert {name: {len(q.hint) for q in asked} for name, asked in measures.items()} == {
        "test": {0},
        "half": {3},
    }


def test_the_page_is_made_of_the_figures() -> None:
    assert (FOLDER / "README.md").read_text("utf-8") == page(*read(FOLDER / "runs.jsonl"))


@pytest.mark.slow
def test_both_arms_train_adapters_on_conversations(
    chat_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "OBEYS", 0.0)  # this model follows nothing
    monkeypatch.setattr("tests.bench.llm.task.WARM_STEPS", 2)
    run.prepare(tmp_path, chat_model_path, 1, "cpu")
    name = run.name_of(chat_model_path)
    tiny = Bed(
        name, {"model": name}, accuracy_reward, 4, rollouts=16, steps=2, eval_every=2, asked=run.held_out,
        prompts=PROMPTS, lora_rank=4, dtype="bfloat16",
    )  # fmt: skip
    for arm in ("grpo", "response"):
        bed.train_run(tmp_path, tiny, arm, 1, "cpu")
    (tmp_path / "results").mkdir()
    write_page(tmp_path, tmp_path / "results")
    told = (tmp_path / "results" / "README.md").read_text("utf-8")
    assert "response - grpo at equal tokens: +0.000, seeds: 1" in told
    assert json.loads((tmp_path / f"{name}-s1" / "preconditions.json").read_text())["pass@64"] == 0.0
    assert (tmp_path / "results" / CURVE).exists()
