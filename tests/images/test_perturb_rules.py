"""Which operations a problem is kept from, what a recipe is worth by design, and what can be drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diva_grpo.pipeline.difficulty.design import designed_delta_of_recipe
from diva_grpo.pipeline.perturb import drawn_text, make_operation, refusal, render
from diva_grpo.pipeline.perturb.drawing import undrawable
from diva_grpo.schemas.exceptions import RecipeError
from diva_grpo.schemas.recipe import Operation, OperationName, Recipe
from diva_grpo.schemas.records import Image as ImageRecord
from diva_grpo.schemas.records import Problem

N = OperationName
ALL = set(OperationName)


def problem(text: str, *options: str, side: int = 600, images: int = 1) -> Problem:
    pictures = [ImageRecord(hash="0" * 64, width=side, height=side + 50)] * images
    return Problem(
        problem_id="p/1",
        source="p",
        split="train",
        text=text,
        answer="1",
        options=list(options),
        images=pictures,
    )


def recipe(*names: OperationName, strength: float = 0.4, **fields: object) -> Recipe:
    operations = [make_operation(name, strength, 1) for name in names]
    return Recipe.model_validate({"operations": operations, "seed": 1, **fields})


def refused(asked: Problem) -> set[OperationName]:
    return {name for name in OperationName if refusal(recipe(name), asked)}


COLOURS = {N.GAUSSIAN_NOISE, N.SALT_PEPPER, N.SPECKLE, N.CONTRAST}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("What is the area of the triangle, in square metres?", set()),
        ("In the right triangle, AB = 3 and the right angle is at B. How long is AC?", set()),
        ("A right circular cone is shown below. What is its volume?", set()),
        ("The area of the figure on the right is 5. What is x?", set()),
        ("Which cup stands to the left of the plate?", {N.ROTATE}),
        ("What is the sum of the numbers in the top row?", {N.ROTATE, N.BLUR, N.LOW_RESOLUTION}),
        ("What time does the clock show?", {N.ROTATE, N.BLUR, N.LOW_RESOLUTION}),
        ("The pointer moves clockwise. Where does it stop?", {N.ROTATE}),
        ("A spinner points west. Where does it point in the end?", {N.ROTATE}),
        ("Through what angle is the square rotated?", {N.ROTATE}),
        ("Which figure has the most axes of symmetry?", {N.ROTATE}),
        ("In how many ways can BANANA be read?", {N.ROTATE, N.OCCLUSION}),
        ("What is the weight of the red ball?", COLOURS),
        ("What is the area of the grey part?", COLOURS | {N.OCCLUSION}),
        ("What is the area of the shaded part?", {N.OCCLUSION}),
        ("How many triangles are there?", {N.OCCLUSION}),
        ("How many dots are on the die?", {N.OCCLUSION, N.SALT_PEPPER}),
        ("Which digits are written on the cards?", {N.BLUR, N.LOW_RESOLUTION}),
        ("如图，左边的圆是什么颜色？", {N.ROTATE} | COLOURS),
        ("ما هي المساحة؟", {N.QUESTION}),
        ("x" * 1_001, {N.QUESTION}),
        (r"Solve \begin{cases} x = 1 \end{cases}", {N.QUESTION}),
        ("<image>", {N.QUESTION}),
    ],
)
def test_words_of_a_question(text: str, wanted: set[OperationName]) -> None:
    assert refused(problem(text)) == wanted


def test_words_of_the_options_count_too() -> None:
    assert refused(problem("Where is it?", "on the left", "behind")) == {N.ROTATE}


def test_a_small_image_keeps_its_pixels() -> None:
    assert refused(problem("What is the area?", side=99)) == {N.BLUR, N.LOW_RESOLUTION}
    assert refused(problem("What is the area?", side=200)) == {N.LOW_RESOLUTION}
    small_second = problem("What is the area?", images=2).model_copy(
        update={"images": [ImageRecord(hash="0", width=w, height=400) for w in (400, 50)]}
    )
    assert refusal(recipe(N.BLUR), small_second)
    assert refusal(recipe(N.BLUR, images=(0,)), small_second) is None


def test_reasons_name_operation_and_word() -> None:
    reason = refusal(recipe(N.BLUR, N.ROTATE), problem("Which is the uppermost or left one?"))
    assert reason == "rotate: the question depends on the orientation ('left')"


@pytest.mark.parametrize("name", [N.BLUR, N.LOW_RESOLUTION, N.OCCLUSION])
def test_a_drawn_question_stays_readable(name: OperationName) -> None:
    reason = refusal(recipe(N.QUESTION, name, strength=0.3), problem("What is the area?"))
    assert reason == f"{name}: the question in the image could not be read"
    assert refusal(recipe(N.QUESTION, N.ROTATE), problem("What is the area?")) is None


def test_recipes_that_do_not_fit_are_refused() -> None:
    plain = problem("What is the area?")
    assert "renderer 2" in (refusal(recipe(N.BLUR, renderer=2), plain) or "")
    assert "image 4, the problem has 1" in (refusal(recipe(N.BLUR, images=(3,)), plain) or "")
    assert "the problem has 0" in (refusal(recipe(N.BLUR), problem("What is the area?", images=0)) or "")
    other = Operation(name=N.BLUR, strength=0.1, parameters={"radius": 0.5})
    assert "not those of its strength" in (refusal(Recipe(operations=(other,), seed=1), plain) or "")


@pytest.mark.parametrize(
    ("names", "strength", "delta"),
    [
        ((N.BLUR,), 0.30, 1),
        ((N.BLUR,), 0.35, 2),
        ((N.BLUR,), 0.40, 3),
        ((N.BLUR,), 0.90, 3),
        ((N.BLUR,), 0.00, 1),
        ((N.QUESTION,), 0.30, 2),
        ((N.BLUR, N.ROTATE), 0.30, 4),
        ((N.BLUR, N.ROTATE), 0.45, 7),
        ((N.QUESTION, N.ROTATE), 0.50, 8),
        ((N.BLUR, N.ROTATE, N.JPEG), 1.00, 8),
    ],
)
def test_designed_deltas(names: tuple[OperationName, ...], strength: float, delta: float) -> None:
    assert designed_delta_of_recipe(recipe(*names, strength=strength)) == delta


@given(
    st.lists(st.sampled_from(OperationName), min_size=1, max_size=3, unique=True),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_designed_delta_never_falls_with_strength(
    names: list[OperationName], one: float, other: float
) -> None:
    less, more = (designed_delta_of_recipe(recipe(*names, strength=s)) for s in sorted((one, other)))
    assert 1 <= less <= more <= 8


@pytest.mark.parametrize(
    ("text", "images", "drawn"),
    [
        ("<image>\nHow long   is\tAB?", 1, "How long is AB?"),
        ("In the figure <image1>, what is x?\n\n", 1, "In the figure, what is x?"),
        ("Is <image2> larger than <image1>?", 2, "Is (image 2) larger than (image 1)?"),
        ("<image><image> Which is larger?", 2, "(image 1)(image 2) Which is larger?"),
    ],
)
def test_drawn_text(text: str, images: int, drawn: str) -> None:
    assert drawn_text(text, images) == drawn


@pytest.mark.parametrize(
    "text",
    [
        "Ångström, naïve, Łódź, Iași",
        "Сколько углов? Ўзбекистон",
        "Πόσες γωνίες; ∑ α²β₃ ≥ √2 ∈ ℝ ∠ABC → ½ × 90° ⊥ ∥ △",
        "如图，在三角形ABC中，求阴影部分的面积。",
        "図の三角形の面積を求めよ。「ア」",
        "삼각형의 넓이를 구하시오.",
    ],
)
def test_scripts_that_are_drawn(text: str) -> None:
    assert undrawable(text) is None
    image = Image.new("RGB", (500, 20), "white")
    [drawn], _ = render(recipe(N.QUESTION), [image], text)
    assert drawn.height > 35
    assert np.asarray(drawn.convert("L")).min() < 60


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("كم", "arabic letter kaf"),
        ("כמה", "hebrew letter kaf"),
        ("कितना", "devanagari letter ka"),
        ("เท่าไร", "thai character"),
        ("a\u0338", "combining long solidus overlay"),
        ("🍎", "red apple"),
        ("a\x07", "u+0007"),
    ],
)
def test_signs_that_no_font_has_are_refused_by_name(text: str, name: str) -> None:
    assert name in (undrawable(text) or "")
    with pytest.raises(RecipeError, match="the question cannot be drawn"):
        render(recipe(N.QUESTION), [Image.new("RGB", (50, 50))], text)


def test_no_line_is_wider_than_the_canvas() -> None:
    """Red letters would be seen at the border of a white image."""
    for text in ("i" * 300, "W" * 300, "word " * 60, "面积" * 100, "a面" * 90):
        [drawn], _ = render(recipe(N.QUESTION), [Image.new("RGB", (480, 10), "white")], text)
        left, _, right, _ = drawn.convert("L").point(lambda level: 255 - level).getbbox() or (0, 0, 480, 0)
        assert left >= 5
        assert right <= 475


def test_letters_are_light_on_a_dark_image() -> None:
    [drawn], _ = render(recipe(N.QUESTION), [Image.new("RGB", (480, 10), (10, 10, 60))], "How long?")
    assert drawn.getpixel((0, 0)) == (10, 10, 60)
    assert np.asarray(drawn.convert("L")).max() > 240
