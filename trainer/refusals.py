"""Turns exceptions of TRL, transformers, peft and other packages into errors of one line that say what to do.

with in_one_line():
    trainer = GRPOTrainer(...)
    trainer.train()

Exceptions from code of this project or of the user are not changed, because their traceback helps to find the fault.
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
    "__init__ __post_init__ train _run_epoch _load_from_checkpoint _load_best_model _loaded_whole "
    "_calculate_rewards".split()
)
"""Names of our functions that only call those of packages. All code in `train.py` and in this file counts too."""

_TO_DO = {
    "Target modules": "--lora_target_modules all-linear fits any language model; a single name is a pattern of whole "
    "names: --lora_target_modules '.*q_proj'",
    "use_vllm": "leave --use_vllm out to generate with transformers",
}
"""Advice to add to a message, by words that the message contains."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn exceptions of packages, and those of a full disk or GPU memory, into errors of one line.

    Raises:
        ConfigError: a package raised an exception, which is taken to mean that it refuses the settings.
        TrainingError: GPU memory or disk space is exhausted.
    """
    try:
        yield
    except DivaError:
        raise
    except Exception as error:  # other packages raise errors of any class; what is not theirs is raised again
        shortage = _shortage(error)
        if shortage:
            raise TrainingError(shortage) from error
        package = refusing_package(error)
        if package is None:
            raise
        said = first_line(error)
        advice = "".join(f" ({to_do})" for words, to_do in _TO_DO.items() if words in said)
        raise ConfigError(f"{package} refuses these settings: {said}{advice}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if the message is empty.

    If the first line ends in a colon, the second line is added.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _shortage(error: BaseException | None) -> str:
    """Return a message that says which resource is exhausted and what to do; empty if none is."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return (
                "the GPU has no memory left: make per_device_train_batch_size, max_completion_length or max_pixels "
                "smaller, or set --gradient_checkpointing true; --resume true continues from the last checkpoint"
            )
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors and torch write in native code: their exceptions have no errno, only a message.
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


def refusing_package(error: Exception) -> str | None:
    """Return the name of the package that raised an error.

    None if the traceback has a function of this project that does more than call a package, or code of the user.
    """
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
