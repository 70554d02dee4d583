"""Runs of vision-language models in processes of their own: killed and resumed, on two processes, on real problems."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.bench.bench_vision_path import run_path
from tests.support.tiny_training import two_processes
from tests.support.tiny_vision_model import tiny_vision_model, vision_store
from tests.support.train_resumable import MAX_STEPS
from tests.trainer.test_resume import _kill_after, _outcome, _run_to_the_end, _start

KINDS = ("image", "image_text", "composite", "think_step")


@pytest.fixture(scope="module")
def vision_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision_model(tmp_path_factory.mktemp("tiny-vision"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_resumed_it_ends_as_the_unbroken_run(vision_path: Path, tmp_path: Path) -> None:
    stores = [
        vision_store(tmp_path / name, one=10, two=3, text=3, kinds=KINDS) for name in ("unbroken", "killed")
    ]
    seed, per_generation = 4, 2
    _run_to_the_end(_start(stores[0].root, vision_path, tmp_path / "whole", seed, per_generation))
    for step in (4, 14):
        process = _start(stores[1].root, vision_path, tmp_path / "parts", seed, per_generation)
        assert _kill_after(process, step), f"the run ended before step {step}"
    _run_to_the_end(_start(stores[1].root, vision_path, tmp_path / "parts", seed, per_generation))
    resumed = [step for (step,) in stores[1].query("SELECT resumed_step FROM attempts ORDER BY attempt")]
    assert len(resumed) == 3
    assert resumed[-1] > 0
    expected, found = _outcome(stores[0]), _outcome(stores[1])
    assert len(expected[0]) == MAX_STEPS // per_generation * 16
    assert found == expected
    whole, parts = (
        load_file(tmp_path / name / f"checkpoint-{MAX_STEPS}" / "model.safetensors")
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(whole[name].equal(parts[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_share_one_batch(vision_path: Path, tmp_path: Path) -> None:
    from tests.support.tiny_text_model import add_labels

    store = vision_store(tmp_path / "store", one=5, two=1, text=2, kinds=KINDS)
    add_labels(store)
    reports = two_processes(store, vision_path, tmp_path / "out")
    assert reports[0]["difficulty"] == reports[1]["difficulty"]
    for step in range(4):
        recorded = [a for (a,) in store.query("SELECT advantage FROM rollouts WHERE step = ?", [step])]
        assert len(recorded) == 16, "written once, by one process"
        seen = reports[0]["advantages"][step] + reports[1]["advantages"][step]
        assert sorted(seen) == pytest.approx(sorted(recorded), abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_path_on_real_problems(real_data: Path, tmp_path: Path) -> None:
    figures = run_path(real_data / "mathvision" / "problems.jsonl", tmp_path, limit=12)
    assert figures["problems"] == 12
    assert all(figures["accepted"].get(kind) for kind in ("reword", "harder", "think_step", "image"))
    assert figures["wrong"] == 0, "no accepted solution ends at another answer"
    assert figures["trained"] == 12, "every problem was seen in the epoch"
    assert figures["unchanged"] == []
    assert figures["equal"], "killed and resumed, it drew what the unbroken run drew"
