"""A tiny Qwen2.5-VL, the paper's model in small, through the same trainer. Its processor needs torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from diva_grpo.schemas.question import question_of
from diva_grpo.trainer.evaluation.policy import PolicySolver
from diva_grpo.trainer.loading import load_processor
from tests.support.tiny_training import loss_inputs, make_trainer
from tests.support.tiny_vision_model import vision_store

SIGNS = (
    "<pad> </s> <|image_pad|> <|video_pad|> <|vision_start|> <|vision_end|> <|im_start|> <|im_end|>".split()
)
IMAGE_TOKEN = SIGNS.index("<|image_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def qwen_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the architecture with its processor."""
    pytest.importorskip("torchvision")
    import transformers as hf
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    folder = tmp_path_factory.mktemp("tiny-qwen")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={sign: i for i, sign in enumerate([*SIGNS, *alphabet])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    make: Any = hf
    fast = make.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", additional_special_tokens=SIGNS[2:]
    )
    make.Qwen2_5_VLProcessor(
        make.Qwen2VLImageProcessor(), fast, Qwen2VLVideoProcessor(), chat_template=TEMPLATE
    ).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"intermediate_size": 32, "hidden_size": 32}
    text = {
        **size,
        "vocab_size": len(fast),
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    vision = {
        **size,
        "depth": 2,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    config = make.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_TOKEN,
        video_token_id=3,
        vision_start_token_id=4,
        vision_end_token_id=5,
        tie_word_embeddings=True,
    )
    make.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, 0),
        (
            {
                "hint_style": "prefix",
                "refill_rounds": 2,
                "steps_per_generation": 2,
                "per_device_train_batch_size": 8,
            },
            2,
        ),
    ],
    ids=["images", "mixed"],
)
def test_it_trains_on_the_patches_of_its_prompts(
    options: dict[str, Any], text: int, qwen_path: Path, tmp_path: Path
) -> None:
    kinds = ("image", "image_text", "composite") if not text else ("image", "think_step")
    store = vision_store(tmp_path / "store", text=text, kinds=kinds)
    trainer = make_trainer(store, qwen_path, tmp_path / "out", **options)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    seen = loss_inputs(trainer)
    trainer.train()
    assert not [n for n, value in trainer.model.named_parameters() if torch.equal(value, before[n])]
    for batch in seen:
        grid = batch.get("image_grid_thw")
        tokens = 0 if grid is None else int(grid.prod(-1).sum()) // 4  # four patches a token
        assert int((batch["prompt_ids"] == IMAGE_TOKEN).sum()) == tokens


@pytest.mark.slow
def test_bounds_reach_its_image_processor(qwen_path: Path, tmp_path: Path) -> None:
    processor = load_processor(str(qwen_path), 3136, 50_176)
    assert dict(processor.image_processor.size) == {"shortest_edge": 3136, "longest_edge": 50_176}
    store = vision_store(tmp_path / "store")
    solver = PolicySolver(str(qwen_path), max_new_tokens=2, images=store.image_path, max_pixels=20_000)
    assert [len(given) for given in solver.solve([question_of(p) for p in store.problems()], 2)] == [2] * 6
