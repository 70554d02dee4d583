"""TRL's table of completions has each rollout's problem, kind and finish: as Parquet, and in trackio and wandb."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.support.tiny_training import coin_reward, make_trainer

SHOWN: dict[str, Any] = {"log_completions": True, "num_variants": 1, "max_steps": 2}


def _recorded(store: VariantStore, step: int) -> list[tuple[Any, ...]]:
    return store.query(
        "SELECT problem_id, coalesce(v.kind, 'original'), finish, reward FROM rollouts r "
        "LEFT JOIN variants v USING (problem_id, variant_id) WHERE step = ? ORDER BY ALL",
        [step],
    )


def _table(folder: Path, step: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / f"completions_{step:05d}.parquet").to_pylist()
    return rows


def _described(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((row["problem_id"], row["kind"], row["finish"], row["coin_reward"]) for row in rows)


@pytest.mark.parametrize("refill_rounds", [0, 2])
def test_the_table_describes_the_rollouts_as_the_store_does(
    refill_rounds: int, sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(sums, model_path, tmp_path / "out", refill_rounds=refill_rounds, **SHOWN)
    trainer.train()
    kinds = set()
    for step in range(2):
        rows = _table(tmp_path / "out" / "completions", step + 1)
        kinds |= {row["kind"] for row in rows}
        assert set(_described(rows)) <= set(_recorded(sums, step))
        if not refill_rounds:
            assert _described(rows) == _recorded(sums, step)
    assert "original" in kinds
    assert len(kinds) > 1


def test_evaluation_has_originals(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        sums, model_path, tmp_path / "out", eval_problems=4, per_device_eval_batch_size=16,
        eval_strategy="steps", eval_steps=2, **SHOWN,
    )  # fmt: skip
    trainer.train()
    rows = _table(
        tmp_path / "out" / "completions", 2
    )  # the table of the evaluation replaces that of the step
    assert len(rows) == 16
    assert {row["kind"] for row in rows} == {"original"}
    for row in rows:
        [(text,)] = sums.query("SELECT text FROM problems WHERE problem_id = ?", [row["problem_id"]])
        assert text in str(row["prompt"])


def test_columns_of_a_reward_function_are_kept(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    def reward(completions: list[Any], log_extra: Any, **columns: Any) -> list[float | None]:
        log_extra("kind", ["mine"] * len(completions))
        return coin_reward(completions)

    reward.__name__ = "coin_reward"
    make_trainer(sums, model_path, tmp_path / "out", rewards=reward, **SHOWN).train()
    rows = _table(tmp_path / "out" / "completions", 2)
    assert {row["kind"] for row in rows} == {"mine"}
    assert {row["finish"] for row in rows} <= {"ended", "truncated"}


def test_wandb_gets_them(
    sums: VariantStore, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    make_trainer(sums, model_path, tmp_path / "out", report_to="wandb", **SHOWN).train()
    wandb.finish()
    tables = [json.loads(file.read_text()) for file in tmp_path.rglob("*completions*.table.json")]
    found = [[dict(zip(table["columns"], row, strict=True)) for row in table["data"]] for table in tables]
    assert {rows[0]["step"] for rows in found} == {1, 2}
    for rows in found:
        assert _described(rows) == _recorded(sums, rows[0]["step"] - 1)


def test_trackio_gets_them(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    options: dict[str, Any] = {"report_to": "trackio", "project": "tables", **SHOWN}
    make_trainer(sums, model_path, tmp_path / "out", **options).train()
    with closing(sqlite3.connect(Path(os.environ["TRACKIO_DIR"], "tables.db"))) as connection:
        logged = [json.loads(metrics) for (metrics,) in connection.execute("SELECT metrics FROM metrics")]
    found = [entry["completions"]["_value"] for entry in logged if "completions" in entry]
    assert {rows[0]["step"] for rows in found} == {1, 2}
    for rows in found:
        assert _described(rows) == _recorded(sums, rows[0]["step"] - 1)
