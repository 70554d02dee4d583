"""The question drawn into its image.

Two fonts lie beside this module: DejaVu Sans (Latin, Greek, Cyrillic, Armenian, Georgian, mathematical signs)
and Droid Sans Fallback (Chinese, Japanese, Korean). Glyphs are set one after the other by FreeType, so
scripts that join, stack or run from the right (Arabic, Hebrew, Devanagari, Thai) are refused, as is any
sign that neither font has: a refusal is better than boxes.
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
"""Font files in the order in which a sign is looked for."""

_FOLDER = Path(__file__).parent / "fonts"

_MIN_WIDTH = 480  # of the canvas: so the smallest letters, a 40th of it, can be read

# Where a line may be broken: after a space, and on either side of an ideograph or a kana.
_WORDS = re.compile(r"[⺀-鿿豈-﫿＀-･]|[^\s⺀-鿿豈-﫿＀-･]+\s*|\s+")
_UNSET_SCRIPTS = ("R", "AL", "AN", "RLE", "RLO", "RLI")


@cache
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_FOLDER / name, pixels, layout_engine=ImageFont.Layout.BASIC)


@cache
def _signs(name: str) -> frozenset[int]:
    with TTFont(_FOLDER / name, lazy=True) as font:
        return frozenset(font.getBestCmap())


def undrawable(text: str) -> str | None:
    """Why a text cannot be drawn: names the first sign that is in no font, or needs more than one; else None."""
    for sign in unicodedata.normalize("NFC", text):
        if sign == "\n":
            continue
        name = f"{sign!r} ({unicodedata.name(sign, f'u+{ord(sign):04x}').lower()})"
        if unicodedata.bidirectional(sign) in _UNSET_SCRIPTS or unicodedata.combining(sign):
            return f"{name} cannot be set sign by sign"
        if not any(ord(sign) in _signs(font) for font in FONTS):
            return f"{name} is in no font"
    return None


def with_question(image: Image.Image, text: str, parameters: Mapping[str, float]) -> Image.Image:
    """The image with a text above it, wrapped to its width, on the colour of its border.

    Args:
        image: RGB.
        text: without line breaks but those between paragraphs.
        parameters: `size`, height of the font as a share of the canvas's width.

    Returns:
        RGB; a narrow image stands in the middle of a canvas 480 pixels wide.

    Raises:
        RecipeError: a sign cannot be drawn.
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
    """The text in pieces of one font each."""
    for name, signs in groupby(text, key=lambda sign: next(f for f in FONTS if ord(sign) in _signs(f))):
        yield _font(name, pixels), "".join(signs)


def _width(text: str, pixels: int) -> float:
    return sum(font.getlength(run) for font, run in _runs(text, pixels))


def _wrapped(paragraph: str, pixels: int, width: int) -> list[str]:
    """The paragraph in lines of at most `width` pixels; a word that is wider is broken anywhere."""
    lines, line = [], ""
    for word in _WORDS.findall(paragraph):
        if _width((line + word).rstrip(), pixels) <= width:
            line += word
            continue
        if line:
            lines.append(line.rstrip())
        line = ""
        for sign in word:
            if line and _width((line + sign).rstrip(), pixels) > width:
                lines.append(line)
                line = ""
            line += sign
    return [*lines, line.rstrip()]
