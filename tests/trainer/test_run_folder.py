"""A run is its own: its folder, its checkpoints, and the settings that it may be resumed with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Problem
from diva_grpo.trainer.arguments import known
from diva_grpo.trainer.checkpoints import checkpoints_of, read_checkpoint
from diva_grpo.trainer.run_folder import (
    FIXED,
    FIXED_WITH_A_BASE,
    UNRELATED,
    RunFile,
    at_work,
    check_resumed_settings,
    find_resumed,
    read_run_file,
)
from diva_grpo.trainer.train import TrainResult, main
from tests.support.tiny_text_model import planted_store

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "num_generations": 4,
    "max_completion_length": 4,
    "bf16": "false",
    "use_cpu": "true",
    "gradient_checkpointing": "false",
    "report_to": "none",
    "dtype": "float32",
    "disable_tqdm": "true",
    "save_strategy": "steps",
    "save_steps": 1,
    "seed": 3,
    "max_steps": 2,
}


@pytest.fixture
def store(tmp_path: Path) -> VariantStore:
    return planted_store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> tuple[Path, TrainResult]:
    """A store and a folder with a run of two steps and two checkpoints, to be copied."""
    root = tmp_path_factory.mktemp("first")
    return root, _train(planted_store(root / "store"), model_path, root / "out")


@pytest.fixture
def ended(first_run: tuple[Path, TrainResult], tmp_path: Path) -> TrainResult:
    """The first run, copied to where `store` and `folder` of a test are."""
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    shutil.copytree(first_run[0], tmp_path, dirs_exist_ok=True)
    return first_run[1]


def _train(store: VariantStore, model: Path, folder: Path, **settings: Any) -> TrainResult:
    given = {"model_name_or_path": model, "store": store.root, "output_dir": folder, **SETTINGS, **settings}
    return main([word for name, value in given.items() for word in (f"--{name}", str(value))])


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".diva.lock"
    }


def test_a_run_names_its_folder_and_its_checkpoints(ended: TrainResult, folder: Path) -> None:
    own = read_run_file(folder)
    assert own is not None
    assert own.run_id == ended.run_id
    assert own.settings["num_generations"] == 4
    assert [(c.step, c.run_id, c.whole) for c in checkpoints_of(folder)] == [
        (1, ended.run_id, True),
        (2, ended.run_id, True),
    ]
    assert all(read_run_file(c.folder) == own for c in checkpoints_of(folder))


def test_a_folder_with_another_runs_checkpoints_is_refused_and_left_as_it_is(
    ended: TrainResult, store: VariantStore, model_path: Path, folder: Path
) -> None:
    before = _content(folder)
    with pytest.raises(ConfigError, match=f"checkpoints of {ended.run_id}.*--overwrite true"):
        _train(store, model_path, folder, seed=9)
    assert _content(folder) == before


def test_overwritten_it_holds_the_new_run_alone_whatever_is_kept(
    ended: TrainResult, store: VariantStore, model_path: Path, folder: Path
) -> None:
    new = _train(store, model_path, folder, seed=9, overwrite="true", max_steps=1, save_total_limit=1)
    assert new.run_id != ended.run_id
    assert [(c.step, c.run_id) for c in checkpoints_of(folder)] == [(1, new.run_id)]
    own = read_run_file(folder)
    assert own is not None
    assert own.run_id == new.run_id


def test_a_start_that_fails_deletes_nothing(
    ended: TrainResult, store: VariantStore, model_path: Path, folder: Path
) -> None:
    before = _content(folder)
    with pytest.raises(ConfigError, match="accuracy_from"):
        _train(store, model_path, folder, overwrite="true", accuracy_from="nothing")
    assert _content(folder) == before


def test_what_a_crash_cut_short_does_not_outlive_later_checkpoints(
    ended: TrainResult, store: VariantStore, model_path: Path, folder: Path
) -> None:
    torn = shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-9")
    (torn / "trainer_state.json").unlink()
    (torn / "diva_state.pt").write_bytes(b"PK\x03\x04")
    again = _train(store, model_path, folder, resume="true", max_steps=4, save_total_limit=1)
    assert (again.run_id, again.step) == (ended.run_id, 4)
    assert [c.step for c in checkpoints_of(folder)] == [4]


def test_an_earlier_checkpoint_is_gone_back_to_on_demand(
    ended: TrainResult, store: VariantStore, model_path: Path, folder: Path
) -> None:
    earlier = {"resume_from_checkpoint": folder / "checkpoint-1", "max_steps": 1}
    with pytest.raises(ConfigError, match="after the one to continue from \\(checkpoint-2\\)"):
        _train(store, model_path, folder, **earlier)
    again = _train(store, model_path, folder, **earlier, overwrite="true")
    assert (again.run_id, again.step) == (ended.run_id, 1)
    assert [c.step for c in checkpoints_of(folder)] == [1]


def test_a_run_that_is_done_makes_no_step_more(
    ended: TrainResult, store: VariantStore, model_path: Path, folder: Path
) -> None:
    before = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()  # as where a crash came between the last checkpoint and the end
    again = _train(store, model_path, folder, resume="true")
    assert (again.run_id, again.step) == (ended.run_id, 2)
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
def test_a_damaged_checkpoint_is_named(
    name: str, damage: str, ended: TrainResult, store: VariantStore, model_path: Path, folder: Path
) -> None:
    file = folder / "checkpoint-2" / name
    file.write_bytes({"text": b"xx", "empty": b"", "cut": file.read_bytes()[:-200]}[damage])
    with pytest.raises(ConfigError, match=r"cannot continue from .*checkpoint-2: .*--resume_from") as error:
        _train(store, model_path, folder, resume="true", max_steps=3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["unreadable", "missing"])
def test_the_state_of_a_checkpoint_that_cannot_be_read_is_not_passed_over(
    damage: str, ended: TrainResult, store: VariantStore, model_path: Path, folder: Path
) -> None:
    state = folder / "checkpoint-2" / "diva_state.pt"
    if damage == "missing":
        state.unlink()
    else:
        state.write_bytes(b"xx")
    with pytest.raises(ConfigError, match="after the one to continue from \\(checkpoint-2\\)"):
        _train(store, model_path, folder, resume="true", max_steps=3)
    again = _train(store, model_path, folder, resume="true", max_steps=3, overwrite="true")
    assert (again.run_id, again.step) == (ended.run_id, 3)


def test_what_a_checkpoint_lacks_is_said(
    ended: TrainResult, store: VariantStore, model_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("optimizer.pt", "rng_state.pth", "diva_run.json"):
        (folder / "checkpoint-2" / name).unlink()
    assert _train(store, model_path, folder, resume="true", max_steps=3).step == 3
    assert "checkpoint-2 lacks the state of optimizer, random state" in caplog.text
    assert "whether settings have changed is not known" in caplog.text
    caplog.clear()
    _train(store, model_path, folder, resume="true", max_steps=4)
    assert "lacks the state" not in caplog.text


def test_a_model_of_another_size_is_one_line(
    ended: TrainResult, store: VariantStore, model_path: Path, folder: Path, tmp_path: Path
) -> None:
    other = AutoModelForCausalLM.from_pretrained(model_path)
    other.resize_token_embeddings(other.config.vocab_size + 64)
    shutil.copytree(model_path, tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"cannot continue from .*checkpoint-2: .*size") as error:
        _train(store, tmp_path / "other", folder, resume="true", max_steps=3)
    assert "\n" not in str(error.value)


def test_a_store_that_grew_does_not_forbid_a_resume(
    ended: TrainResult,
    store: VariantStore,
    model_path: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = [
        Problem(problem_id=f"a/{i}", source="a", split="train", text=f"{i} + 1", answer=str(i + 1))
        for i in range(3)
    ]
    store.append(more)
    again = _train(store, model_path, folder, resume="true", max_steps=3)
    assert (again.run_id, again.step) == (ended.run_id, 3)
    assert "keeps to its 8 problems: the store has 3 more by now" in caplog.text
    assert store.query("SELECT count(*) FROM rollouts WHERE problem_id LIKE 'a/%'") == [(0,)]


def test_a_resume_with_other_settings_names_them(
    ended: TrainResult,
    store: VariantStore,
    model_path: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = {"num_variants": 1, "selector": "uniform", "num_generations": 8}
    with pytest.raises(ConfigError) as refused:
        _train(store, model_path, folder, resume="true", **other)
    for name in ("num_variants was 0 and is 1", 'selector was "signal" and is "uniform"', "num_generations"):
        assert name in str(refused.value)
    assert "\n" not in str(refused.value)
    _train(store, model_path, folder, resume="true", max_steps=3, learning_rate=1e-5, logging_steps=7)
    assert "max_steps was 2 and is 3" in caplog.text
    assert "learning_rate was 1e-06 and is 1e-05" in caplog.text
    assert "logging_steps was" not in caplog.text


@pytest.mark.parametrize("name", sorted(FIXED))
def test_what_must_be_equal_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} was 1 and is 2"):
        check_resumed_settings(RunFile("run", {name: 1, "beta": 0.0}), {name: 2, "beta": 0.0})


@pytest.mark.parametrize(("name", "value"), [("use_peft", True), ("beta", 0.1)])
def test_the_model_that_a_run_goes_back_to_must_be_the_same(name: str, value: Any) -> None:
    began = RunFile("run", {name: value, "model_name_or_path": "a"})
    with pytest.raises(ConfigError, match="model_name_or_path"):
        check_resumed_settings(began, {name: value, "model_name_or_path": "b"})
    moved = check_resumed_settings(
        RunFile("run", {"model_name_or_path": "a"}), {"model_name_or_path": "b", "beta": 0.0}
    )
    assert moved == 'model_name_or_path was "a" and is "b"'


def test_settings_are_named_as_arguments_are() -> None:
    assert known().keys() | {"lora_target_parameters"} >= FIXED | FIXED_WITH_A_BASE | UNRELATED


def test_two_trainers_do_not_share_a_folder(store: VariantStore, model_path: Path, folder: Path) -> None:
    with at_work(str(folder)), pytest.raises(ConfigError, match=f"process {os.getpid()} on .* is at work"):
        _train(store, model_path, folder, overwrite="true")
    assert store.query("SELECT count(*) FROM runs") == [(0,)]


def test_a_trainer_that_was_killed_keeps_nobody_out(folder: Path) -> None:
    program = (
        "import sys, time; from diva_grpo.trainer.run_folder import at_work\n"
        "with at_work(sys.argv[1]):\n    print('at work', flush=True)\n    time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "at work\n"
        with pytest.raises(ConfigError, match=f"process {other.pid}"), at_work(str(folder)):
            pass
        other.kill()
    with at_work(str(folder)):
        pass


def test_output_dir_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file: give a folder"), at_work(str(tmp_path / "file")):
        pass


def test_whose_checkpoints_a_resume_takes(ended: TrainResult, folder: Path) -> None:
    found = find_resumed(str(folder), resume=True)
    assert found is not None
    assert (found.run_id, found.step) == (ended.run_id, 2)
    RunFile("another", {}).write(folder)
    with pytest.raises(
        ConfigError, match=f"belongs to the run another, and its checkpoints are of {ended.run_id}"
    ):
        find_resumed(str(folder), resume=True)
    (folder / "diva_run.json").unlink()
    found = find_resumed(str(folder), resume=True)
    assert found is not None, "a folder of a version without run files"
    assert found.run_id == ended.run_id
    assert find_resumed(str(folder), resume=False) is None
    assert find_resumed(str(folder / "nothing"), resume=True) is None


@pytest.mark.parametrize("named", ["true", "checkpoint-1/trainer_state.json", "nothing"])
def test_only_a_whole_checkpoint_is_resumed_from(named: str, ended: TrainResult, folder: Path) -> None:
    with pytest.raises(ConfigError, match="is not a complete checkpoint"):
        find_resumed(str(folder), str(folder / named), resume=False)


def test_a_renamed_checkpoint_is_one(ended: TrainResult, folder: Path) -> None:
    kept = (folder / "checkpoint-1").rename(folder / "best")
    found = read_checkpoint(kept)
    assert found is not None
    assert (found.step, found.run_id) == (1, ended.run_id)
