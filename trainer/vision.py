"""Prompts with images in training. An image is decoded and perturbed only when the processor reads it.

TRL takes images from a column of the rows (`images`). In each generation it passes the image of every rollout to the
processor twice, and it keeps images with the logged prompts. Here the column has references (`ShownImage`), which take
little memory and time to copy, to keep, or to send to another process. `each_image_once` makes the processor handle
each distinct image only once. So only the images of one problem are decoded at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from trl import GRPOTrainer

from diva_grpo.pipeline.images.shown import Shown
from diva_grpo.trainer.prompts import Prompt, with_image_parts


class ShownImage(Image.Image):
    """A reference to one image of a prompt: a Pillow image that is decoded when its pixels are first read.

    A deep copy or a pickle of it is a reference too. Other code (a logger, vLLM) can use it as an RGB image.

    Args:
        shown: the images of the prompt's question.
        place: number of this image among them, from 0.
    """

    def __init__(self, shown: Shown, place: int) -> None:
        super().__init__()
        self.reference = (shown, place)
        self._mode = "RGB"

    def _decode(self) -> None:
        if self._im is None:
            shown, place = self.reference
            opened = shown.open()[place]
            self._im, self._size = opened.im, opened.size

    def load(self) -> Any:
        """Decode and perturb the image, if this has not been done yet."""
        self._decode()
        return super().load()

    @property
    def im(self) -> Any:
        """Pillow's image core, which has the pixels."""
        self._decode()
        return self._im

    @im.setter
    def im(self, im: Any) -> None:
        self._im = im

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        self._decode()
        return self._size

    def __deepcopy__(self, memo: dict[int, Any]) -> ShownImage:
        return self

    def __reduce__(self) -> tuple[type[ShownImage], tuple[Shown, int]]:
        return ShownImage, self.reference

    def __repr__(self) -> str:
        return (
            f"<image {self.reference[1] + 1} of {', '.join(path.name for path in self.reference[0].paths)}>"
        )


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Adds images to rows of the training data, in TRL's column `images` and as parts of the prompt.

    Attributes:
        find: returns the file of an image by its content hash, such as `VariantStore.image_path`.
        min_pixels: see `pipeline.images.shown.Shown`.
        max_pixels: see `pipeline.images.shown.Shown`.
    """

    find: Callable[[str], Path]
    min_pixels: int | None = None
    max_pixels: int | None = None

    def columns(self, row: Mapping[str, Any], prompt: Prompt, recipe: str | None = None) -> dict[str, Any]:
        """Return the columns `prompt` and `images` of a row.

        Args:
            row: row of the training data, with `image_hashes` and the problem's `text`.
            prompt: prompt with placeholders for the images.
            recipe: image recipe of the variant; None if the images are not perturbed.
        """
        paths = tuple(self.find(digest) for digest in row["image_hashes"])
        shown = Shown(paths, recipe, row["text"], self.min_pixels, self.max_pixels)
        messages, order = with_image_parts(prompt, len(paths))
        return {"prompt": messages, "images": [ShownImage(shown, place) for place in order]}


class SeeingGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose batches may have prompts with `ShownImage`s and prompts without images."""

    log_multimodal: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for model in (self.model, self.ref_model):
            if self._is_vlm and model is not None:
                model.register_forward_pre_hook(_without_empty_pixels, with_kwargs=True)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        *generated, images, tool_images = super()._generate(prompts)
        # TRL has None for a prompt without images, which processors refuse if other prompts have images.
        return (*generated, images and [group or [] for group in images], tool_images)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL gathers the images for its table of completions only where rows have any: a process with prompts of text
        # alone would leave the others waiting, and the table would keep the images of an earlier batch.
        logs_images, self.log_multimodal = self.log_multimodal, False
        try:
            with each_image_once(self.processing_class):
                output = dict(super()._generate_and_score_completions(inputs))
        finally:
            self.log_multimodal = logs_images
        if self._is_vlm and logs_images and self.log_completions:
            self._logs["images"].extend(gather_object([_images_of(row) for row in inputs]))
        return output


def _images_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the images of a row of the training data, from the column `images` or `image`."""
    images = row.get("images") or [row.get("image")]
    return [image for image in images if image is not None]


def _without_empty_pixels(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward hook: remove the image arguments if there are no pixels, because models fail on empty pixels.

    This happens if a slice of a mixed batch has only prompts without images.
    """
    pixels = kwargs.get("pixel_values")
    if pixels is None or pixels.numel():
        return args, kwargs
    return args, {name: value for name, value in kwargs.items() if name not in _OF_IMAGES}


@contextmanager
def each_image_once(processor: Any) -> Iterator[None]:
    """Make a processor handle each distinct `ShownImage` only once while the context is open.

    It decodes the images of one problem at a time.

    Args:
        processor: a processor with an image processor. A tokenizer is not changed.
    """
    inner = getattr(processor, "image_processor", None)
    if inner is None:
        yield
        return
    processor.image_processor = _OneAtATime(inner)
    try:
        yield
    finally:
        processor.image_processor = inner


_OF_IMAGES = frozenset(
    "pixel_values image_grid_thw image_sizes image_position_ids pixel_attention_mask spatial_shapes".split()
)
"""Image arguments of a model's forward pass."""

_SEPARABLE = frozenset({"pixel_values", "image_grid_thw", "image_sizes"})
"""Outputs of an image processor that depend on one image only. Others (masks, tiles) depend on the other images of the
batch too."""


class _OneAtATime:
    """Wraps an image processor and caches its output for each image."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._done: dict[tuple[str, Shown, int], dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, images: Any, return_tensors: Any = None, **options: Any) -> Any:
        flat: Any = make_flat_list_of_images(images)
        if not all(isinstance(image, ShownImage) for image in flat):
            return self._inner(images, return_tensors=return_tensors, **options)
        named = repr(sorted(options.items(), key=lambda item: item[0]))
        features = [self._features(named, image, options) for image in flat]
        if not _separable(features):
            return self._inner(_opened(images), return_tensors=return_tensors, **options)
        joined = {name: _joined([feature[name] for feature in features]) for name in features[0]}
        return BatchFeature(joined, tensor_type=return_tensors)

    def _features(self, named: str, image: ShownImage, options: Mapping[str, Any]) -> dict[str, Any]:
        shown, place = image.reference
        if (named, shown, place) not in self._done:
            for number, opened in enumerate(shown.open()):
                self._done[named, shown, number] = dict(self._inner([opened], **options))
        return self._done[named, shown, place]


def _separable(features: Sequence[Mapping[str, Any]]) -> bool:
    shapes = {tuple((name, np.shape(feature[name])[1:]) for name in sorted(feature)) for feature in features}
    return len(shapes) == 1 and features[0].keys() <= _SEPARABLE


def _joined(values: Sequence[Any]) -> Any:
    """Concatenate the values of several images along the first axis."""
    if isinstance(values[0], torch.Tensor):
        return torch.cat(list(values))
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    return [item for value in values for item in value]


def _opened(images: Any) -> Any:
    """Return nested lists of `ShownImage`s with decoded images in their place; each distinct image is opened once."""
    opened: dict[Shown, list[Image.Image]] = {}

    def open_all(item: Any) -> Any:
        if isinstance(item, ShownImage):
            shown, place = item.reference
            if shown not in opened:
                opened[shown] = shown.open()
            return opened[shown][place]
        return [open_all(inner) for inner in item]

    return open_all(images)
