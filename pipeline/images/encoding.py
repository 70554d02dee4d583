"""Encode images for requests: as data URLs of limited size, at the placeholders in the text."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Any

from PIL import Image

from diva_grpo.pipeline.images.shown import Shown
from diva_grpo.schemas.question import find_places

LOSSLESS_BYTES = 512 * 1024
"""An image is sent as PNG up to this number of bytes, so that drawings stay sharp. A larger one is sent as JPEG."""

_JPEG_QUALITY = 92


def content_parts(text: str, shown: Shown) -> str | list[dict[str, Any]]:
    """Return the content of a user message: the text, or a list of text and image parts if there are images.

    An image follows its placeholder. The placeholder stays in the text, so that the model can refer to the image and
    keep the placeholder in a rewording. Images without a placeholder come first.

    Args:
        text: the text of the message, with `<image>` or `<image1>` at the positions of its images.
        shown: its images. They are decoded here.

    Raises:
        StoreError: a file is missing or damaged.
    """
    if not shown:
        return text
    found = find_places(text, len(shown))
    images = _image_parts(shown)
    placed = {place for _, _, place in found}
    parts = [part for place, part in enumerate(images) if place not in placed]
    start = 0
    for _, end, place in found:
        parts += [{"type": "text", "text": text[start:end]}, images[place]]
        start = end
    return [*parts, {"type": "text", "text": text[start:]}] if start < len(text) else parts


@lru_cache(maxsize=32)
def _image_parts(shown: Shown) -> list[dict[str, Any]]:
    """Encode the images of a question.

    The result is cached, because requests for one problem follow each other, and encoding takes most of the time.
    """
    return [image_part(image) for image in shown.open()]


def image_part(image: Image.Image) -> dict[str, Any]:
    """Return an image as a part of a message: a base64 data URL of its pixels, without metadata.

    Images with equal pixels give the same text, whatever their files are. The text is part of the journal's key, so it
    must not depend on anything else.
    """
    mime, content = encoded(image)
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{mime};base64,{base64.b64encode(content).decode()}"},
    }


def encoded(image: Image.Image, lossless_bytes: int = LOSSLESS_BYTES) -> tuple[str, bytes]:
    """Return MIME type and bytes of an RGB image: PNG, or JPEG if the PNG is larger than `lossless_bytes`."""
    # Copy only the pixels. Otherwise Pillow would also write a colour profile or a comment of the original file.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "PNG", compress_level=6)
    if buffer.tell() <= lossless_bytes:
        return "image/png", buffer.getvalue()
    buffer = io.BytesIO()
    bare.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "image/jpeg", buffer.getvalue()
