"""The operations on one image: their parameters at a given strength, and their implementation.

The same input gives the same pixels in every run. Noise is looked up in tables of integers by the raw output of PCG64
(NumPy guarantees that this output stays the same, but not that of its distributions). The operations of Pillow use
fixed-point arithmetic. The random numbers do not depend on the strength. So with the same seed, a stronger
perturbation includes the weaker one: it has the same noise with a larger amplitude, or loses the same pixels and
further ones.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from diva_grpo.schemas.recipe import Operation, OperationName

Parameters = Mapping[str, float]
Words = npt.NDArray[np.uint16]

_WORDS = 2**16
# 1.0 in the fixed-point factors of speckle noise. A factor times a grey level fits into 16 bits.
_SPECKLE_ONE = 2**7


class Draws:
    """Random numbers for one operation on one image, as uniform 16-bit words.

    Args:
        seed: the seed of the recipe.
        image: position of the image in its problem, from 0.
        name: the operation. Its random numbers do not depend on the other operations of the recipe.
    """

    def __init__(self, seed: int, image: int, name: OperationName) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, image, zlib.crc32(name.encode())]))

    def words(self, *shape: int) -> Words:
        """Return the next words (uint16, from 0 to 65,535) as an array of the given shape."""
        count = int(np.prod(shape))
        raw = np.asarray(self._bits.random_raw(-(-count // 4)), dtype="<u8")
        return raw.view("<u2")[:count].reshape(shape)

    def numbers(self, count: int) -> list[float]:
        """Return the next `count` random numbers, each in [0, 1)."""
        return [int(word) / _WORDS for word in self.words(count)]

    def order(self, count: int) -> list[int]:
        """Return a random permutation of range(count)."""
        keys = self.words(count).tolist()
        return sorted(range(count), key=lambda i: (keys[i], i))


def make_operation(name: OperationName, strength: float, seed: int) -> Operation:
    """Return an operation with the parameters for a strength.

    Args:
        name: name of the operation.
        strength: from 0 to 1. Its meaning is `OPERATIONS[name].unit`.
        seed: the seed of the recipe. It decides random parameters (the direction of a rotation).
    """
    return Operation(name=name, strength=strength, parameters=OPERATIONS[name].parameters(strength, seed))


# --- rotation


def border_colour(image: Image.Image) -> tuple[int, int, int]:
    """Return the median of the outermost pixels, for each channel."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    # The lower median, because it is always an integer.
    red, green, blue = np.sort(border, axis=0)[(len(border) - 1) // 2].tolist()
    return red, green, blue


def _degrees(strength: float, seed: int) -> dict[str, float]:
    clockwise = Draws(seed, 0, OperationName.ROTATE).words(1)[0] % 2
    return {"degrees": round(90 * strength, 2) * (1 if clockwise else -1)}


def _rotate(image: Image.Image, parameters: Parameters, _: Draws) -> Image.Image:
    return image.rotate(
        -parameters["degrees"],  # Pillow turns counter-clockwise
        Resampling.BILINEAR,
        expand=True,
        fillcolor=border_colour(image),
    )


# --- noise


@cache
def _quantiles() -> npt.NDArray[np.float64]:
    """Return 65,536 quantiles of the standard normal distribution, at (i + 0.5) / 65,536. Shape (65536,)."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / _WORDS) for i in range(_WORDS)])


def _clipped(levels: npt.NDArray[np.int16]) -> Image.Image:
    np.clip(levels, 0, 255, out=levels)
    return Image.fromarray(levels.astype(np.uint8))


def _gaussian_noise(image: Image.Image, parameters: Parameters, draws: Draws) -> Image.Image:
    pixels = np.asarray(image)
    table = np.rint(parameters["sigma"] * _quantiles()).astype(np.int16)
    noise = table[draws.words(*pixels.shape)]
    noise += pixels
    return _clipped(noise)


def _speckle(image: Image.Image, parameters: Parameters, draws: Draws) -> Image.Image:
    pixels = np.asarray(image)
    scaled = np.rint(parameters["sigma"] * _SPECKLE_ONE * _quantiles())
    # The largest product is 255 * 128 = 32,640, which fits into 16 bits. A larger factor can be clipped, because its
    # pixel would be clipped too.
    table = np.clip(scaled, -_SPECKLE_ONE, _SPECKLE_ONE).astype(np.int16)
    noise = table[draws.words(*pixels.shape)]
    noise *= pixels
    noise >>= 7
    noise += pixels
    return _clipped(noise)


def _salt_pepper(image: Image.Image, parameters: Parameters, draws: Draws) -> Image.Image:
    pixels = np.array(image)
    half = round(parameters["share"] * _WORDS / 2)
    words = draws.words(*pixels.shape[:2])
    pixels[words < half] = 0
    pixels[words >= _WORDS - half] = 255
    return Image.fromarray(pixels)


# --- loss of detail


def _blur(image: Image.Image, parameters: Parameters, _: Draws) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(parameters["radius"] * min(image.size)))


def _low_resolution(image: Image.Image, parameters: Parameters, _: Draws) -> Image.Image:
    small = tuple(max(1, round(side / parameters["factor"])) for side in image.size)
    return image.resize((small[0], small[1]), Resampling.BILINEAR).resize(image.size, Resampling.BILINEAR)


def _occlusion(image: Image.Image, parameters: Parameters, draws: Draws) -> Image.Image:
    """Cover random cells of a grid by patches. Each patch is at a random position inside its cell, so none overlap."""
    grid, patches = int(parameters["grid"]), int(parameters["patches"])
    side = (parameters["share"] * grid**2 / patches) ** 0.5
    covered = image.copy()
    width, height = image.size
    cells = draws.order(grid**2)[:patches]
    across, down = draws.numbers(patches), draws.numbers(patches)
    for cell, x, y in zip(cells, across, down, strict=True):
        left, top = cell % grid + x * (1 - side), cell // grid + y * (1 - side)
        box = (left * width, top * height, (left + side) * width, (top + side) * height)
        edges = [round(edge / grid) for edge in box]
        covered.paste((127, 127, 127), (edges[0], edges[1], edges[2], edges[3]))
    return covered


def _jpeg(image: Image.Image, parameters: Parameters, _: Draws) -> Image.Image:
    buffer = io.BytesIO()
    # Pillow uses libjpeg's integer DCT, which gives the same result everywhere. Subsampling would add another filter.
    image.save(buffer, "JPEG", quality=int(parameters["quality"]), subsampling=0, optimize=False)
    with Image.open(buffer, formats=["JPEG"]) as decoded:
        return decoded.convert("RGB")


def _contrast(image: Image.Image, parameters: Parameters, _: Draws) -> Image.Image:
    factor = parameters["factor"]
    return image.point([round(127.5 + (level - 127.5) * factor) for level in range(256)] * 3)


@dataclass(frozen=True, slots=True)
class OperationKind:
    """One kind of operation.

    Attributes:
        unit: the meaning of a strength s, as text.
        parameters: a function of strength and seed that returns the parameters.
        apply: a function of image, parameters and random numbers that returns the changed image. Both images are RGB.
            None for the operation `question`, which needs a text: `pipeline.perturb.drawing` implements it.
    """

    unit: str
    parameters: Callable[[float, int], dict[str, float]]
    apply: Callable[[Image.Image, Parameters, Draws], Image.Image] | None


OPERATIONS: dict[OperationName, OperationKind] = {
    OperationName.ROTATE: OperationKind("90 s degrees, either way", _degrees, _rotate),
    OperationName.GAUSSIAN_NOISE: OperationKind(
        "standard deviation of 128 s grey levels", lambda s, _: {"sigma": round(128 * s, 2)}, _gaussian_noise
    ),
    OperationName.SALT_PEPPER: OperationKind(
        "s / 2 of the pixels black or white", lambda s, _: {"share": round(s / 2, 4)}, _salt_pepper
    ),
    OperationName.SPECKLE: OperationKind(
        "standard deviation of s times the pixel's own value", lambda s, _: {"sigma": round(s, 4)}, _speckle
    ),
    OperationName.BLUR: OperationKind(
        "Gaussian of radius s % of the shorter side", lambda s, _: {"radius": round(s / 100, 6)}, _blur
    ),
    OperationName.LOW_RESOLUTION: OperationKind(
        "sides divided by 1 + 4 s, then enlarged again",
        lambda s, _: {"factor": round(1 + 4 * s, 4)},
        _low_resolution,
    ),
    OperationName.OCCLUSION: OperationKind(
        "s / 2 of the area covered by 8 grey patches",
        lambda s, _: {"share": round(s / 2, 4), "patches": 8, "grid": 4},
        _occlusion,
    ),
    OperationName.JPEG: OperationKind(
        "quality 40 - 39 s", lambda s, _: {"quality": round(40 - 39 * s)}, _jpeg
    ),
    OperationName.CONTRAST: OperationKind(
        "(1 - s)^2 of the contrast left, at least 5 %",
        lambda s, _: {"factor": round(0.05 + 0.95 * (1 - s) ** 2, 4)},
        _contrast,
    ),
    OperationName.QUESTION: OperationKind(
        "letters of 1 / (20 + 20 s) of the width, which is at least 480 pixels",
        lambda s, _: {"size": round(1 / (20 + 20 * s), 5)},
        None,
    ),
}
