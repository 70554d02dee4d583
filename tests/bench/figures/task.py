"""The task `figures`: count drawn shapes, by a policy that counts clean figures and fails on perturbed ones.

A figure has 1 to 9 circles, squares and triangles on white, and the answer is their number, one token. The warm model
has seen clean figures, and some that are turned by a few degrees, so that the sentence about the rotation is no riddle.
It is right on most clean figures in all rollouts of a group, which is then silent. Variants are the recipes that
`perturb_images` makes: turned, noisy, pale or compressed figures, at the strengths of the method.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diva_grpo.flows.demo.toy_models import fit
from diva_grpo.flows.demo.vision import build_vision_model, tiny_processor
from diva_grpo.pipeline.perturb import make_operation, render
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages import curate
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig, VerifyConfig
from diva_grpo.schemas.recipe import OperationName, Recipe
from diva_grpo.schemas.records import Image as ImageRecord
from diva_grpo.schemas.records import Kind, Problem

SIDE, PATCH = 48, 12
"""Sides of a figure and of the model's patches, in pixels."""
GRID, SCALE = 4, 2
"""Cells along a side of a figure, each with at most one shape; and by how much larger it is drawn at first."""
COUNTS: Final = range(1, 10)
COLOURS: Final = ("#1f4e9c", "#b5392b", "#2d7d46", "#222222")
QUESTION: Final = "How many shapes are in the picture?"
SIZES: Final = MappingProxyType({"train": 128, "test": 256})
"""Problems of each split."""
KINDS: Final = (Kind.IMAGE, Kind.COMPOSITE)
FAMILIES: Final = 2
"""Operations, or pairs of them, for each problem and kind."""
OPERATIONS: Final = tuple(name for name in OperationName if name != OperationName.QUESTION)
"""All but the question drawn into the image: writing is not readable in so small a figure."""
SUITED: Final = (
    OperationName.ROTATE,
    OperationName.CONTRAST,
    OperationName.GAUSSIAN_NOISE,
    OperationName.SPECKLE,
    OperationName.SALT_PEPPER,
    OperationName.JPEG,
)
"""Those that the rules let through for these figures."""
HIDDEN_SIZE, HEADS, EMBEDDING_STD, WEIGHT_STD = 64, 4, 1.0, 0.08
WARM_STEPS, WARM_BATCH, WARM_LEARNING_RATE, RAMP = 300, 64, 2e-3, 50
POOL: Final = 3_072
"""Different figures of the warm-up."""
SHARE_PERTURBED, MOST_PERTURBED = 0.5, 0.2
"""Share of the figures of the warm-up that are perturbed, by one operation, and up to which strength. Variants have at
least 0.3."""
_IGNORED = -100


def draw(rng: random.Random, count: int) -> Image.Image:
    """Draw a figure with `count` shapes, each in a cell of its own."""
    cell = SIDE / GRID
    picture = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), "white")
    pen = ImageDraw.Draw(picture)
    for place in rng.sample(range(GRID * GRID), count):
        radius = rng.uniform(0.28, 0.38) * cell
        x, y = ((at + 0.5) * cell + rng.uniform(-1, 1) for at in (place % GRID, place // GRID))
        box = [SCALE * edge for edge in (x - radius, y - radius, x + radius, y + radius)]
        shape, colour = rng.choice(("circle", "square", "triangle")), rng.choice(COLOURS)
        if shape == "circle":
            pen.ellipse(box, colour)
        elif shape == "square":
            pen.rectangle(box, colour)
        else:
            pen.polygon([(SCALE * x, box[1]), (box[2], box[3]), (box[0], box[3])], colour)
    return picture.reduce(SCALE)


def accuracy_reward(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """1 where a completion is the number of shapes and nothing else, else 0."""
    said = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(text.strip() == right) for text, right in zip(said, answer, strict=True)]


def build_processor() -> Any:
    """The processor: a phrase a token, and white is 0, so that shapes stand out from the first step on."""
    phrases = ["<user>", "<assistant>", f"\n{QUESTION}", "\n(The image is rotated by "]
    phrases += [f" degrees {way}clockwise.)" for way in ("", "counter-")]
    return tiny_processor(
        phrases, image_size=SIDE, patch_size=PATCH, image_mean=[1.0] * 3, image_std=[0.3] * 3
    )


def warm_up(folder: Path, seed: int) -> None:
    """Train a model from nothing to count, and save it with its processor."""
    torch.manual_seed(seed)
    processor = build_processor()
    model = build_vision_model(processor, hidden_size=HIDDEN_SIZE, heads=HEADS, tie_word_embeddings=False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=WEIGHT_STD)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=EMBEDDING_STD)
    inputs = _batches(processor, random.Random(seed))
    fit(model, inputs, steps=WARM_STEPS, ramp=RAMP, name="figures", learning_rate=WARM_LEARNING_RATE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _batches(processor: Any, rng: random.Random) -> Iterator[dict[str, Tensor]]:
    """Batches of figures with their counts, without end."""
    counts = [rng.choice(COUNTS) for _ in range(POOL)]
    figures = [_slightly_perturbed(rng, draw(rng, count)) for count in counts]
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    texts = [f"<user><image>{text}\n</s><assistant>" for _, text in figures]
    asked = processor(images=[[image] for image, _ in figures], text=texts, padding=True, return_tensors="pt")
    answers = torch.tensor([[*tokenizer.encode(str(count)), tokenizer.eos_token_id] for count in counts])
    tokens = torch.cat([asked["input_ids"], answers], dim=1)
    mask = torch.cat([asked["attention_mask"], torch.ones_like(answers)], dim=1)
    labels = torch.cat([torch.full_like(asked["input_ids"], _IGNORED), answers], dim=1)
    chooser = np.random.default_rng(rng.getrandbits(32))
    while True:
        rows = torch.from_numpy(chooser.integers(0, POOL, WARM_BATCH))
        yield {
            "input_ids": tokens[rows],
            "attention_mask": mask[rows],
            "labels": labels[rows],
            "pixel_values": asked["pixel_values"][rows],
        }


def _slightly_perturbed(rng: random.Random, figure: Image.Image) -> tuple[Image.Image, str]:
    """Return a figure, clean or slightly perturbed, and the text that follows it."""
    text = f"\n{QUESTION}"
    if rng.random() >= SHARE_PERTURBED:
        return figure, text
    seed = rng.getrandbits(32)
    operation = make_operation(rng.choice(SUITED), rng.uniform(0.0, MOST_PERTURBED), seed)
    (image,), text = render(Recipe(operations=(operation,), seed=seed), [figure], text)
    return image, text


def fill_store(root: Path, seed: int) -> None:
    """Make the store: problems of both splits with their figures, and the image variants of all, accepted."""
    store, rng = VariantStore(root, create=True), random.Random(f"problems {seed}")
    store.append(
        [_problem(store, rng, split, number) for split, size in SIZES.items() for number in range(size)]
    )
    made = GenerateConfig(kinds=KINDS, image_families=FAMILIES, image_operations=OPERATIONS)
    with Session(store) as session:
        curate.generate(session, made)
        curate.verify(session, VerifyConfig())


def _problem(store: VariantStore, rng: random.Random, split: str, number: int) -> Problem:
    count = rng.choice(COUNTS)
    file = io.BytesIO()
    draw(rng, count).save(file, "PNG")
    return Problem(
        problem_id=f"figures/{split}/{number:03}",
        source="figures",
        split=split,
        text=f"<image>\n{QUESTION}",
        answer=str(count),
        images=[ImageRecord(hash=store.put_image(file.getvalue(), "PNG"), width=SIDE, height=SIDE)],
    )
