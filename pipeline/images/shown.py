"""The images of a question. They are decoded, resized and perturbed only when they are used.

All parts of the project (requests to endpoints, trainer, export, pages) open images here, so they use the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diva_grpo.pipeline.images.sources import ImageError, open_rgb
from diva_grpo.pipeline.perturb import render
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.question import Question
from diva_grpo.schemas.recipe import Recipe

MIN_PIXELS = 56 * 56
"""Default of the smallest area of an image for a policy, in pixels: 4 visual tokens of Qwen2.5-VL."""

ImagePath = Callable[[str], Path]
"""A function from the content hash of an image to its file, such as `VariantStore.image_path`."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The files of the images of one question, and how to prepare them. They are decoded only by `open`.

    Attributes:
        paths: the files in order.
        recipe: how the images are perturbed (JSON of `schemas.recipe.Recipe`); None for no perturbation.
        text: the text of the original, which a recipe may draw into an image.
        min_pixels: a smaller image is enlarged to about this area, in pixels; None does not enlarge.
        max_pixels: a larger image is shrunk to at most this area, in pixels; None does not shrink.
    """

    paths: tuple[Path, ...] = ()
    recipe: str | None = None
    text: str = ""
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def open(self) -> list[Image.Image]:
        """Decode the images, in order, upright, RGB.

        Raises:
            StoreError: a file is missing or damaged.
            RecipeError: the recipe does not fit these images.
        """
        images = [self._bounded(_opened(path)) for path in self.paths]
        if self.recipe is None:
            return images
        # The images are resized before the perturbation, because shrinking averages noise away, and again after it,
        # because some operations enlarge the image.
        changed, _ = render(Recipe.model_validate_json(self.recipe), images, self.text)
        return [self._bounded(image) for image in changed]

    def _bounded(self, image: Image.Image) -> Image.Image:
        size = bounded_size(image.size, self.min_pixels, self.max_pixels)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


NOTHING_SHOWN = Shown()


def shown_images(
    question: Question,
    find: ImagePath,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Shown:
    """Return the images of a question, not yet decoded.

    Args:
        question: the question of an original or a variant, with its recipe.
        find: returns the file of an image, given its content hash.
        min_pixels: see `Shown`.
        max_pixels: see `Shown`.

    Raises:
        StoreError: an image is missing.
    """
    paths = tuple(find(digest) for digest in question.image_hashes)
    return Shown(paths, question.recipe, question.original, min_pixels, max_pixels)


def bounded_size(size: Sequence[int], min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
    """Return width and height with about the same ratio, whose area is within the bounds.

    The upper bound has precedence if both cannot hold.

    >>> bounded_size((4000, 3000), None, 1_000_000)
    (1154, 866)
    """
    width, height = size
    area = width * height
    if min_pixels is not None and area < min_pixels:
        scale = math.sqrt(min_pixels / area)
        width, height = math.ceil(width * scale), math.ceil(height * scale)
        area = width * height
    if max_pixels is not None and area > max_pixels:
        scale = math.sqrt(max_pixels / area)
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
        # If one side was raised to one pixel, the other side must shrink further.
        width = max(1, min(width, max_pixels // height))
        height = min(height, max_pixels // width)
    return width, height


def _opened(path: Path) -> Image.Image:
    try:
        return open_rgb(path)
    except ImageError as error:
        raise StoreError(f"{error}: ingest its source again") from error
