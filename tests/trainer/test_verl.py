"""The curriculum in veRL: its data loader, buffer, reward manager and checkpoints, in an environment of its own."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diva_grpo.pipeline.export import export
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import ExportConfig
from diva_grpo.trainer.method.curriculum import Curriculum, CurriculumSettings
from tests.support.other_environments import ROOT, environment
from tests.support.tiny_text_model import planted_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test makes the environment

PROBLEMS, ROLLOUTS, STEPS = 8, 4, 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    return planted_store(tmp_path_factory.mktemp("verl") / "store", problems=PROBLEMS)


@pytest.fixture(scope="module")
def result(
    store: VariantStore, chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What `tests/support/verl_steps.py` says of six steps, of which the last three are done twice."""
    torch = version("torch").partition("+")[0]
    requirements = [f"torch=={torch}", "verl[verl-core]==0.9.1"]
    verl = environment(tmp_path_factory.mktemp("env"), "DIVA_VERL_ENV", requirements, "verl")
    held_out, folder = store.root.parent / "held_out.parquet", tmp_path_factory.mktemp("checkpoints")
    export(store, held_out, ExportConfig(preset="verl", what="problems"))
    script = ROOT / "tests" / "support" / "verl_steps.py"
    verl.run("python", script, store.root, held_out, chat_model_path, folder)
    found: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    return found


def test_verl_trains_on_what_the_curriculum_chooses(result: dict[str, Any], store: VariantStore) -> None:
    """The same curriculum, driven by hand with the accuracies of the script, chooses the same prompts."""
    settings = CurriculumSettings(variants=1, selector="posterior", difficulty_rule="posterior")
    ids = [problem.problem_id for problem in store.problems()]
    curriculum, snapshot = Curriculum(ids, settings), store.snapshot()
    seen: list[str] = []
    for number, step in enumerate([*result["before"], *result["after"]]):
        assert step["rollouts"] == 6 * ROLLOUTS
        problem_P = np.array([ids.index(problem_id) for problem_id in step["problems"]])
        choice = curriculum.choose(problem_P, snapshot, number)
        by_hand = [[choice.variant_id(place, slot) for slot in range(2)] for place in range(3)]
        assert step["variants"] == by_hand
        right_PV = problem_P[:, None] % ROLLOUTS + np.array([0, 1])
        accuracy_PVN = (np.arange(ROLLOUTS) < right_PV[..., None]).astype(float)
        curriculum.observe(choice, accuracy_PVN)
        logged = {f"curriculum/{name}": v for name, v in curriculum.metrics(choice, accuracy_PVN).items()}
        assert logged.items() <= step["metrics"].items()
        seen += step["problems"]
    assert result["difficulty"] == curriculum.live.difficulty.tolist()
    assert len(set(result["difficulty"])) > 1
    # Two steps of three problems are an epoch of eight.
    assert len(set(seen[:6])) == len(set(seen[6:12])) == 6
    assert seen[:6] != seen[6:12]


def test_a_checkpoint_of_verl_continues_the_curriculum(result: dict[str, Any]) -> None:
    assert "data.pt" in result["files"]
    assert result["again"] == result["after"]
    assert result["difficulty_again"] == result["difficulty"]


def test_rollouts_and_difficulty_reach_the_store(result: dict[str, Any], store: VariantStore) -> None:
    [(run_id, outcome)] = store.query(
        "SELECT run_id, outcome FROM runs WHERE run_id IN (SELECT run_id FROM rollouts)"
    )
    assert outcome == "ok"
    attempts = store.query(
        "SELECT attempt, resumed_step FROM attempts WHERE run_id = ? ORDER BY attempt", [run_id]
    )
    assert attempts == [(0, 0), (1, STEPS)]
    columns = "step, attempt, count(*), sum(accuracy)::INT, count(advantage), min(completion_tokens) > 0"
    rows = store.query(f"SELECT {columns} FROM rollouts GROUP BY ALL ORDER BY step")
    assert [row[:3] for row in rows] == [(step, int(step >= STEPS), 24) for step in range(2 * STEPS)]
    assert {row[4:] for row in rows} == {(0, True)}
    ids = [problem.problem_id for problem in store.problems()]
    for row, step in zip(rows, [*result["before"], *result["again"]], strict=True):
        assert row[3] == sum(2 * (ids.index(problem_id) % ROLLOUTS) + 1 for problem_id in step["problems"])
    events = store.query("SELECT step, problem_id FROM difficulty_events ORDER BY step, problem_id")
    done = [*result["before"], *result["again"]]
    assert events == [(n, name) for n, step in enumerate(done) for name in sorted(step["problems"])]


def test_files_are_read_as_verl_reads_them(result: dict[str, Any]) -> None:
    assert result["held_out"] == PROBLEMS
    assert result["prompt"] == [{"role": "user", "content": "0 + 3 + 1 = ?"}]
    assert result["steps_per_epoch"] == 2
    assert result["imported"] == []


def test_what_cannot_work_is_said(result: dict[str, Any]) -> None:
    wanted = [
        "selectr",
        "data.diva.aim: ",
        "data.diva.selector: choose from",
        "no problem of split 'dev' fits",
        "set data.dataloader_num_workers=0",
        "a batch of 5 prompts does not divide into problems of 2 prompts",
        "data.train_batch_size=18 is more than the 16 prompts of an epoch",
        "the rewards of the last batch did not come back",
        "trainer.v1.trainer_mode=colocate_async: CurriculumBuffer works with sync",
    ]
    for said, part in zip(result["refusals"], wanted, strict=True):
        assert part in said
