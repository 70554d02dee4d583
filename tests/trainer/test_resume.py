"""Killed at any step and resumed, a run draws what the unbroken run draws."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.support.tiny_text_model import planted_store
from tests.support.train_resumable import MAX_STEPS

ROOT = Path(__file__).parents[2]


def _start(
    store: Path, model: Path, output: Path, seed: int, per_generation: int, **options: Any
) -> subprocess.Popen[str]:
    arguments = [str(store), str(model), str(output), str(seed), str(per_generation), json.dumps(options)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.train_resumable", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run_to_the_end(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-2000:]


def _kill_after(process: subprocess.Popen[str], step: int) -> bool:
    """SIGKILL at the end of a step; False where the run ended before."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step") and int(line.split()[1]) >= step:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
    process.communicate()
    return False


def _outcome(store: VariantStore) -> tuple[list[Any], list[Any]]:
    rollouts = store.query(
        "SELECT step, problem_id, slot, sample, variant_id, reward, round(advantage, 9), completion_tokens "
        "FROM rollouts ORDER BY ALL"
    )
    live = store.query("SELECT problem_id, difficulty, uncertainty, step FROM live_difficulty ORDER BY ALL")
    return rollouts, live


def _kills(seed: int) -> list[int]:
    """Ten steps to be killed at, each beyond the last by less than what two checkpoints are apart."""
    draw = random.Random(seed)
    return sorted(draw.sample(range(1, MAX_STEPS), 10))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "per_generation"), [(1, 1), (2, 2), (3, 2)])
def test_killed_ten_times_it_ends_as_the_unbroken_run(
    seed: int, per_generation: int, model_path: Path, tmp_path: Path
) -> None:
    unbroken = planted_store(tmp_path / "unbroken", problems=16)
    _run_to_the_end(_start(unbroken.root, model_path, tmp_path / "whole", seed, per_generation))
    killed = planted_store(tmp_path / "killed", problems=16)
    for step in _kills(seed):
        process = _start(killed.root, model_path, tmp_path / "parts", seed, per_generation)
        assert _kill_after(process, step), f"the run ended before step {step}"
    _run_to_the_end(_start(killed.root, model_path, tmp_path / "parts", seed, per_generation))
    attempts = killed.query("SELECT count(*), max(resumed_step) FROM attempts")[0]
    assert attempts[0] == 11
    assert attempts[1] > 0
    expected_rollouts, expected_live = _outcome(unbroken)
    rollouts, live = _outcome(killed)
    assert len(expected_rollouts) == MAX_STEPS // per_generation * 16
    assert max(row[0] for row in expected_rollouts) // per_generation >= 8, "the second epoch was reached"
    assert rollouts == expected_rollouts
    assert live == expected_live


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sampler", ["difficulty", "pool"])
def test_killed_it_draws_the_problems_of_the_unbroken_run(
    sampler: str, model_path: Path, tmp_path: Path
) -> None:
    options = {"problem_sampler": sampler, "pool_revisit": 0.2, "refill_rounds": 1, "num_variants": 0}
    drawn = "SELECT step, problem_id, chosen, new_difficulty FROM difficulty_events ORDER BY ALL"
    found = []
    for name, kills in (("unbroken", []), ("killed", [11])):
        store = planted_store(tmp_path / name, problems=16)
        output = tmp_path / f"{name}-out"
        for step in kills:
            process = _start(store.root, model_path, output, 5, 2, **options)
            assert _kill_after(process, step), f"the run ended before step {step}"
        _run_to_the_end(_start(store.root, model_path, output, 5, 2, **options))
        assert store.query("SELECT count(*) FROM attempts") == [(len(kills) + 1,)]
        found.append((_outcome(store), store.query(drawn)))
    assert found[0] == found[1]
    how = {chosen for _, _, chosen, _ in found[0][1]}
    assert how >= {"refill", "signal" if sampler == "difficulty" else "revisit"}
