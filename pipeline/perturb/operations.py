"""The operations on one image: the meaning of a strength in the unit of each operation, and its implementation.

The same input gives the same pixels on every run. Noise comes from the raw words of PCG64 (NumPy guarantees this
stream, but not its distributions) through tables of whole numbers, and the operations of Pillow use fixed-point
arithmetic. The draws do not depend on the strength. With one seed, a stronger perturbation therefore contains the
weaker one: the same noise with a larger amplitude, the same lost pixels and more of them.
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
_SPECKLE_ONE = 2**7  # a speckle's factor in fixed point: its product with a grey level fits 16 bits


class Draws:
    """Uniform 16-bit words for one operation on one image.

    Args:
        seed: of the recipe.
        image: position of the image in its problem, from 0.
        name: of the operation. Its draws do not depend on the other operations of the recipe.
    """

    def __init__(self, seed: int, image: int, name: OperationName) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, image, zlib.crc32(name.encode())]))

    def words(self, *shape: int) -> Words:
        """The next words, of the given shape."""
        count = int(np.prod(shape))
        raw = np.asarray(self._bits.random_raw(-(-count // 4)), dtype="<u8")
        return raw.view("<u2")[:count].reshape(shape)

    def numbers(self, count: int) -> list[float]:
        """The next numbers, each in [0, 1)."""
        return [int(word) / _WORDS for word in self.words(count)]

    def order(self, count: int) -> list[int]:
        """A permutation of range(count)."""
        keys = self.words(count).tolist()
        return sorted(range(count), key=lambda i: (keys[i], i))


def make_operation(name: OperationName, strength: float, seed: int) -> Operation:
    """The operation of that name at a strength, with its parameters in their units.

    Args:
        name: of the operation.
        strength: from 0 to 1; `OPERATIONS` says what it means.
        seed: of the recipe, for a choice that is a parameter (the direction of a rotation).
    """
    return Operation(name=name, strength=strength, parameters=OPERATIONS[name].parameters(strength, seed))


# --- rotation


def border_colour(image: Image.Image) -> tuple[int, int, int]:
    """The median of the outermost pixels, by channel."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    # The lower median is always a grey level of the image, and a whole number.
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
    """Quantiles of the standard normal at the middles of 65,536 equal steps."""
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
    # The product for white is at most 255 * 128 = 32,640. A larger factor is clipped, as its pixel would be.
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
    """Cover random cells of a grid, each by a patch at a random position inside the cell, so that no two overlap."""
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
    # libjpeg's integer DCT, which Pillow uses, is exact; without subsampling there is no other filter.
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
        unit: the meaning of a strength s.
        parameters: function of strength and seed that returns the parameters.
        apply: function of image, parameters and draws that returns the changed image; both images are RGB. None for
            the question, which needs a text and is drawn by `pipeline.perturb.drawing`.
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
