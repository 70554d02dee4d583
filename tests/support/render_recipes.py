"""Renders recipes in a process of its own and prints a hash of the pixels of each: for tests of determinism.

python -m tests.support.render_recipes COUNT
"""

from __future__ import annotations

import hashlib
import random
import sys

import numpy as np
from PIL import Image

from diva_grpo.pipeline.perturb import make_operation, render
from diva_grpo.schemas.recipe import OperationName, Recipe


def recipes(count: int) -> list[tuple[Recipe, list[Image.Image]]]:
    """Recipes of one to four operations with one or two small images, the same in every process."""
    rng = random.Random(6)
    made = []
    for _ in range(count):
        names = rng.sample(list(OperationName), rng.randint(1, 4))
        seed = rng.getrandbits(63)
        operations = tuple(make_operation(name, rng.random(), seed) for name in names)
        images = [_image(rng) for _ in range(rng.randint(1, 2))]
        chosen = rng.choice([(), (0,), (len(images) - 1,)])
        made.append((Recipe(operations=operations, seed=seed, images=chosen), images))
    return made


def _image(rng: random.Random) -> Image.Image:
    width, height = rng.randint(1, 90), rng.randint(1, 90)
    pixels = np.frombuffer(rng.randbytes(width * height * 3), np.uint8).reshape(height, width, 3)
    return Image.fromarray(pixels)


def main(count: int) -> None:
    """Prints one line a recipe."""
    for recipe, images in recipes(count):
        rendered, text = render(recipe, images, "How long is <image1>, in cm? Ответ: ∠α = 三角形")
        digest = hashlib.sha256(text.encode())
        for image in rendered:
            digest.update(repr((image.mode, image.size)).encode() + image.tobytes())
        print(digest.hexdigest())


if __name__ == "__main__":
    main(int(sys.argv[1]))
