"""Render a recipe: perturb the images of a problem, and change its question to match them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image

from diva_grpo.pipeline.perturb.drawing import with_question
from diva_grpo.pipeline.perturb.operations import OPERATIONS, Draws
from diva_grpo.schemas.exceptions import RecipeError
from diva_grpo.schemas.question import PLACEHOLDER
from diva_grpo.schemas.recipe import RENDERER, Operation, OperationName, Recipe


def render(recipe: Recipe, images: Sequence[Image.Image], text: str) -> tuple[list[Image.Image], str]:
    """Perturb the images of a problem.

    Shrink large images before (`max_pixels`) and not after, because shrinking averages noise away.

    Args:
        recipe: the operations.
        images: all images of the problem, in order, RGB. They are not modified.
        text: the problem's question with its image placeholders, without options and hints.

    Returns:
        All images in order, RGB, and the question as the policy sees it (see `follow`).

    Raises:
        RecipeError: the recipe names an image that does not exist, was made for another renderer, or draws a text
            with characters that cannot be drawn.
    """
    if recipe.renderer != RENDERER:
        raise RecipeError(
            f"the recipe was made for renderer {recipe.renderer}, this is {RENDERER}: generate its variant again"
        )
    chosen = chosen_images(recipe, len(images))
    rendered = list(images)
    for operation in recipe.operations:
        apply = OPERATIONS[operation.name].apply
        if apply is None:
            first, question = chosen[0], drawn_text(text, len(images))
            rendered[first] = with_question(rendered[first], question, operation.parameters)
            continue
        for position in chosen:
            draws = Draws(recipe.seed, position, operation.name)
            rendered[position] = apply(rendered[position], operation.parameters, draws)
    return rendered, follow(recipe, text, len(images))


def chosen_images(recipe: Recipe, count: int) -> list[int]:
    """Return the positions of the images that a recipe changes, from 0.

    Args:
        recipe: the recipe.
        count: number of images of the problem.

    Raises:
        RecipeError: the problem has no such image.
    """
    chosen = list(recipe.images or range(count))
    if not chosen or max(chosen) >= count:
        raise RecipeError(f"the recipe is for image {max(chosen, default=0) + 1}, the problem has {count}")
    return chosen


def follow(recipe: Recipe, text: str, count: int) -> str:
    """Return the question as the policy sees it together with the perturbed images.

    If the question is drawn into an image, the text contains only the placeholders and a request to answer it. If
    images are rotated, a sentence about the rotation is added.

    Args:
        recipe: the operations on the images.
        text: the problem's question.
        count: number of images of the problem.
    """
    chosen = chosen_images(recipe, count)
    for operation in recipe.operations:
        if operation.name == OperationName.QUESTION:
            placeholders = [match.group() for match in PLACEHOLDER.finditer(text)]
            image = "the image" if count == 1 else f"image {chosen[0] + 1}"
            text = "\n".join([*placeholders, f"Answer the question that is written in {image}."])
    turned = next((o for o in recipe.operations if o.name == OperationName.ROTATE), None)
    return f"{text}\n{_rotation_note(turned, chosen, count)}" if turned else text


def _rotation_note(operation: Operation, chosen: Sequence[int], count: int) -> str:
    degrees = operation.parameters["degrees"]
    angle = f"{abs(degrees):g} degrees {'clockwise' if degrees >= 0 else 'counter-clockwise'}"
    if len(chosen) == 1:
        return (
            f"(The image is rotated by {angle}.)"
            if count == 1
            else f"(Image {chosen[0] + 1} is rotated by {angle}.)"
        )
    if len(chosen) == count:
        return f"(The images are rotated by {angle}.)"
    numbers = ", ".join(str(position + 1) for position in chosen[:-1])
    return f"(Images {numbers} and {chosen[-1] + 1} are rotated by {angle}.)"


def drawn_text(text: str, count: int) -> str:
    """Return a question as it is drawn into an image.

    Placeholders are removed. If the problem has several images, they are replaced by "(image 1)", "(image 2)", ...

    Args:
        text: the question.
        count: number of images of the problem.
    """
    numbered = {int(number) for number in PLACEHOLDER.findall(text) if number}
    unnamed = (i for i in range(1, count + 1) if i not in numbered)

    def named(match: re.Match[str]) -> str:
        return f"(image {match.group(1) or next(unnamed, count)})" if count > 1 else ""

    lines = (re.sub(r"\s+", " ", line).strip() for line in PLACEHOLDER.sub(named, text).splitlines())
    return re.sub(r" ([,.;:?!])", r"\1", "\n".join(line for line in lines if line))
