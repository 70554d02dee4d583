"""The images of a question: decoded, resized and perturbed only when they are used.

Teacher, policy, trainer and pages all open images here, so that they see the same pixels.
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
"""Smallest area of an image for a policy, where none is set: 4 visual tokens of Qwen2.5-VL."""

ImagePath = Callable[[str], Path]
"""Maps the content hash of an image to its file, such as `VariantStore.image_path`."""


@dataclass(frozen=True, slots=True)
class Shown:
    """References to the images of one question. `open` decodes them; nothing is in memory before.

    Attributes:
        paths: files in order.
        recipe: how they are perturbed (JSON of `schemas.recipe.Recipe`); None for no perturbation.
        text: the problem's own text, which a recipe may draw into an image.
        min_pixels: smaller images are enlarged to about this area; None keeps their size.
        max_pixels: larger images are shrunk to at most this area; None keeps their size.
    """

    paths: tuple[Path, ...] = ()
    recipe: str | None = None
    text: str = ""
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def open(self) -> list[Image.Image]:
        """The images in order, upright, RGB.

        Raises:
            StoreError: a file is missing or damaged.
            RecipeError: the recipe does not fit these images.
        """
        images = [self._bounded(_opened(path)) for path in self.paths]
        if self.recipe is None:
            return images
        # Resized before, because resizing averages noise away, and after, because some operations enlarge.
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
    """The images of a question.

    Args:
        question: of the original or of a variant, with its recipe.
        find: finds files by content hash.
        min_pixels: see `Shown`.
        max_pixels: see `Shown`.

    Raises:
        StoreError: an image is missing.
    """
    paths = tuple(find(digest) for digest in question.image_hashes)
    return Shown(paths, question.recipe, question.original, min_pixels, max_pixels)


def bounded_size(size: Sequence[int], min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
    """Width and height of about the same ratio with an area within the bounds. In conflict the upper bound holds.

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
        # A side of one pixel cannot shrink further, so the other one must.
        width = max(1, min(width, max_pixels // height))
        height = min(height, max_pixels // width)
    return width, height


def _opened(path: Path) -> Image.Image:
    try:
        return open_rgb(path)
    except ImageError as error:
        raise StoreError(f"{error}: ingest its source again") from error
