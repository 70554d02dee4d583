"""Two processes choose alike, and train on the advantages of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from diva_grpo.schemas.records import Variant
from tests.support.tiny_text_model import add_labels, planted_store
from tests.support.tiny_training import two_processes
from tests.trainer.test_advantages import slow_diva
from tests.trainer.test_trainer import PAPER


@pytest.mark.slow
def test_two_processes_share_one_batch(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    add_labels(store)
    reports = two_processes(store, model_path, tmp_path / "out")
    assert reports[0]["difficulty"] == reports[1]["difficulty"]
    rows = store.query(
        "SELECT step, reward, problem_id, slot, e.old_difficulty, coalesce(v.delta, 0) FROM rollouts r "
        "JOIN difficulty_events e USING (run_id, step, problem_id) LEFT JOIN variants v USING (variant_id) "
        "ORDER BY step, problem_id, slot, r.sample"
    )
    assert len(rows) == 4 * 16, "written once, by one process"
    for step in range(4):
        batch = [
            (reward, hash((problem_id, slot)), hash(problem_id), min(9.0, max(1.0, old + delta)))
            for at, reward, problem_id, slot, old, delta in rows
            if at == step
        ]
        expected = slow_diva(batch, **PAPER)["total"]
        seen = reports[0]["advantages"][step] + reports[1]["advantages"][step]
        assert any(abs(value) > 0.1 for value in seen)
        assert sorted(seen) == pytest.approx(sorted(expected), abs=1e-6)


@pytest.mark.slow
def test_given_steps_count_where_only_one_process_has_any(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    add_labels(store)
    hinted = {f"sums/{i:03d}" for i in range(0, 8, 2)}
    others = [v for v in store.read(Variant) if (v.kind == "think_step") != (v.problem_id in hinted)]
    store.append([v.model_copy(update={"status": "rejected"}) for v in others])
    reports = two_processes(
        store, model_path, tmp_path / "out", hint_style="prefix", opening_advantage=2.0, loss_type="dapo"
    )
    by_token = [[isinstance(rows[0], list) for rows in report["advantages"]] for report in reports]
    assert any(first != second for first, second in zip(*by_token, strict=True)), "one of the two alone"
    assert reports[0]["tokens_in_loss"] == reports[1]["tokens_in_loss"]
    for step, tokens in enumerate(reports[0]["tokens_in_loss"]):
        [(written,)] = store.query("SELECT sum(completion_tokens) FROM rollouts WHERE step = ?", [step])
        given = [
            value == 2.0
            for report in reports
            for row in report["advantages"][step]
            for value in (row if isinstance(row, list) else [])
        ]
        assert tokens == written + sum(given)
