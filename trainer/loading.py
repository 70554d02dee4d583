"""Loads models, tokenizers and processors from a folder or the hub, with errors of one line."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import constants, try_to_load_from_cache
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils.peft_utils import find_adapter_config_file

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.refusals import first_line

_HUB_TIMEOUT_S = 10
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def _check_path(path: str) -> None:
    """Raise ConfigError at once if a model cannot be loaded; offline, the hub's client would retry for a minute."""
    if Path(path).exists():
        return
    if not _HUB_NAME.fullmatch(path):
        raise ConfigError(f"model {path}: there is no such folder, and a name of the hub is owner/name")
    try:
        kept = [try_to_load_from_cache(path, name) for name in ("config.json", "adapter_config.json")]
    except ValueError as error:  # an invalid name, such as `a..b`
        raise ConfigError(f"model {path}: {first_line(error)}") from error
    if any(isinstance(file, str) for file in kept):
        return
    unreachable = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _hub_error()
    if unreachable:
        raise ConfigError(
            f"model {path}: there is no such folder, and the hub cannot be asked for that name: {unreachable}"
        )


@cache
def _hub_error() -> str:
    """Return why the hub cannot be reached; empty if it can."""
    request = Request(constants.ENDPOINT, method="HEAD")
    try:
        urlopen(request, timeout=_HUB_TIMEOUT_S).close()
    except HTTPError:  # the hub answered
        return ""
    except OSError as error:
        return f"{constants.ENDPOINT}: {getattr(error, 'reason', error)}"
    return ""


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub name, with padding on the left as generation needs.

    Raises:
        ConfigError: there is no such model.
    """
    _check_path(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, padding_side="left")
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {path}: {first_line(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def reads_images(path: str) -> bool:
    """Return whether the architecture of a model reads images. For a LoRA adapter, that of its base model counts.

    Raises:
        ConfigError: there is no such model.
    """
    _check_path(path)
    try:
        adapter = find_adapter_config_file(path)
        base = json.loads(Path(adapter).read_text("utf-8"))["base_model_name_or_path"] if adapter else path
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {path}: {first_line(error)}") from error
    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def load_model(path: str, kind: Any) -> Any:
    """Load a model from a folder or the hub.

    Args:
        path: model folder or hub name.
        kind: one of the `AutoModel` classes.

    Raises:
        ConfigError: there is no such model, or it needs a package that is not installed.
    """
    try:
        return kind.from_pretrained(path)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model {path}: {first_line(error)}") from error


def load_processor(path: str, min_pixels: int | None = None, max_pixels: int | None = None) -> Any:
    """Load the processor of a vision-language model, with padding on the left as generation needs.

    Args:
        path: model folder or hub name.
        min_pixels: smallest area of an image, in pixels. Only for image processors with such a limit (Qwen's); None
            keeps the processor's own.
        max_pixels: largest area of an image, in the same way.

    Raises:
        ConfigError: there is no processor, it has no chat template, or it needs a package that is not installed.
    """
    auto: Any = AutoProcessor
    try:
        processor = auto.from_pretrained(path)
    except ImportError as error:
        raise ConfigError(
            f"processor of {path}: {first_line(error)} Install the extra `vision`: pip install 'diva-grpo[vision]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"processor of {path}: {first_line(error)}") from error
    if not isinstance(processor, ProcessorMixin):
        raise ConfigError(f"{path} is a vision-language model without a processor: save it beside the model")
    if processor.chat_template is None:
        raise ConfigError(f"the processor of {path} has no chat template, which says where images stand")
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    reader = processor.image_processor
    if "max_pixels" in getattr(reader.valid_kwargs, "__annotations__", {}):
        # In this family of image processors these keys are areas. In others they are lengths of edges.
        bounds = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        reader.size = {**dict(reader.size), **{name: value for name, value in bounds.items() if value}}
    return processor
