"""Draw the question into its image.

The package contains two fonts: DejaVu Sans (Latin, Greek, Cyrillic, Armenian, Georgian, mathematical symbols) and
Droid Sans Fallback (Chinese, Japanese, Korean). The layout engine places glyphs one after the other. So scripts whose
characters join or stack, or that run from right to left (Arabic, Hebrew, Devanagari, Thai), are refused. A character
that neither font has is refused too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from diva_grpo.pipeline.perturb.operations import border_colour
from diva_grpo.schemas.exceptions import RecipeError

FONTS = ("DejaVuSans.ttf", "DroidSansFallback.ttf")
"""Font files. A character is drawn in the first one that has it."""

_FOLDER = Path(__file__).parent / "fonts"

_MIN_WIDTH = 480  # of the canvas, in pixels. The smallest letters are 1/40 of it, which is still readable.

# Pieces of a line. It may be broken between two pieces: after a space, and before or after an ideograph or a kana.
_WORDS = re.compile(r"[⺀-鿿豈-﫿＀-･]|[^\s⺀-鿿豈-﫿＀-･]+\s*|\s+")
_UNSET_SCRIPTS = ("R", "AL", "AN", "RLE", "RLO", "RLI")


@cache
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_FOLDER / name, pixels, layout_engine=ImageFont.Layout.BASIC)


@cache
def _characters(name: str) -> frozenset[int]:
    with TTFont(_FOLDER / name, lazy=True) as font:
        return frozenset(font.getBestCmap())


def undrawable(text: str) -> str | None:
    """Return the reason why a text cannot be drawn, or None if it can be.

    The reason is the first character that no font has, or that cannot be drawn without shaping.
    """
    for character in unicodedata.normalize("NFC", text):
        if character == "\n":
            continue
        name = f"{character!r} ({unicodedata.name(character, f'u+{ord(character):04x}').lower()})"
        if unicodedata.bidirectional(character) in _UNSET_SCRIPTS or unicodedata.combining(character):
            return f"{name} cannot be drawn by itself"
        if not any(ord(character) in _characters(font) for font in FONTS):
            return f"{name} is in no font"
    return None


def with_question(image: Image.Image, text: str, parameters: Mapping[str, float]) -> Image.Image:
    """Draw a text above an image. The lines are wrapped to its width; the background has the colour of its border.

    Args:
        image: the image, RGB.
        text: the text. It has line breaks only between paragraphs.
        parameters: `size` is the height of the font as a fraction of the canvas's width.

    Returns:
        A new image, RGB. It is at least 480 pixels wide; a narrower image is centred.

    Raises:
        RecipeError: a character cannot be drawn.
    """
    reason = undrawable(text)
    if reason:
        raise RecipeError(f"the question cannot be drawn: {reason}")
    width = max(image.width, _MIN_WIDTH)
    pixels = round(parameters["size"] * width)
    margin, leading = pixels // 2, round(1.35 * pixels)
    lines = [
        line
        for paragraph in unicodedata.normalize("NFC", text).split("\n")
        for line in _wrapped(paragraph, pixels, width - 2 * margin)
    ]
    ground = border_colour(image)
    ink = (0, 0, 0) if sum(ground) > 3 * 127 else (255, 255, 255)
    top = 2 * margin + leading * len(lines)
    canvas = Image.new("RGB", (width, top + image.height), ground)
    canvas.paste(image, ((width - image.width) // 2, top))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        x, baseline = float(margin), margin + leading * number + pixels
        for font, run in _runs(line, pixels):
            draw.text((round(x), baseline), run, ink, font, anchor="ls")
            x += font.getlength(run)
    return canvas


def _runs(text: str, pixels: int) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
    """Split a text into pieces with one font each. Yield (font, piece)."""
    for name, characters in groupby(
        text, key=lambda character: next(f for f in FONTS if ord(character) in _characters(f))
    ):
        yield _font(name, pixels), "".join(characters)


def _width(text: str, pixels: int) -> float:
    return sum(font.getlength(run) for font, run in _runs(text, pixels))


def _wrapped(paragraph: str, pixels: int, width: int) -> list[str]:
    """Split a paragraph into lines of at most `width` pixels. A wider word is broken at any character."""
    lines, line = [], ""
    for word in _WORDS.findall(paragraph):
        if _width((line + word).rstrip(), pixels) <= width:
            line += word
            continue
        if line:
            lines.append(line.rstrip())
        line = ""
        for character in word:
            if line and _width((line + character).rstrip(), pixels) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line.rstrip()]
