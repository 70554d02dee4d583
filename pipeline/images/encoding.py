"""Images in requests: data URLs of bounded size, at the placeholders in the text."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Any

from PIL import Image

from diva_grpo.pipeline.images.shown import Shown
from diva_grpo.schemas.question import find_places

LOSSLESS_BYTES = 512 * 1024
"""Up to this size an image is sent as PNG, so that drawings stay sharp. A larger one is sent as JPEG."""

_JPEG_QUALITY = 92


def content_parts(text: str, shown: Shown) -> str | list[dict[str, Any]]:
    """The content of a user message: only text, or alternating text and images.

    An image follows its placeholder. The placeholder stays in the text, so that the model can refer to the image and
    keep the placeholder in a rewording. Images without a placeholder come first.

    Args:
        text: of the message, with `<image>` or `<image1>` at the positions of its images.
        shown: its images. This function decodes them, one question at a time.

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
    """Cached, because the questions of one problem are sent consecutively and encoding is the largest cost here."""
    return [image_part(image) for image in shown.open()]


def image_part(image: Image.Image) -> dict[str, Any]:
    """An image as a part of a message: a base64 data URL of its pixels alone.

    Equal pixels give equal text, independent of the file, because the text is part of the journal's key.
    """
    mime, content = encoded(image)
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{mime};base64,{base64.b64encode(content).decode()}"},
    }


def encoded(image: Image.Image, lossless_bytes: int = LOSSLESS_BYTES) -> tuple[str, bytes]:
    """MIME type and bytes of an RGB image: PNG, or JPEG if the PNG would be larger than `lossless_bytes`."""
    # A copy of only the pixels: Pillow would also write a profile or a comment of the source.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "PNG", compress_level=6)
    if buffer.tell() <= lossless_bytes:
        return "image/png", buffer.getvalue()
    buffer = io.BytesIO()
    bare.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "image/jpeg", buffer.getvalue()
