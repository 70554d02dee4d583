"""Prompts with images in training: decoded and perturbed when the processor asks for them, one at a time.

TRL takes images as a column of the rows (`images`), hands them to the processor twice for each generation, once for
every rollout, and keeps them with the logged prompts. What it gets here are references (`ShownImage`), which cost
nothing to copy, to send to another process or to keep; `each_image_once` has the processor see each distinct
image a single time, so that no more than the images of one problem are ever decoded at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from trl import GRPOTrainer

from diva_grpo.pipeline.images.shown import Shown
from diva_grpo.trainer.prompts import Prompt, with_image_parts


class ShownImage(Image.Image):
    """One image of a prompt, by reference: a Pillow image whose pixels are made when they are first asked for.

    Copied and pickled, it stays a reference. Code that knows nothing of it (a logger, vLLM) finds an RGB image.

    Args:
        shown: the images of the prompt's question.
        place: number of this one, from 0.
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
        """Decode and perturb, unless that is done."""
        self._decode()
        return super().load()

    @property
    def im(self) -> Any:
        """Pillow's own pixels."""
        self._decode()
        return self._im

    @im.setter
    def im(self, im: Any) -> None:
        self._im = im

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
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
    """Gives rows of the training data their images, as TRL's column `images` and as parts of the prompt.

    Attributes:
        find: finds files by content hash, such as `VariantStore.image_path`.
        min_pixels: see `pipeline.images.shown.Shown`.
        max_pixels: see `pipeline.images.shown.Shown`.
    """

    find: Callable[[str], Path]
    min_pixels: int | None = None
    max_pixels: int | None = None

    def columns(self, row: Mapping[str, Any], prompt: Prompt, recipe: str | None = None) -> dict[str, Any]:
        """The columns `prompt` and `images` of a row.

        Args:
            row: of the training data: `image_hashes`, and `text`, the problem's own.
            prompt: with the placeholders of its images.
            recipe: of the variant, if it has one.
        """
        paths = tuple(self.find(digest) for digest in row["image_hashes"])
        shown = Shown(paths, recipe, row["text"], self.min_pixels, self.max_pixels)
        messages, order = with_image_parts(prompt, len(paths))
        return {"prompt": messages, "images": [ShownImage(shown, place) for place in order]}


class SeeingGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose prompts may hold `ShownImage`s, beside prompts without an image."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for model in (self.model, self.ref_model):
            if self._is_vlm and model is not None:
                model.register_forward_pre_hook(_without_empty_pixels, with_kwargs=True)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        *generated, images, tool_images = super()._generate(prompts)
        # TRL marks a prompt without images by None, which processors refuse beside prompts with some.
        return (*generated, images and [group or [] for group in images], tool_images)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with each_image_once(self.processing_class):
            return dict(super()._generate_and_score_completions(inputs))


def _without_empty_pixels(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A slice of a mixed batch may hold prompts of text alone, and models fail on no pixels."""
    pixels = kwargs.get("pixel_values")
    if pixels is None or pixels.numel():
        return args, kwargs
    return args, {name: value for name, value in kwargs.items() if name not in _OF_IMAGES}


@contextmanager
def each_image_once(processor: Any) -> Iterator[None]:
    """While open, a processor handles each distinct `ShownImage` once, and one problem's images at a time.

    Args:
        processor: with an image processor, or a tokenizer, which is left as it is.
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
"""Arguments of a model's forward pass that are of its images."""

_SEPARABLE = frozenset({"pixel_values", "image_grid_thw", "image_sizes"})
"""Outputs that are of one image each; others (masks, tiles) depend on what else is in the batch."""


class _OneAtATime:
    """Stands in the place of an image processor, and remembers what it made of each image."""

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
    """One value of all images, from those of each, along the first axis."""
    if isinstance(values[0], torch.Tensor):
        return torch.cat(list(values))
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    return [item for value in values for item in value]


def _opened(images: Any) -> Any:
    """Nested lists of references with pixels in their place, each distinct image opened once."""
    opened: dict[Shown, list[Image.Image]] = {}

    def open_all(item: Any) -> Any:
        if isinstance(item, ShownImage):
            shown, place = item.reference
            if shown not in opened:
                opened[shown] = shown.open()
            return opened[shown][place]
        return [open_all(inner) for inner in item]

    return open_all(images)
