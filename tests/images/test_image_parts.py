"""Images on their way to an endpoint: bounded, upright, in order, where their placeholders stand, equal bytes."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diva_grpo.pipeline.images.encoding import LOSSLESS_BYTES, content_parts, encoded
from diva_grpo.pipeline.images.shown import Shown
from diva_grpo.schemas.exceptions import StoreError
from tests.support.tiny_vision_model import recipes

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, ...]:
    paths = tuple(tmp_path / f"{number}.png" for number in range(3))
    for path, colour in zip(paths, COLOURS, strict=True):
        Image.new("RGB", (40, 30), colour).save(path)
    return paths


def decoded(part: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",")[1])))


def parts_of(text: str, shown: Shown) -> list[dict[str, Any]]:
    parts = content_parts(text, shown)
    assert isinstance(parts, list)
    return parts


def sketch(parts: Any) -> str:
    """Texts as they are, and the number of each image by its colour."""
    colours: list[Any] = list(COLOURS)
    return "".join(
        part["text"] if part["type"] == "text" else f"#{colours.index(decoded(part).getpixel((0, 0))) + 1}"
        for part in parts
    )


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("What?", 1, "#1What?"),
        ("<image>\nWhat?", 1, "<image>#1\nWhat?"),
        ("Is <image2> in <image1>?", 2, "Is <image2>#2 in <image1>#1?"),
        ("<image> or <image>", 2, "<image>#1 or <image>#2"),
        ("Of <image2>.", 3, "#1#3Of <image2>#2."),
        ("<image1>: is <image1> round?", 1, "<image1>#1: is <image1> round?"),
        ("<image4> What?", 1, "#1<image4> What?"),
        ("What <image>", 1, "What <image>#1"),
    ],
)
def test_an_image_stands_behind_its_placeholder(
    three: tuple[Path, ...], text: str, images: int, expected: str
) -> None:
    assert sketch(content_parts(text, Shown(three[:images]))) == expected


def test_text_alone_is_text() -> None:
    assert content_parts("What <image>?", Shown()) == "What <image>?"


def test_a_photograph_is_turned_upright_and_made_smaller(tmp_path: Path) -> None:
    picture = Image.new("RGB", (1600, 1200), "white")
    picture.paste("black", (0, 0, 800, 1200))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "a.jpg", exif=exif)
    [part] = parts_of("", Shown((tmp_path / "a.jpg",), max_pixels=120_000))
    sent = decoded(part)
    assert sent.size == (300, 400)
    assert sent.getexif() == {}
    pixels = np.asarray(sent)
    assert tuple(pixels[50, 150]) < (60, 60, 60), "what was left is above"
    assert tuple(pixels[350, 150]) > (200, 200, 200)


def test_equal_pixels_are_equal_text_whatever_the_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    picture.save(tmp_path / "a.png", compress_level=1)
    picture.save(tmp_path / "b.bmp")
    picture.save(tmp_path / "c.png", dpi=(300, 300), compress_level=9)
    texts = {str(content_parts("?", Shown((tmp_path / name,)))) for name in ("a.png", "b.bmp", "c.png")}
    assert len(texts) == 1


def test_what_is_sent_has_a_bounded_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    mime, content = encoded(Image.fromarray(noise))
    assert mime == "image/jpeg"
    assert len(content) < 3_000_000, "noise is the worst: less than its million pixels as they are"
    drawing = Image.new("RGB", (1000, 1000), "white")
    mime, content = encoded(drawing)
    assert mime == "image/png"
    assert len(content) <= LOSSLESS_BYTES


def test_a_perturbed_image_is_sent_as_its_recipe_says(three: tuple[Path, ...]) -> None:
    shown = Shown(three[:1], recipes()["image_text"].model_dump_json(), "<image>What is this?")
    [_, part, _] = parts_of("<image> Answer.", shown)
    [expected] = shown.open()
    assert decoded(part).size == expected.size
    assert expected.height > 30, "there is room for the question"
    assert np.array_equal(np.asarray(decoded(part)), np.asarray(expected))


def test_a_damaged_image_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(StoreError, match=r"a\.png.*ingest its source again"):
        content_parts("?", Shown((tmp_path / "a.png",)))
