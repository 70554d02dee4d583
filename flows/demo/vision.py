"""The demo's stage with images: it builds a tiny random vision-language model and trains it on figures.

The model is too small to solve any of them. The stage shows that the path works: problems with images, and their
perturbed variants, go from the store through processor, generation and loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from diva_grpo.pipeline.store import VariantStore

IMAGE_SIZE = 28
PATCH_SIZE = 14
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
"""Number of tokens for one image."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tiny_processor(
    phrases: Sequence[str] = (),
    *,
    image_size: int = IMAGE_SIZE,
    patch_size: int = PATCH_SIZE,
    **preprocessing: Any,
) -> Any:
    """Build a processor with byte-level tokens and a few tokens per image. It does not need torchvision.

    Args:
        phrases: texts that are one token each.
        image_size: side to which an image is scaled and cropped, in pixels.
        patch_size: side of the patch that is one token, in pixels.
        **preprocessing: further settings of the image processor, such as `image_mean`.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: i for i, sign in enumerate(["<pad>", "</s>", "<image>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    tokenizer_class: Any = PreTrainedTokenizerFast
    fast = tokenizer_class(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    side = {"height": image_size, "width": image_size}
    processor_class: Any = LlavaProcessor
    return processor_class(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": image_size}, crop_size=side, **preprocessing
        ),
        tokenizer=fast,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_vision_model(processor: Any, *, hidden_size: int, heads: int, **text_settings: Any) -> Any:
    """Build an untrained LLaVA with two layers for the image and two for the text.

    Args:
        processor: its processor, see `tiny_processor`.
        hidden_size: width of the hidden states.
        heads: number of attention heads.
        **text_settings: further settings of the text model.
    """
    image_size: int = processor.image_processor.crop_size["height"]
    sizes: dict[str, Any] = {
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
    }
    vision = CLIPVisionConfig(
        **sizes, image_size=image_size, patch_size=processor.patch_size, projection_dim=16
    )
    ends: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    text = Qwen2Config(
        **sizes,
        **ends,
        vocab_size=len(processor.tokenizer),
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        **text_settings,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=2,
        image_seq_length=(image_size // processor.patch_size) ** 2,
        vision_feature_layer=-1,
        **ends,
    )
    return LlavaForConditionalGeneration(config)


def tiny_vision_model(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Save an untrained LLaVA and its processor in a folder that `from_pretrained` can load.

    Args:
        folder: the folder.
        seed: seed of the random parameters.
        dtype: type of the parameters.

    Returns:
        The folder.
    """
    processor = tiny_processor()
    torch.manual_seed(seed)
    model = build_vision_model(
        processor,
        hidden_size=16,
        heads=2,
        tie_word_embeddings=True,
        initializer_range=0.5,  # large, so that the image changes the output
    )
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def digits_reward(completions: Sequence[Any], **columns: Any) -> list[float]:
    """The share of digits among the characters of each completion. A random model can learn this in a few steps."""
    texts = [c if isinstance(c, str) else c[-1]["content"] or "" for c in completions]
    return [sum(sign.isdecimal() for sign in text) / max(1, len(text)) for text in texts]


@dataclass(frozen=True, slots=True)
class VisionRun:
    """The figures of the training run with images.

    Attributes:
        run_id: id of the training run.
        steps: number of optimizer steps.
        parameters: number of the model's parameters.
        problems: number of problems that were trained on.
        by_kind: rollouts by the kind of their prompt (`original` or the variant's kind).
        digits: share of digits in the answers, in the first and in the last quarter of the steps.
    """

    run_id: str
    steps: int
    parameters: int
    problems: int
    by_kind: dict[str, int]
    digits: tuple[float, float]


def train_on_figures(store: VariantStore, config: Path, condition: str, steps: int) -> VisionRun:
    """Build the model and train it on the figures of a store.

    Args:
        store: the store with figures and their variants.
        config: YAML file with the training configuration.
        condition: SQL condition on `problems`.
        steps: number of optimizer steps.
    """
    from diva_grpo.trainer.train import parse, train

    model = tiny_vision_model(store.root / "vision_model")
    arguments = ["--config", str(config), "--store", str(store.root), "--model_name_or_path", str(model)]
    arguments += ["--output_dir", str(store.root / "vision_model_trained"), "--max_steps", str(steps)]
    result = train(*parse([*arguments, "--problem_filter", condition]))
    kinds = store.query(
        "SELECT coalesce(v.kind, 'original') AS kind, count(*) FROM rollouts LEFT JOIN variants v USING (variant_id) "
        "WHERE run_id = ? GROUP BY 1 ORDER BY 1",
        [result.run_id],
    )
    [(problems, first, last)] = store.query(
        "SELECT count(DISTINCT problem_id), avg(reward - accuracy) FILTER (step < ?), "
        "avg(reward - accuracy) FILTER (step >= ?) FROM rollouts WHERE run_id = ?",
        [steps / 4, steps * 3 / 4, result.run_id],
    )
    loaded: Any = LlavaForConditionalGeneration
    parameters = sum(p.numel() for p in loaded.from_pretrained(model).parameters())
    return VisionRun(result.run_id, result.step, parameters, problems, dict(kinds), (first, last))
