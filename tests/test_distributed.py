"""Two processes choose alike, and train on the advantages of the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_advantages import slow_diva
from tests.test_trainer import PAPER
from tests.tiny import add_labels, planted_store

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_two_processes_share_one_batch(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    add_labels(store)
    output = tmp_path / "out"
    output.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, "-m", "tests.distributed_run", str(store.root), str(model_path), str(output)],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    reports = [json.loads((output / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert reports[0]["difficulty"] == reports[1]["difficulty"]
    rows = store.query(
        "SELECT step, reward, problem_id, slot, e.old_difficulty, coalesce(v.delta, 0) FROM rollouts r "
        "JOIN difficulty_events e USING (run_id, step, problem_id) LEFT JOIN variants v USING (variant_id) "
        "ORDER BY step, problem_id, slot, sample"
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
