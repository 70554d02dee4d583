"""Loads models, tokenizers and processors from a folder or the hub, with errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils.peft_utils import find_adapter_config_file

from diva_grpo.schemas.exceptions import ConfigError, first_line
from diva_grpo.trainer.model_path import check_path


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub name, with padding on the left as generation needs.

    Raises:
        ConfigError: there is no such model.
    """
    check_path(path)
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
    check_path(path)
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
