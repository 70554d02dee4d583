"""The ready configurations for Qwen2.5-VL: every setting is accepted, and says what the file promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from trl import get_peft_config

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.rewards import load_rewards
from diva_grpo.trainer.train import parse

DATA = Path(__file__).parents[2] / "data"
FILES = sorted(DATA.glob("qwen*.yaml"))


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL reads the number of processes from accelerate, which reads it from the launcher's environment."""
    from trl import GRPOConfig

    monkeypatch.setattr(GRPOConfig, "world_size", property(lambda self: 8))


def _parsed(path: Path, *flags: str) -> tuple[Any, ...]:
    # bf16 is refused where there is no GPU; all else is as in the file.
    without = [] if torch.cuda.is_available() else ["--bf16", "false", "--use_cpu", "true"]
    return parse(["--config", str(path), "--store", "runs/store", *without, *flags])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_setting_arrives(path: Path) -> None:
    settings = yaml.safe_load(path.read_text("utf-8"))
    train_args, config, model_args = _parsed(path)
    homes = [train_args, config, model_args]
    for name, value in settings.items():
        if name == "bf16":
            continue
        [found] = [getattr(home, name) for home in homes if hasattr(home, name)]
        assert getattr(found, "value", found) in (value, [value]), name
    functions, weights = load_rewards(train_args.rewards)
    assert len(functions) == 2
    assert weights == [0.9, 0.1]
    assert 0 < train_args.min_pixels < train_args.max_pixels


def test_the_papers_batch(eight_gpus: None) -> None:
    _, config, _ = _parsed(DATA / "qwen2.5_vl_7b_8gpu.yaml")
    assert config.generation_batch_size == 8 * 4 * 40
    assert config.generation_batch_size // config.rollouts_per_problem == 128
    assert config.beta == 0
    assert config.learning_rate == 1e-6
    assert config.num_train_epochs == 5


def test_the_adapter() -> None:
    _, config, model_args = _parsed(DATA / "qwen2.5_vl_3b_lora.yaml")
    adapter = get_peft_config(model_args)
    assert adapter.r == 32
    assert config.generation_batch_size // config.rollouts_per_problem == 16


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(FILES[0].read_text("utf-8") + "max_pixel: 3\n")
    with pytest.raises(ConfigError, match="max_pixel"):
        _parsed(path)
