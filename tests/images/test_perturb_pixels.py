"""What recipes do to pixels: equal everywhere, more with more strength, and as the golden sheet shows."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diva_grpo.pipeline.images.sources import open_rgb
from diva_grpo.pipeline.perturb import make_operation, render
from diva_grpo.schemas.recipe import OperationName, Recipe

ROOT = Path(__file__).parents[2]
SHEET = Path(__file__).parents[1] / "golden" / "perturb.png"
TILE = (96, 96)
STEPS = [step / 10 for step in range(1, 11)]
Pixels = npt.NDArray[np.int16]


def rendered(image: Image.Image, strength: float, *names: OperationName, seed: int = 3) -> Image.Image:
    operations = tuple(make_operation(name, strength, seed) for name in names)
    [made], _ = render(Recipe(operations=operations, seed=seed), [image], "How many go by bike, in percent?")
    return made


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image).astype(np.int16)


def test_a_thousand_recipes_have_the_same_pixels_in_two_processes() -> None:
    def run(hash_seed: str) -> list[str]:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.support.render_recipes", "1000"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    first, second = run("1"), run("2")
    assert first == second
    assert len(set(first)) == 1000


def sheet() -> Image.Image:
    """Every operation at strength 0.4 and three composites, on one of our own figures."""
    figure = open_rgb(ROOT / "data" / "figures" / "figure-23.png")
    families = [(name,) for name in OperationName] + [
        (OperationName.QUESTION, OperationName.ROTATE),
        (OperationName.ROTATE, OperationName.SALT_PEPPER),
        (OperationName.OCCLUSION, OperationName.CONTRAST, OperationName.GAUSSIAN_NOISE),
    ]
    drawn = Image.new("RGB", (TILE[0] * 7, TILE[1] * 2), "white")
    for number, family in enumerate([(), *families]):
        tile = rendered(figure, 0.4, *family) if family else figure.copy()
        tile.thumbnail(TILE, Image.Resampling.BOX)
        drawn.paste(tile, (number % 7 * TILE[0], number // 7 * TILE[1]))
    return drawn


def test_golden_thumbnails() -> None:
    """Make the sheet anew, and look at it, by `python -m tests.images.test_perturb_pixels`; then raise RENDERER."""
    assert sheet().tobytes() == open_rgb(SHEET).tobytes()


@pytest.fixture(scope="module")
def real_images(real_data: Path) -> list[Image.Image]:
    paths = sorted((real_data / "mathvision" / "images").glob("*.jpg"))[:50]
    return [open_rgb(path) for path in paths]


def rises(doses: list[float]) -> bool:
    return all(less < more for less, more in pairwise(doses))


def mean_difference(image: Image.Image, made: Image.Image) -> float:
    return float(np.abs(pixels(image) - pixels(made)).mean())


def coding_difference(image: Image.Image, made: Image.Image) -> float:
    """Root mean square of what differs within blocks of 8 x 8: coarse coding also shifts whole blocks, either way."""
    height, width = (side // 8 * 8 for side in np.asarray(image).shape[:2])
    blocks = (pixels(image) - pixels(made))[:height, :width].reshape(height // 8, 8, width // 8, 8, 3)
    return float((blocks - blocks.mean(axis=(1, 3), keepdims=True)).std())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        OperationName.GAUSSIAN_NOISE,
        OperationName.SALT_PEPPER,
        OperationName.SPECKLE,
        OperationName.BLUR,
        OperationName.OCCLUSION,
        OperationName.CONTRAST,
        OperationName.JPEG,
    ],
)
def test_a_larger_strength_changes_every_real_image_more(
    name: OperationName, real_images: list[Image.Image]
) -> None:
    measure = coding_difference if name == OperationName.JPEG else mean_difference
    for image in real_images:
        assert rises([measure(image, rendered(image, strength, name)) for strength in STEPS])


@pytest.mark.slow
def test_a_lower_resolution_changes_real_images_more(real_images: list[Image.Image]) -> None:
    """On the average: where the grid of larger pixels falls between lines, one image may gain by chance."""
    doses = [
        [
            mean_difference(image, rendered(image, strength, OperationName.LOW_RESOLUTION))
            for strength in STEPS
        ]
        for image in real_images
    ]
    assert rises(np.mean(doses, axis=0).tolist())
    assert sum(rises(of_image) for of_image in doses) >= 40


@pytest.mark.slow
def test_a_rotation_is_by_true_degrees(real_images: list[Image.Image]) -> None:
    for seed, image in enumerate(real_images):
        canvas = Image.new("RGB", image.size, "white")
        width, height = image.size
        centre = np.array([width / 2, height / 2])
        canvas.paste("black", (width - 11, height // 2 - 3, width - 4, height // 2 + 4))
        for strength in STEPS:
            made = rendered(canvas, strength, OperationName.ROTATE, seed=seed)
            degrees = make_operation(OperationName.ROTATE, strength, seed).parameters["degrees"]
            assert abs(abs(degrees) - 90 * strength) < 0.01
            rows, columns = np.nonzero(np.asarray(made)[..., 0] < 128)
            x, y = columns.mean() + 0.5 - made.width / 2, rows.mean() + 0.5 - made.height / 2
            start = np.array([width - 7.5, height // 2 + 0.5]) - centre
            # Rows count downwards, so that angles grow clockwise.
            turned = np.degrees(np.arctan2(y, x) - np.arctan2(start[1], start[0]))
            assert turned == pytest.approx(degrees, abs=1.0)


def test_nothing_is_cut_off_by_a_rotation(real_images: list[Image.Image]) -> None:
    for image in real_images[:10]:
        canvas = Image.new("RGB", image.size, "black")
        made = rendered(canvas, 0.5, OperationName.ROTATE)
        side = (image.width + image.height) / 2**0.5
        assert made.width == pytest.approx(side, abs=2)
        assert made.height == pytest.approx(side, abs=2)


@pytest.mark.slow
def test_letters_of_a_drawn_question_shrink(real_images: list[Image.Image]) -> None:
    for image in real_images:
        heights = [rendered(image, s, OperationName.QUESTION).height - image.height for s in STEPS]
        assert heights == sorted(heights, reverse=True)
        assert heights[-1] < heights[0] * 0.75


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.sampled_from(OperationName), min_size=1, max_size=4, unique=True),
    st.floats(0, 1),
    st.integers(0, 2**63 - 1),
)
def test_any_recipe_renders_on_any_image(
    width: int, height: int, names: list[OperationName], strength: float, seed: int
) -> None:
    image = Image.new("RGB", (width, height), (250, 10, 120))
    made = rendered(image, strength, *names, seed=seed)
    assert made.mode == "RGB"
    assert made.width * made.height >= width * height


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32))
def test_a_larger_dose_holds_the_smaller(one: float, other: float, seed: int) -> None:
    image = Image.new("RGB", (60, 40), (250, 250, 250))
    for name in (OperationName.OCCLUSION, OperationName.SALT_PEPPER):
        less, more = (pixels(rendered(image, s, name, seed=seed)) for s in sorted((one, other)))
        changed = (less != 250).any(axis=2)
        assert (more[changed] == less[changed]).all()


def test_shares_are_what_they_say() -> None:
    image = Image.new("RGB", (400, 300), (200, 200, 200))
    for strength in (0.3, 0.6, 1.0):
        for name in (OperationName.OCCLUSION, OperationName.SALT_PEPPER):
            changed = (pixels(rendered(image, strength, name)) != 200).any(axis=2).mean()
            assert changed == pytest.approx(strength / 2, abs=0.01)
        noise = pixels(rendered(image, strength / 8, OperationName.GAUSSIAN_NOISE)) - 200
        assert np.minimum(noise, 0).std() > 0
    mild = pixels(rendered(Image.new("RGB", (400, 300), (128,) * 3), 0.2, OperationName.GAUSSIAN_NOISE))
    assert mild.std() == pytest.approx(128 * 0.2, rel=0.02)
    mild = pixels(rendered(Image.new("RGB", (400, 300), (100,) * 3), 0.3, OperationName.SPECKLE))
    assert mild.std() == pytest.approx(100 * 0.3, rel=0.02)


if __name__ == "__main__":
    sheet().save(SHEET, optimize=True)
