"""The model that `diva train` is to load: by flags, by a YAML file and beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.model_path import check_model, named_model


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A YAML file with a model folder beside it."""
    (tmp_path / "settings" / "model").mkdir(parents=True)
    file = tmp_path / "settings" / "train.yaml"
    file.write_text("model_name_or_path: model\n")
    return file


def test_a_folder_in_a_yaml_file_is_relative_to_the_file(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diva_grpo.trainer.train import parse

    monkeypatch.chdir(tmp_path)
    arguments = ["--config", "settings/train.yaml", "--store", "s", "--bf16", "false", "--output_dir", "out"]
    check_model(arguments)
    assert named_model(arguments) == "settings/model"
    assert parse(arguments)[2].model_name_or_path == "settings/model"
    assert parse([*arguments, "--model_name_or_path", "model"])[2].model_name_or_path == "model"


def test_other_names_in_a_yaml_file_stay_as_they_are(config: Path) -> None:
    for name in ("owner/name", str(config.parent / "model"), "runs/model"):
        config.write_text(f"model_name_or_path: {name}\n")
        assert named_model(["--config", str(config)]) == name


@pytest.mark.parametrize(
    "flags",
    [
        ["--model_name_or_path", "other"],
        ["--model_name_or_path=other"],
        ["--model-name-or-path", "other"],
        ["--model_name", "other"],
        ["--model_n=first", "--model_name_or_path", "other"],
    ],
)
def test_flags_override_the_file(config: Path, flags: list[str]) -> None:
    assert named_model(["--config", str(config), *flags]) == "other"
    assert named_model([*flags, "--config", str(config)]) == "other"


def test_no_model_is_named(config: Path) -> None:
    config.write_text("- a list\n")
    for arguments in (
        [],
        ["--config"],
        ["--config", str(config)],
        ["--config", "nowhere"],
        ["--model_revision", "a"],
    ):
        with pytest.raises(ConfigError, match="no model: give --model_name_or_path"):
            check_model(arguments)
    check_model(["--help"])


def test_a_path_that_is_no_folder_is_known_before_torch_is_loaded() -> None:
    program = """
import sys
from diva_grpo.trainer.model_path import check_model
try:
    check_model(["--model_name_or_path", "no/such/model"])
except ValueError as error:
    print(error)
print(sorted({"torch", "transformers", "trl"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "model no/such/model: there is no such folder, and a name of the hub is owner/name",
        "[]",
    ]
