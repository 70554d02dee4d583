"""Open images safely (`open_rgb`), and find the images in a row of a source (`read_pictures`).

The store keeps the original bytes. `open_rgb` returns the picture as a browser would display it. It raises an error
with a reason for an image that cannot be decoded completely, is too large, or has several frames.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from diva_grpo.schemas.exceptions import DivaError
from diva_grpo.schemas.records import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Accepted formats. Others are refused, because some of Pillow's readers start other programs (such as that of EPS)."""

# Errors that Pillow's readers raise for damaged bytes. The first three were found by fuzzing, the others in Pillow's
# source code.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)

_MAX_PIXELS = PillowImage.MAX_IMAGE_PIXELS or 0
_TOO_LARGE = f"more than {_MAX_PIXELS:,} pixels"
_DIGEST = re.compile("[0-9a-f]{64}")

# Largest number of characters of a path in an error message. The column may contain something else, such as base64.
_SHOWN_CHARS = 100


# First characters of PNG, JPEG, WebP, GIF and BMP in base64, and the smallest number of characters of an image.
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "Qk")
_BASE64_CHARS = 60
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

# No warning for large images, because `open_rgb` refuses them itself. The filter is set globally: `open_rgb` may run in
# several threads, and filters of `warnings` cannot be changed for a single thread.
warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)


class ImageError(DivaError, ValueError):
    """An image cannot be found or decoded. The message is the reason, for the user."""


@dataclass(frozen=True)
class Place:
    """How the image paths of a row are resolved.

    Attributes:
        folder: the folder that paths are relative to.
        root: the folder that must contain all images.
    """

    folder: Path
    root: Path


@dataclass(frozen=True)
class Picture:
    """An image that can be decoded.

    Attributes:
        content: its original bytes.
        image_format: the format, by Pillow's name ("PNG").
        record: its record for the store: hash, width and height.
    """

    content: bytes
    image_format: str
    record: Image


def open_rgb(source: Path | bytes) -> PillowImage.Image:
    """Open an image, upright, in RGB with 8 bits per channel.

    Transparent pixels become white, 16 bits per channel are scaled to 8, and the EXIF orientation is applied.

    Args:
        source: the bytes of an image, or a file. If the name of the file is a SHA-256, as in a store, the content must
            have this hash, because image formats do not detect every damage.

    Raises:
        ImageError: the image is missing, damaged, animated, too large, or of another format.
    """
    if isinstance(source, bytes):
        return _opened(source)[0]
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ImageError(f"image {source.name} cannot be read: {error.strerror}") from error
    try:
        if _DIGEST.fullmatch(source.stem) and hashlib.sha256(content).hexdigest() != source.stem:
            raise ImageError("damaged: its bytes are no longer those that were ingested")
        return _opened(content)[0]
    except ImageError as error:
        raise ImageError(f"image {source.name}: {error}") from error


def _opened(content: bytes) -> tuple[PillowImage.Image, str]:
    """Decode an image. Return the picture (RGB) and Pillow's name of its format."""
    with _reasons():
        # A separate pass over the whole file, which verifies the checksums of PNG. Decoding ignores them.
        with PillowImage.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image)
            image.verify()
        with PillowImage.open(io.BytesIO(content), formats=FORMATS) as image:
            image_format = image.format or ""
            # A JPEG with several pictures (MPO) is a photograph, which comes first, and its previews.
            if getattr(image, "n_frames", 1) > 1 and image_format != "MPO":
                raise ImageError("animated: it is not known which frame to use")
            image.load()
            return _rgb(ImageOps.exif_transpose(image)), image_format


@contextmanager
def _reasons() -> Iterator[None]:
    """Convert Pillow's errors for damaged or malicious images to ImageError."""
    try:
        yield
    except ImageError:
        raise
    except PillowImage.DecompressionBombError as error:
        raise ImageError(_TOO_LARGE) from error
    except UnidentifiedImageError as error:
        raise ImageError("not a readable PNG, JPEG, WebP, GIF or BMP image") from error
    except _DECODE_ERRORS as error:
        raise ImageError(f"damaged: {error}") from error


def _check_size(image: PillowImage.Image) -> None:
    if image.width * image.height > _MAX_PIXELS:
        raise ImageError(_TOO_LARGE)
    if not image.width or not image.height:
        raise ImageError("no pixels")


def _rgb(image: PillowImage.Image) -> PillowImage.Image:
    """Convert to RGB, with a white background for transparent pixels."""
    if image.mode.startswith("I"):
        # 16-bit grey levels, which only PNG has. They are scaled, because Pillow would clip values above 255.
        levels = np.asarray(image).astype(np.uint32)
        grey = PillowImage.fromarray(((levels * 255 + 32_767) // 65_535).astype(np.uint8))
        clear = image.info.get("transparency")
        if clear is not None:
            grey.putalpha(PillowImage.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
        image = grey
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = PillowImage.new("RGBA", layer.size, "white")
    return PillowImage.alpha_composite(ground, layer).convert("RGB")


def read_pictures(value: object, place: Place) -> list[Picture]:
    """Read all images of one cell, in order.

    Args:
        value: None, one image, or a list of images. An image is a path, bytes, base64, a data URI, or a
            `{bytes, path}` struct as the Image feature of `datasets` stores it. A text may also be a JSON array of
            paths, as in CSV files.
        place: how paths are resolved.

    Raises:
        ImageError: an image is missing, outside of the source's folder, too large, or not decodable.
    """
    pictures = []
    for position, item in enumerate(_as_list(value), start=1):
        try:
            pictures.append(_decode(_content(item, place)))
        except ImageError as error:
            name = f" ({_shown(item)})" if isinstance(item, str) else ""
            raise ImageError(f"image {position}{name}: {error}") from error
    return pictures


def _as_list(value: object) -> list[object]:
    if _is_missing(value) or (
        isinstance(value, list) and value and all(map(_is_missing, value)) and None not in value
    ):
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return value if isinstance(value, list) else [value]


def _is_missing(value: object) -> bool:
    """Whether a cell contains no image: None, "", or `{bytes: None, path: None}` in a table."""
    if isinstance(value, dict):
        return {"bytes", "path"} >= set(value) and not any(value.values())
    return value is None or value == ""


def _embedded(text: str) -> bytes | None:
    """Return the bytes of a data URI or of an image in base64; None if the text is neither, so that it is a path.

    Raises:
        ImageError: the text is a data URI, but not in valid base64.
    """
    header, comma, content = text.partition(",") if text.startswith("data:") else ("", "", text)
    if comma and not header.endswith(";base64"):
        raise ImageError("a data URI that is not in base64")
    # Base64 may contain line breaks. An image is recognised by the first bytes of its format.
    content = "".join(content.split())
    if not comma and (len(content) < _BASE64_CHARS or not content.startswith(_BASE64_STARTS)):
        return None
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        if comma:
            raise ImageError("a data URI whose base64 is damaged") from error
        return None


def _shown(path: str) -> str:
    return path[:_SHOWN_CHARS].encode("utf-8", "backslashreplace").decode()


def is_image(value: object) -> bool:
    """Whether a cell seems to contain images: bytes, a struct with bytes, base64, or paths with a known ending."""
    if isinstance(value, dict):
        return {"bytes", "path"} >= set(value) and isinstance(value.get("bytes"), bytes)
    if isinstance(value, list):
        return bool(value) and is_image(value[0])
    if isinstance(value, bytes):
        return value.startswith((b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM"))
    if not isinstance(value, str):
        return False
    path = len(value) <= _SHOWN_CHARS and value.lower().endswith(_ENDINGS)
    return (
        path
        or value.startswith("data:image/")
        or (len(value) > _SHOWN_CHARS and value.startswith(_BASE64_STARTS))
    )


@cache
def _real_roots(root: Path) -> list[Path]:
    """Return the folders that may contain the files of a source, with links resolved.

    These are the folder of the source and, in the cache of the hub, the folder `blobs`, to which its files are links.
    """
    root = root.resolve()
    snapshots = [folder for folder in (root, *root.parents) if folder.name == "snapshots"]
    return [root, *(folder.parent / "blobs" for folder in snapshots[:1])]


def _content(item: object, place: Place) -> bytes:
    if isinstance(item, dict):
        item = item["bytes"] if item.get("bytes") is not None else item.get("path")
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str) or not item or "\0" in item:
        raise ImageError("neither a path nor the bytes of an image")
    content = _embedded(item)
    if content is not None:
        return content
    if item.startswith(("http://", "https://")):
        raise ImageError("an address: images are not downloaded")
    path = Path(os.path.abspath(place.folder / item))
    if not path.is_relative_to(os.path.abspath(place.root)):
        raise ImageError("the path leads out of the source's folder")
    try:
        if not path.is_file():
            raise ImageError("no such file in the folder of the source")
        if not any(path.resolve().is_relative_to(root) for root in _real_roots(place.root)):
            raise ImageError("a link that leads out of the source's folder: copy the image there")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error


def _decode(content: bytes) -> Picture:
    """Decode an image completely, so that only usable images are stored, and return it with its record."""
    image, image_format = _opened(content)
    digest = hashlib.sha256(content).hexdigest()
    return Picture(content, image_format, Image(hash=digest, width=image.width, height=image.height))
