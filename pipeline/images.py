"""The images of a source's row: found, fully decoded once, and kept as the bytes that they came as."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from schemas.records import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats that are read. Others are refused: some of Pillow's readers start programs (EPS does)."""

# What Pillow's readers raise on damaged bytes: the first three by fuzzing them, the others by their code.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)

# Of a path, in a reason: the column may hold something else, such as an image in base64.
_SHOWN_CHARS = 100


class ImageError(ValueError):
    """An image that cannot be found or decoded; the message is a reason that a user understands."""


@dataclass(frozen=True)
class Place:
    """Where the paths of a row's images lead.

    Attributes:
        folder: paths are relative to it.
        root: paths must not leave it.
    """

    folder: Path
    root: Path


@dataclass(frozen=True)
class Picture:
    """A decodable image: its bytes as they came, Pillow's name of their format, and its record."""

    content: bytes
    image_format: str
    record: Image


def read_pictures(value: object, place: Place) -> list[Picture]:
    """All images of one cell, in order.

    Args:
        value: None, or one image or a list of images; an image is a path, bytes, or a `{bytes, path}` struct
            as the Image feature of `datasets` stores it. Text may also be a JSON array of paths (CSV).
        place: where paths lead.

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
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return value if isinstance(value, list) else [value]


def _shown(path: str) -> str:
    return path[:_SHOWN_CHARS].encode("utf-8", "backslashreplace").decode()


def _content(item: object, place: Place) -> bytes:
    if isinstance(item, dict):
        item = item["bytes"] if item.get("bytes") is not None else item.get("path")
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str) or not item or "\0" in item:
        raise ImageError("neither a path nor the bytes of an image")
    # Lexical on purpose: links inside of the folder are the user's own (the hub's cache is made of them),
    # a path in a row is not.
    path = Path(os.path.abspath(place.folder / item))
    if not path.is_relative_to(os.path.abspath(place.root)):
        raise ImageError("the path leads out of the source's folder")
    try:
        if not path.is_file():
            raise ImageError("no such file beside the source")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error


def _decode(content: bytes) -> Picture:
    """Decode every pixel once: `verify` finds damage that a lenient reader would pass over."""
    try:
        with warnings.catch_warnings():
            # From this warning on, an image is larger than any that a policy reads: a decompression bomb.
            warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
            with PillowImage.open(io.BytesIO(content), formats=FORMATS) as image:
                image.verify()
            with PillowImage.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                image_format = image.format or ""
                width, height = image.size
    except (PillowImage.DecompressionBombWarning, PillowImage.DecompressionBombError) as error:
        raise ImageError(f"more than {PillowImage.MAX_IMAGE_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError("not a readable PNG, JPEG, WebP, GIF or BMP image") from error
    except _DECODE_ERRORS as error:
        raise ImageError(f"damaged: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    return Picture(content, image_format, Image(hash=digest, width=width, height=height))
