"""Images on their way to an endpoint: data URLs of bounded size, where their placeholders stand in the text."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Any

from PIL import Image

from diva_grpo.pipeline.images.shown import Shown
from diva_grpo.schemas.question import find_places

LOSSLESS_BYTES = 512 * 1024
"""Up to this size an image is sent as PNG: drawings stay sharp. A photograph beyond it becomes JPEG."""

_JPEG_QUALITY = 92


def content_parts(text: str, shown: Shown) -> str | list[dict[str, Any]]:
    """The content of a user message: text alone, or text and images in turn.

    An image stands right behind its placeholder, which stays in the text, so that the model can name it and
    keep it in a rewriting; images without one go first.

    Args:
        text: of the message, with `<image>` or `<image1>` where its images stand.
        shown: its images. They are decoded one question at a time, here.

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
    """Kept for the questions of one problem, which are asked in a row: encoding costs more than all else here."""
    return [image_part(image) for image in shown.open()]


def image_part(image: Image.Image) -> dict[str, Any]:
    """An image as a part of a message: a base64 data URL of its pixels alone.

    Equal pixels give equal text, whatever file they came from: the text is part of the journal's key.
    """
    mime, content = encoded(image)
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{mime};base64,{base64.b64encode(content).decode()}"},
    }


def encoded(image: Image.Image, lossless_bytes: int = LOSSLESS_BYTES) -> tuple[str, bytes]:
    """MIME type and bytes of an RGB image: PNG, or JPEG where that would be larger than `lossless_bytes`."""
    # A copy of the pixels alone: Pillow would write a profile or a comment of the source along.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "PNG", compress_level=6)
    if buffer.tell() <= lossless_bytes:
        return "image/png", buffer.getvalue()
    buffer = io.BytesIO()
    bare.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "image/jpeg", buffer.getvalue()
