"""What TRL, transformers, peft and their kind refuse, as one line that says what to do.

with in_one_line():
    trainer = GRPOTrainer(...)
    trainer.train()

A traceback stays where code of ours or of the user's is at fault: it is what they need then.
"""

from __future__ import annotations

import errno
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from diva_grpo.schemas.exceptions import ConfigError, DivaError, TrainingError

_OURS = Path(__file__).parents[1]
_COMMAND = {Path(__file__), Path(__file__).with_name("train.py")}
_STANDARD = ("<frozen", "<string>", sysconfig.get_path("stdlib"))

_PASS_ON = frozenset(
    "__init__ __post_init__ train _run_epoch _load_from_checkpoint _load_best_model _loaded_whole".split()
)
"""Methods of ours that call those of packages and no more, beside all that is in `train.py`."""

_TO_DO = {
    "Target modules": "--lora_target_modules all-linear fits any language model",
    "use_vllm": "leave --use_vllm out to generate with transformers",
}
"""What to do beside what a message says, by words in it."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn what a package refuses into one line, and a full disk or memory too.

    Raises:
        ConfigError: a package refuses the settings.
        TrainingError: no memory or no disk is left.
    """
    try:
        yield
    except DivaError:
        raise
    except Exception as error:
        shortage = _shortage(error)
        if shortage:
            raise TrainingError(shortage) from error
        package = _refusing(error)
        if package is None:
            raise
        said = first_line(error)
        advice = "".join(f" ({to_do})" for words, to_do in _TO_DO.items() if words in said)
        raise ConfigError(f"{package} refuses these settings: {said}{advice}") from error


def first_line(error: Exception) -> str:
    """The first line of what an error says, with the next where it ends in a colon; its type where it says nothing."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _shortage(error: BaseException | None) -> str:
    """What ran out, and what to do; empty where nothing did."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return (
                "the GPU has no memory left: make per_device_train_batch_size, max_completion_length or max_pixels "
                "smaller, or set --gradient_checkpointing true; --resume true continues from the last checkpoint"
            )
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors and torch write in native code, and say so in words alone.
        words = (
            "No space left on device",
            "PytorchStreamWriter failed writing",
            "inline_container.cc",
            "Disk quota exceeded",
        )
        if full or any(word in str(error) for word in words):
            return (
                "no disk space is left: free some, and continue from the last complete checkpoint with --resume true "
                "(--save_total_limit N keeps the last N checkpoints alone)"
            )
        error = error.__cause__ or error.__context__
    return ""


def _refusing(error: Exception) -> str | None:
    """The package that raised an error, where nothing but packages and our calls of them stand in between."""
    package = None
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        below = path.parts[path.parts.index("site-packages") + 1 :] if "site-packages" in path.parts else ()
        if below and below[0] != "diva_grpo":
            package = below[0].removesuffix(".py")
        elif not frame.filename.startswith(_STANDARD):
            passes_on = path.is_relative_to(_OURS) and frame.name in _PASS_ON
            if path not in _COMMAND and not passes_on:
                return None
    return package
