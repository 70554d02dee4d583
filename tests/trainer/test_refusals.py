"""What TRL, transformers, peft and their kind refuse is one line; what is wrong in code keeps its traceback."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError, TrainingError
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.model_path import hub_error
from diva_grpo.trainer.refusals import in_one_line
from diva_grpo.trainer.train import TrainResult, main
from tests.support.tiny_text_model import planted_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    return planted_store(tmp_path_factory.mktemp("refusals") / "store")


def _train(store: VariantStore, model: Path, folder: Path, **settings: Any) -> TrainResult:
    words = "per_device_train_batch_size=16 num_generations=4 bf16=false use_cpu=true save_strategy=no max_steps=1"
    words += (
        " gradient_checkpointing=false report_to=none dtype=float32 disable_tqdm=true max_completion_length=4"
    )
    given: dict[str, object] = {}
    given |= dict(setting.split("=") for setting in words.split())
    given |= {"store": store.root, "model_name_or_path": model, "output_dir": folder, **settings}
    return main([part for name, value in given.items() for part in (f"--{name}", str(value))])


@pytest.mark.parametrize(
    ("settings", "words", "package"),
    [
        ({"optim": "adamz"}, "argument --optim: invalid choice: 'adamz'", None),
        ({"dtype": "flaot32"}, "argument --dtype", None),
        ({"learning_rate": "fast"}, "invalid float value: 'fast'", None),
        ({"lr_scheduler_type": "cosin"}, "cosin", None),
        ({"temperature": 0}, "temperature=0.0: above 0", None),
        ({"top_p": 2}, "top_p=2.0: should be less than or equal to 1", None),
        ({"report_to": "nothing"}, "transformers refuses these settings: nothing is not supported", None),
        ({"report_to": "wandb"}, "pip install wandb", "wandb"),
        ({"use_vllm": "true"}, "leave --use_vllm out", "vllm"),
        ({"load_in_4bit": "true"}, "bitsandbytes", "bitsandbytes"),
        ({"optim": "paged_adamw_8bit"}, "bitsandbytes", "bitsandbytes"),
        ({"use_liger_kernel": "true"}, "liger-kernel", "liger_kernel"),
        ({"attn_implementation": "flash_attention_2"}, "FlashAttention2", "flash_attn"),
        (
            {"use_peft": "true", "lora_target_modules": "q_projj"},
            "--lora_target_modules all-linear fits",
            None,
        ),
        ({"use_peft": "true", "lora_target_modules": "q_proj"}, "--lora_target_modules '.*q_proj'", None),
        ({"use_peft": "true", "lora_task_type": "FOO"}, "Invalid task type: 'FOO'", None),
        ({"use_peft": "true", "lora_r": 0}, "`r` should be a positive integer", None),
    ],
)
def test_refused_settings_are_one_line(
    settings: dict[str, Any],
    words: str,
    package: str | None,
    store: VariantStore,
    model_path: Path,
    tmp_path: Path,
) -> None:
    if package and find_spec(package):
        pytest.skip(f"{package} is installed")  # then nothing is refused
    with pytest.raises(ConfigError) as refused:
        _train(store, model_path, tmp_path / "out", **settings)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_deepspeed_that_is_not_installed(store: VariantStore, model_path: Path, tmp_path: Path) -> None:
    if find_spec("deepspeed"):
        pytest.skip("deepspeed is installed")  # then nothing is refused
    try:
        with pytest.raises(ConfigError, match=r"deepspeed.*not found") as refused:
            _train(store, model_path, tmp_path / "out", deepspeed="ds.json")
        assert "\n" not in str(refused.value)
    finally:
        unset_hf_deepspeed_config()  # transformers keeps it for later models


def test_an_output_dir_that_is_a_file(store: VariantStore, model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match=r"output_dir .* is a file"):
        _train(store, model_path, tmp_path / "out")


def test_a_folder_without_weights(store: VariantStore, model_path: Path, tmp_path: Path) -> None:
    for file in model_path.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"no file named model\.safetensors"):
        _train(store, tmp_path, tmp_path / "out")


def test_a_name_of_the_hub_without_a_network_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match="no such folder, and the hub cannot be asked for that name: HF_HUB_OFFLINE"
    ):
        load_tokenizer("owner/model")
    with socket.socket() as nobody:  # a port that is taken, and where nobody listens
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        hub_error.cache_clear()
        started = time.monotonic()
        with pytest.raises(ConfigError, match=r"owner/model: there is no such folder.*refused"):
            load_tokenizer("owner/model")
        assert time.monotonic() - started < 5
    hub_error.cache_clear()


def _write_bytes(path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(b"x")


def _write_state(path: str) -> None:
    torch.save({"a": torch.zeros(1000)}, path)


@pytest.mark.parametrize("write", [_write_bytes, _write_state])
def test_a_full_disk(write: Callable[[str], None]) -> None:
    with pytest.raises(TrainingError, match=r"no disk space is left.*--resume true"), in_one_line():
        write("/dev/full")


def test_a_full_disk_behind_another_error() -> None:
    def fails() -> None:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise ValueError("cannot save") from error

    with pytest.raises(TrainingError, match="no disk space"), in_one_line():
        fails()


def test_a_full_gpu() -> None:
    with pytest.raises(TrainingError, match="per_device_train_batch_size"), in_one_line():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def torn_reward(completions: list[Any], **columns: Any) -> list[float]:
    """A reward function with a mistake that torch finds."""
    return list((torch.zeros(2) + torch.zeros(3)).tolist())


def test_a_mistake_in_the_users_code_keeps_its_traceback(
    store: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    settings = {"rewards": f"{__name__}.torn_reward", "accuracy_from": "torn_reward"}
    with pytest.raises(RuntimeError, match="must match the size"):
        _train(store, model_path, tmp_path / "out", **settings)
