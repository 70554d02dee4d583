"""Settings that belong together: what a preset sets, what overrides it, and whose settings they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.presets import METHOD, TRAINING_PRESETS
from diva_grpo.trainer.train import parse
from tests.bench.bed import ARMS

ONE_STEP = ["--store", "s", "--model_name_or_path", "m", "--output_dir", "o", "--bf16", "false"]
TEN_AT_ONCE = ["--per_device_train_batch_size", "40"]


def config_of(*flags: str, file: Path | None = None, **settings: object) -> DivaGRPOConfig:
    if file:
        file.write_text(yaml.safe_dump(settings))
        flags = ("--config", str(file), *flags)
    return parse([*ONE_STEP, *TEN_AT_ONCE, *flags])[1]


@pytest.mark.parametrize("name", TRAINING_PRESETS)
def test_every_setting_of_a_preset_arrives(name: str, tmp_path: Path) -> None:
    by_python = DivaGRPOConfig(
        **TRAINING_PRESETS[name], output_dir="o", bf16=False, per_device_train_batch_size=40
    )
    by_flag = config_of("--preset", name)
    by_file = config_of(file=tmp_path / "train.yaml", preset=name)
    for config in (by_python, by_flag, config_of(f"--preset={name}"), by_file):
        assert {key: getattr(config, key) for key in TRAINING_PRESETS[name]} == TRAINING_PRESETS[name]


def test_what_overrides_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    assert config_of("--selector", "uniform", "--preset", "hints").selector == "uniform"
    assert config_of(file=file, preset="hints", selector="uniform").selector == "uniform"
    on_the_command_line = config_of(
        "--preset", "hints", file=file, preset="paper", selector="uniform", seed=3
    )
    assert on_the_command_line.selector == "signal"
    assert on_the_command_line.learning_rate == DivaGRPOConfig(output_dir="o", bf16=False).learning_rate
    assert on_the_command_line.seed == 3
    assert config_of("--selector", "tier", file=file, preset="hints").selector == "tier"


def test_who_sets_nothing_of_the_method_gets_the_hints(tmp_path: Path) -> None:
    file, hints, plain = (
        tmp_path / "train.yaml",
        TRAINING_PRESETS["hints"],
        DivaGRPOConfig.__dataclass_fields__,
    )
    for config in (
        config_of(),
        config_of("--hint_style", "prefix"),
        config_of(file=file, learning_rate=2e-5),
    ):
        assert {key: getattr(config, key) for key in METHOD} == {key: hints[key] for key in METHOD}
    assert config_of("--hint_style", "prefix").hint_style == "prefix"
    assert config_of(file=file, learning_rate=2e-5).learning_rate == 2e-5
    for config in (
        config_of("--num-variants", "0"),
        config_of("--num_variants=0"),
        config_of(file=file, num_variants=0),
    ):
        left_out = set(METHOD) - {"num_variants", "advantage"}
        assert (config.num_variants, config.advantage) == (0, "grpo")
        assert {key: getattr(config, key) for key in left_out} == {
            key: plain[key].default for key in left_out
        }


@pytest.mark.parametrize("flags", [["--preset", "hint"], ["--preset="], ["--pres", "paper"], ["--preset"]])
def test_a_preset_that_is_none_is_refused(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match="preset"):
        config_of(*flags)


def test_the_hints_are_those_that_were_measured() -> None:
    measured = ARMS["response"]
    assert measured is not None
    assert measured.items() <= TRAINING_PRESETS["hints"].items()
