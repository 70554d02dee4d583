"""Recipes of image operations: the same pixels every time, and a text that follows them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from diva_grpo.pipeline.perturb import make_operation, render
from diva_grpo.schemas.exceptions import RecipeError
from diva_grpo.schemas.recipe import OperationName, Recipe


def recipe(*names: OperationName, strength: float = 0.4, seed: int = 7, **fields: object) -> Recipe:
    operations = [make_operation(name, strength, seed) for name in names]
    return Recipe.model_validate({"operations": operations, "seed": seed, **fields})


@pytest.fixture
def drawing() -> Image.Image:
    image = Image.new("RGB", (120, 90), (240, 240, 220))
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 10, 60, 60), fill=(200, 30, 30), outline=(0, 0, 0), width=2)
    draw.polygon([(70, 80), (110, 80), (90, 20)], fill=(30, 60, 200))
    return image


@pytest.mark.parametrize("name", OperationName)
def test_an_operation_changes_the_image_and_leaves_its_input(
    name: OperationName, drawing: Image.Image
) -> None:
    before = drawing.tobytes()
    [once], _ = render(recipe(name), [drawing], "How long is it?")
    [twice], _ = render(recipe(name), [drawing], "How long is it?")
    assert (once.mode, once.size, once.tobytes()) == (twice.mode, twice.size, twice.tobytes())
    assert once.mode == "RGB"
    assert once.size != drawing.size or once.tobytes() != before
    assert drawing.tobytes() == before


def test_only_the_named_images_are_changed(drawing: Image.Image) -> None:
    made = recipe(OperationName.GAUSSIAN_NOISE, images=(1,))
    rendered, text = render(made, [drawing] * 3, "<image><image><image> Which is larger?")
    assert [np.array_equal(np.asarray(image), np.asarray(drawing)) for image in rendered] == [
        True,
        False,
        True,
    ]
    assert text == "<image><image><image> Which is larger?"


@pytest.mark.parametrize(
    ("images", "chosen", "note"),
    [
        (1, (), "(The image is rotated by 36 degrees {}clockwise.)"),
        (2, (), "(The images are rotated by 36 degrees {}clockwise.)"),
        (3, (1,), "(Image 2 is rotated by 36 degrees {}clockwise.)"),
        (4, (0, 1, 3), "(Images 1, 2 and 4 are rotated by 36 degrees {}clockwise.)"),
    ],
)
def test_a_rotation_is_told(drawing: Image.Image, images: int, chosen: tuple[int, ...], note: str) -> None:
    made = recipe(OperationName.ROTATE, images=chosen)
    sense = "" if made.operations[0].parameters["degrees"] > 0 else "counter-"
    _, text = render(made, [drawing] * images, "How long is AB?")
    assert text == "How long is AB?\n" + note.format(sense)


def test_a_drawn_question_leaves_placeholders_and_a_short_prompt(drawing: Image.Image) -> None:
    made = recipe(OperationName.QUESTION)
    _, text = render(made, [drawing], "In the figure <image1>, how long is AB?")
    assert text == "<image1>\nAnswer the question that is written in the image."
    _, text = render(made, [drawing] * 2, "Is <image1> larger than <image2>?")
    assert text == "<image1>\n<image2>\nAnswer the question that is written in image 1."


def test_recipes_that_do_not_fit_are_refused(drawing: Image.Image) -> None:
    with pytest.raises(RecipeError, match="image 3, the problem has 1"):
        render(recipe(OperationName.BLUR, images=(2,)), [drawing], "x")
    with pytest.raises(RecipeError, match="renderer 99"):
        render(recipe(OperationName.BLUR, renderer=99), [drawing], "x")
    with pytest.raises(RecipeError, match="arabic letter"):
        render(recipe(OperationName.QUESTION), [drawing], "كم طول الضلع؟")
    with pytest.raises(ValueError, match="once"):
        recipe(OperationName.BLUR, OperationName.BLUR)
