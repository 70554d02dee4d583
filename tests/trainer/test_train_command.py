"""`diva train`: YAML and flags, one-line errors, resume from the last complete checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from diva_grpo.schemas.exceptions import ConfigError, StoreError
from diva_grpo.schemas.records import Attempt
from diva_grpo.trainer.checkpoints import latest_checkpoint
from diva_grpo.trainer.rewards import accuracy_reward, format_reward, load_rewards
from diva_grpo.trainer.train import main
from tests.support.tiny_text_model import planted_store


@pytest.fixture
def arguments(tmp_path: Path, model_path: Path) -> list[str]:
    """Flags of a two-step run over a planted store, half of them in a YAML file."""
    store = planted_store(tmp_path / "store")
    settings = {
        "model_name_or_path": str(model_path),
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 4,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": "none",
        "dtype": "float32",
        "disable_tqdm": True,
    }
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(settings))
    output = str(tmp_path / "out")
    return ["--config", str(config), "--store", str(store.root), "--output_dir", output, "--max_steps", "2"]


def test_a_run_by_yaml_and_flags(arguments: list[str], tmp_path: Path) -> None:
    result = main([*arguments, "--save_steps", "1", "--max_problems", "4"])
    store = planted_store(tmp_path / "store", problems=0)
    assert result.step == 2
    assert Path(result.model_path, "model.safetensors").exists()
    assert store.query("SELECT kind, outcome FROM runs") == [("train", "ok")]
    assert store.query("SELECT count(DISTINCT problem_id) FROM rollouts")[0][0] <= 4
    again = main([*arguments[:-1], "4", "--save_steps", "1", "--resume", "true", "--max_problems", "4"])
    assert again.run_id == result.run_id
    assert again.step == 4
    assert [a.resumed_step for a in store.read(Attempt)] == [0, 2]


def test_a_checkpoint_cut_short_is_passed_over(arguments: list[str], tmp_path: Path) -> None:
    main([*arguments, "--save_steps", "1"])
    whole = latest_checkpoint(str(tmp_path / "out"))
    assert whole is not None
    assert whole.endswith("checkpoint-2")
    (Path(whole) / "trainer_state.json").write_text('{"global_st')
    earlier = latest_checkpoint(str(tmp_path / "out"))
    assert earlier is not None
    assert earlier.endswith("checkpoint-1")
    assert latest_checkpoint(str(tmp_path / "nothing")) is None


def test_a_resume_without_the_problems_of_the_run_is_refused(arguments: list[str], tmp_path: Path) -> None:
    main([*arguments, "--save_steps", "1"])
    smaller = planted_store(tmp_path / "smaller", problems=6)
    with pytest.raises(ConfigError, match="lacks 2 of the 8 problems of the run, such as sums/006"):
        main([*arguments, "--resume", "true", "--store", str(smaller.root)])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--selector", "nearest"], "paper, tier, posterior, signal, uniform"),
        (["--rewards", "speed"], "accuracy or format"),
        (["--rewards", "nowhere.reward"], "nowhere"),
        (["--model_name_or_path", "no/such/model"], "no/such/model"),
        (["--split", "validation"], "train"),
        (["--problem_filter", "colour = 1"], "colour"),
        (["--no_such_flag", "1"], "no_such_flag"),
        (["--num_variants", "1", "--per_device_train_batch_size", "12"], "8 or 16 would work"),
    ],
)
def test_mistakes_end_in_one_line(extra: list[str], words: str, arguments: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        main([*arguments, *extra])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_folder_of_an_adapter_is_no_model(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has an adapter and no model: .*merge_and_unload"):
        main([*arguments, "--model_name_or_path", str(tmp_path / "adapter")])


def test_no_store(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="diva ingest"):
        main([*arguments, "--store", str(tmp_path / "elsewhere")])


def test_rewards_by_name() -> None:
    functions, weights = load_rewards(["paper"])
    assert functions == [accuracy_reward, format_reward]
    assert weights == [0.9, 0.1]
    [own], weights = load_rewards(["tests.support.tiny_training.coin_reward"])
    assert own.__name__ == "coin_reward"
    assert weights is None


def test_accuracy_is_the_graders() -> None:
    completions: list[Any] = [
        "#### 5",
        "the answer is 6",
        "no idea",
        [{"role": "assistant", "content": "\\boxed{5}"}],
    ]
    assert accuracy_reward(completions, answer=["5"] * 4) == [1.0, 0.0, 0.0, 1.0]
    assert accuracy_reward(["(B)"], answer=["B"], options=[["one", "two"]]) == [1.0]


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>2 + 2 = 4</think> \\boxed{4}", 1.0),
        ("<think>2 + 2 = 4</think> 4", 0.0),
        ("\\boxed{4}", 0.0),
        ("<think>\\boxed{4}", 0.0),
        ("<think>a\nb</think>\nSo \\boxed{\\frac{1}{2}}.", 1.0),
    ],
)
def test_format_reward(completion: str, value: float) -> None:
    assert format_reward([completion]) == [value]
