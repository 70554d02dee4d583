"""Images in: the right picture or a reason, whatever the bytes."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from diva_grpo.pipeline.images.sources import ImageError, open_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def figure(width: int = 64, height: int = 48) -> Image.Image:
    """A picture without any symmetry, so that a turned or mirrored one is another."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2, height // 3), fill=(200, 30, 30))
    draw.rectangle((0, height // 3, width // 4, height), fill=(20, 20, 180))
    draw.ellipse((width // 2, height // 2, width - 4, height - 4), fill=(30, 150, 60))
    return image


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png(header: tuple[int, int, int, int], rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: width, height, bit depth and colour type; rows with their filter bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    parts = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *chunks, (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


def sixteen_bits(levels: npt.NDArray[np.uint16]) -> bytes:
    """Rows of a PNG with 16 bits a channel, (height, width, channels)."""
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)


def difference(content: bytes, wanted: Image.Image) -> int:
    """The largest difference of a grey level."""
    image = open_rgb(content)
    assert (image.mode, image.size) == ("RGB", wanted.size)
    return int(np.abs(np.asarray(image).astype(int) - np.asarray(wanted)).max())


@pytest.mark.parametrize("image_format", FORMATS)
def test_formats(image_format: str) -> None:
    exact: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
    }
    content = encoded(figure(), image_format, **exact.get(image_format, {}))
    assert difference(content, figure()) <= (3 if image_format == "JPEG" else 0)


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(encoded(figure(), "BMP"))
    assert open_rgb(path).tobytes() == figure().tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_modes(mode: str) -> None:
    image = figure().convert(mode)
    content = encoded(image, "JPEG", quality=100) if mode == "CMYK" else encoded(image)
    assert difference(content, image.convert("RGB")) <= (4 if mode == "CMYK" else 0)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P", "GIF"])
def test_what_is_transparent_is_white(mode: str) -> None:
    clear = figure().convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 20, 20))
    wanted = figure()
    wanted.paste((255, 255, 255), (0, 0, 20, 20))
    if mode == "LA":
        content, wanted = encoded(clear.convert("LA")), wanted.convert("L").convert("RGB")
    elif mode in ("P", "PA"):
        content = encoded(clear.quantize(8))
    else:
        content = encoded(clear, "GIF" if mode == "GIF" else "PNG")
    assert difference(content, wanted) <= 1


def test_a_colour_that_is_declared_transparent_is_white() -> None:
    rows = b"".join(b"\0" + bytes([10, 20, 30, 200, 20, 30]) for _ in range(2))
    content = png((2, 2, 8, 2), rows, (b"tRNS", struct.pack(">HHH", 10, 20, 30)))
    assert np.asarray(open_rgb(content))[0].tolist() == [[255, 255, 255], [200, 20, 30]]


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_sixteen_bits_are_scaled_and_not_cut(channels: int, colour_type: int) -> None:
    levels = np.linspace(0, 65_535, 12 * 20).astype(np.uint16).reshape(12, 20, 1).repeat(channels, axis=2)
    if channels in (2, 4):
        levels[..., -1] = 65_535
    content = png((20, 12, 16, colour_type), sixteen_bits(levels))
    grey = np.rint(levels[..., :1] / 257).astype(np.uint8).repeat(3, axis=2)
    assert difference(content, Image.fromarray(grey)) <= 1


def test_a_transparent_grey_level_of_sixteen_bits() -> None:
    levels = np.array([[[0], [30_000], [65_535]]], dtype=np.uint16)
    content = png((3, 1, 16, 0), sixteen_bits(levels), (b"tRNS", struct.pack(">H", 30_000)))
    assert np.asarray(open_rgb(content))[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    # What stands in the file for each orientation (EXIF 2.32, 4.6.4 A), undone by hand.
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_270],
        8: [Image.Transpose.ROTATE_270],
    }
    kept = figure()
    for turn in turns.get(orientation, []):
        kept = kept.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert difference(encoded(kept, "PNG", exif=exif), figure()) == 0
    assert difference(encoded(kept, "JPEG", exif=exif, quality=100, subsampling=0), figure()) <= 3


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_refused(image_format: str) -> None:
    other = figure().transpose(Image.Transpose.ROTATE_180)
    content = encoded(figure(), image_format, save_all=True, append_images=[other])
    with pytest.raises(ImageError, match="animated"):
        open_rgb(content)


def test_the_first_picture_of_a_photograph_with_previews() -> None:
    content = encoded(
        figure(), "MPO", save_all=True, append_images=[figure(8, 8)], quality=100, subsampling=0
    )
    assert difference(content, figure()) <= 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    content = png((side, side, 1, 0), b"\0" * 1_000)
    with pytest.raises(ImageError, match="more than 89,478,485 pixels"):
        open_rgb(content)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a readable PNG"):
        open_rgb(encoded(figure(), "TIFF"))
    with pytest.raises(ImageError, match=r"image none\.png cannot be read: No such file"):
        open_rgb(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"no pixels|not a readable|damaged"):
        open_rgb(png((0, 0, 8, 2), b""))


def corrupted(content: bytes, way: str, rng: random.Random) -> bytes:
    if way == "truncated":
        return content[: rng.randrange(len(content) - 1)]
    damaged = bytearray(content)
    if way == "flipped":
        for _ in range(rng.choice([1, 1, 2, 20])):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    else:
        size = rng.choice([2, 4, 8])
        damaged[:size] = rng.choice(
            [
                rng.randbytes(size),
                b"%PDF-1.7"[:size],
                bytes(size),
                b"RIFFxxxx"[:size],
                b"\xff\xd8\xff\xe0"[:size],
            ]
        )
    return bytes(damaged)


def corruptions(count: int) -> list[tuple[str, str, bytes, bytes]]:
    """(format, way, good bytes, corrupted bytes), all different from the good."""
    rng = random.Random(0)
    good = {name: encoded(figure(160, 120), name) for name in FORMATS}
    made: list[tuple[str, str, bytes, bytes]] = []
    while len(made) < count:
        name, way = FORMATS[len(made) % 5], ("truncated", "flipped", "header")[len(made) // 5 % 3]
        damaged = corrupted(good[name], way, rng)
        if damaged != good[name]:
            made.append((name, way, good[name], damaged))
    return made


def test_every_damaged_file_of_a_store_is_refused(tmp_path: Path) -> None:
    reasons: Counter[str] = Counter()
    for name, _, content, damaged in corruptions(500):
        path = tmp_path / f"{hashlib.sha256(content).hexdigest()}.{name.lower()}"
        path.write_bytes(content)
        open_rgb(path)
        path.write_bytes(damaged)
        with pytest.raises(ImageError) as caught:
            open_rgb(path)
        reasons[str(caught.value).split(": ", 1)[1]] += 1
    assert reasons == {"damaged: its bytes are no longer those that were ingested": 500}


def test_damage_is_seen_at_the_source_as_far_as_a_format_shows_it() -> None:
    """Cut files, other headers and all of PNG; a flipped bit of a format without checksums may pass."""
    passed: Counter[tuple[str, str]] = Counter()
    for name, way, content, damaged in corruptions(500):
        image = opened(damaged)
        if image and image.tobytes() != open_rgb(content).tobytes():
            passed[name, way] += 1
    assert {way for _, way in passed} == {"flipped"}
    assert {name for name, _ in passed} == {"BMP", "JPEG", "WEBP", "GIF"}
    assert passed.total() < 100


def opened(content: bytes) -> Image.Image | None:
    """The picture, or None where it is refused with a reason; any other error is a fault."""
    try:
        image = open_rgb(content)
    except ImageError as error:
        if not str(error):
            raise
        return None
    assert image.mode == "RGB"
    return image


@given(st.binary(max_size=300), st.sampled_from(FORMATS), st.integers(0, 400))
def test_bytes_are_a_picture_or_refused(noise: bytes, image_format: str, place: int) -> None:
    content = encoded(figure(16, 12), image_format)
    opened(content[:place] + noise + content[place + len(noise) :])
