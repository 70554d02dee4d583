"""A checkpoint goes on with any number of processes; with it go the reference model and the rollouts in use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.resume import REFERENCE_FILE, Split, state_name
from diva_grpo.trainer.rows import dealt
from tests.support.tiny_text_model import add_labels, planted_store
from tests.support.tiny_training import completions, loss_inputs, make_trainer, two_processes

PAD = 0


def side(start: int, rows: int, draw: torch.Generator, *, opened: bool) -> dict[str, Any]:
    """Rows numbered from `start`: each has its number in every field."""
    widths = torch.randint(1, 6, (2,), generator=draw).tolist()
    numbers = torch.arange(start, start + rows)
    prompt, completion = (numbers[:, None].repeat(1, width) + 1 for width in widths)
    made: dict[str, Any] = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "advantages": numbers[:, None].repeat(1, widths[1]).double() if opened else numbers.double(),
        "num_items_in_batch": torch.tensor(7),
    }
    if opened:
        made["tool_mask"] = torch.zeros_like(completion)
    return made


@given(
    made=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    now=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_rows_are_dealt_out_in_the_order_of_the_loss(
    made: tuple[int, int], now: tuple[int, int], seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = now[0] * now[1] * 2
    buffers = [
        [
            side((number * made[0] + process) * rows, rows, draw, opened=bool((process + seed) % 2))
            for number in range(made[1])
        ]
        for process in range(made[0])
    ]
    parts = [dealt(buffers, now[1], now[0], process, PAD) for process in range(now[0])]
    seen: list[int] = []
    for number in range(now[1]):
        for part in parts:
            assert part is not None
            row = part[number]
            own = (row["prompt_ids"][:, -1] - 1).tolist()
            seen += own
            assert (row["completion_ids"][:, 0] - 1).tolist() == own, "padded on the right"
            assert row["prompt_mask"].sum(dim=1).tolist() == (row["prompt_ids"] != PAD).sum(dim=1).tolist()
            advantage = row["advantages"] if row["advantages"].dim() == 1 else row["advantages"][:, 0]
            assert advantage.tolist() == own
            assert int(row["num_items_in_batch"]) == 7
    assert seen == list(range(made[0] * made[1] * rows))


def test_what_does_not_divide_is_generated_anew() -> None:
    draw = torch.Generator().manual_seed(1)
    assert dealt([[side(0, 6, draw, opened=False)]], 1, 4, 0, PAD) is None
    assert not Split(2, 8, 1, 1).fits(Split(2, 4, 1, 1))
    assert Split(2, 4, 2, 2).fits(Split(1, 8, 2, 2))
    assert Split(2, 8, 1, 1).passes(Split(1, 8, 2, 2), 6) == 3


def outcome(store: VariantStore, trainer: Any) -> tuple[list[Any], list[Any], torch.Tensor]:
    rollouts = store.query(
        "SELECT step, problem_id, slot, sample, variant_id, reward, round(advantage, 9) FROM rollouts ORDER BY ALL"
    )
    live = store.query("SELECT problem_id, difficulty FROM live_difficulty ORDER BY ALL")
    return rollouts, live, torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
        {"steps_per_generation": 2, "per_device_train_batch_size": 8, "use_adaptive_entropy": True,
         "entropy_target": 9.0},
    ],
    ids=["reference", "entropy"],
)  # fmt: skip
def test_a_resumed_run_ends_as_the_unbroken_one(
    options: dict[str, Any], model_path: Path, tmp_path: Path
) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2}
    whole = planted_store(tmp_path / "whole")
    unbroken = make_trainer(whole, model_path, tmp_path / "a", **saving, **options)
    unbroken.train()
    parts = VariantStore(shutil.copytree(whole.root, tmp_path / "parts"))
    resumed = make_trainer(parts, model_path, tmp_path / "b", **saving, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-1"))
    expected, found = outcome(whole, unbroken), outcome(parts, resumed)
    assert found[:2] == expected[:2]
    assert torch.equal(found[2], expected[2])
    assert (tmp_path / "a" / "checkpoint-1" / REFERENCE_FILE).exists() == ("sync_ref_model" in options)


def test_a_checkpoint_without_its_reference_is_refused(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "beta": 0.1}
    make_trainer(store, model_path, tmp_path / "a", **saving).train()
    trainer = make_trainer(store, model_path, tmp_path / "b", **saving, sync_ref_model=True)
    with pytest.raises(ConfigError, match="written without sync_ref_model"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-1"))


@pytest.mark.slow
def test_one_process_two_processes_and_one_again(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    add_labels(store)
    shared: dict[str, Any] = {
        "steps_per_generation": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 4,
    }
    alone: dict[str, Any] = {"per_device_train_batch_size": 8, "difficulty_init": "labels", **shared}
    first = make_trainer(store, model_path, tmp_path / "one", **alone)
    unbroken = loss_inputs(first)
    first.train()
    prompts = "SELECT step, problem_id, slot, variant_id FROM rollouts WHERE attempt = ? ORDER BY ALL"
    expected = store.query(prompts, [0])

    # Between the two steps of a generation, and on two processes: each step has the same rows.
    reports = two_processes(
        store, model_path, tmp_path / "two", **shared, per_device_train_batch_size=4,
        checkpoint=str(tmp_path / "one" / "checkpoint-1"),
    )  # fmt: skip
    both = [[ids for report in reports for ids in report["completions"][i]] for i in range(3)]
    assert both[0] == completions(unbroken[1])
    advantages = [value for report in reports for value in report["advantages"][0]]
    assert advantages == pytest.approx(unbroken[1]["advantages"].tolist())
    assert reports[0]["difficulty"] == reports[1]["difficulty"]
    # The next generation has the problems and variants that it would have had.
    assert store.query(prompts, [1]) == [row for row in expected if row[0] == 2]

    # And back: the second half of what the two have generated is trained on by one.
    assert (tmp_path / "two" / "checkpoint-3" / state_name(1)).exists()
    last = make_trainer(store, model_path, tmp_path / "again", **alone)
    again = loss_inputs(last)
    last.train(resume_from_checkpoint=str(tmp_path / "two" / "checkpoint-3"))
    assert [completions(batch) for batch in again] == [both[2]]
    assert last.state.global_step == 4
