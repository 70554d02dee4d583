"""The images of a question as they are shown: decoded, bounded and perturbed when they are used, not before.

Teacher, policy, trainer and gallery all open images here, so that they see the same picture.
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
"""Where the image of a content hash lies, such as `VariantStore.image_path`."""


@dataclass(frozen=True, slots=True)
class Shown:
    """References to the images of one question; no pixel is in memory before `open`.

    Attributes:
        paths: files in order.
        recipe: how they are perturbed (JSON of `schemas.recipe.Recipe`), if they are.
        text: the problem's own text, which a recipe may draw into an image.
        min_pixels: smaller images are enlarged to about this area; None leaves them.
        max_pixels: larger images are made smaller, to no more than this area; None leaves them.
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
        # Bounded before, or noise would be averaged away; and after, since some operations enlarge.
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
    """What a question shows.

    Args:
        question: the original's, or that of a variant with its recipe.
        find: finds files by content hash.
        min_pixels: see `Shown`.
        max_pixels: see `Shown`.

    Raises:
        StoreError: an image is missing.
    """
    paths = tuple(find(digest) for digest in question.image_hashes)
    return Shown(paths, question.recipe, question.original, min_pixels, max_pixels)


def bounded_size(size: Sequence[int], min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
    """Width and height of about the same ratio whose product is within the bounds; the upper one wins.

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
        # A side of one pixel cannot shrink any more: the other must.
        width = max(1, min(width, max_pixels // height))
        height = min(height, max_pixels // width)
    return width, height


def _opened(path: Path) -> Image.Image:
    try:
        return open_rgb(path)
    except ImageError as error:
        raise StoreError(f"{error}: ingest its source again") from error
