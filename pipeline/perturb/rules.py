"""Which operations could change a problem's answer: rules on its words and the size of its images.

In doubt the rules refuse: a missing operation costs little, but a variant with another answer teaches a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from diva_grpo.pipeline.perturb.drawing import undrawable
from diva_grpo.pipeline.perturb.operations import OPERATIONS
from diva_grpo.pipeline.perturb.render import chosen_images, drawn_text
from diva_grpo.schemas.exceptions import RecipeError
from diva_grpo.schemas.recipe import RENDERER, Operation, OperationName, Recipe
from diva_grpo.schemas.records import Problem

MAX_DRAWN_CHARS = 1_000
"""Longest question that is drawn into an image. A longer one would cover most of it."""

MIN_READABLE_PIXELS = 100
"""Least pixels of the shorter side after an operation. With fewer, the letters of a usual figure are unreadable."""

# The position of a figure on the page does not matter.
_PAGE = re.compile(
    r"\b(?:figures?|pictures?|diagrams?|images?|drawings?|shown|pictured) (?:\w+ )?(?:on|to|at) the (?:left|right)\b"
    r"(?![ -](?:hand )?side)",
    re.IGNORECASE,
)
# "Right" is a direction, except for angles and solids. "Above" and "below" are positions on the page.
_ORIENTATION = re.compile(
    r"\b(?:left|leftmost|rightmost|upper|lower|topmost|upward|upwards|downward|downwards|upright|upside"
    r"|right(?! (?:\w+ )?(?:angle|triangle|prism|pyramid|cone|cylinder|trapezoid|isosceles|solid))(?!-angled)"
    r"|top|bottom|horizontal\w*|vertical\w*|(?:counter-?|anti-?)?clockwise|clocks?|o'clock|hour hand|minute hand"
    r"|(?:north|south)(?:east|west)?\w*|east\w*|west\w*|rows?|columns?|quadrants?|slopes?|tilt\w*|slant\w*|lean\w*"
    r"|rotat\w*|turn(?:s|ed|ing)?|symmetr\w*|mirror\w*|reflect\w*|flip\w*|reads?|reading)\b"
    r"|[左右东南西北]|[上下][方面边]|向[上下]|[顺逆]时针|旋转|对称|镜|水平|竖直|横|纵|钟|读",
    re.IGNORECASE,
)
_COLOUR = re.compile(
    r"\b(?:red|green|blue|yellow|orange|purple|violet|pink|brown|gr[ae]y|black|white|dark\w*|light(?:er|est)"
    r"|bright\w*|colou?r\w*|multicolou?red)\b|[红绿蓝黄橙紫粉棕灰黑白]色?|颜色",
    re.IGNORECASE,
)
_GREY = re.compile(r"\b(?:gr[ae]y|shad(?:ed|ing)|dark\w*)\b|灰|阴影", re.IGNORECASE)
_COUNT = re.compile(r"\b(?:how many|count|the (?:total )?number of)\b|多少|几[个只条块]", re.IGNORECASE)
_SPECKS = re.compile(
    r"\b(?:dots?|points?|spots?|pips?|stars?|asterisks?|dice|die|domino\w*)\b", re.IGNORECASE
)
_READING = re.compile(
    r"\b(?:digits?|letters?|words?|written|writes?|label\w*|tables?|clocks?|charts?|graphs?|codes?|calendars?"
    r"|maps?|prices?|scales?|rulers?|thermometers?|numbers? (?:shown|in|on))\b|数字|字母|表格",
    re.IGNORECASE,
)
_PIXEL_COLOURS = {
    OperationName.GAUSSIAN_NOISE,
    OperationName.SALT_PEPPER,
    OperationName.SPECKLE,
    OperationName.CONTRAST,
}

HIDES_WRITING = frozenset({OperationName.BLUR, OperationName.LOW_RESOLUTION, OperationName.OCCLUSION})
"""Operations that make a question inside an image unreadable."""


def unsuited(operation: Operation, problem: Problem, images: Sequence[int]) -> str | None:
    """Why an operation could change a problem's answer or hide what the answer needs; None if it is safe.

    Args:
        operation: with its parameters.
        problem: the rules read its text, options and image sizes.
        images: positions of the images that are changed.
    """
    words = _PAGE.sub("", "\n".join([problem.text, *problem.options]))
    name = operation.name

    def found(pattern: re.Pattern[str], reason: str) -> str | None:
        match = pattern.search(words)
        return f"{name}: {reason} ({match.group()!r})" if match else None

    if name == OperationName.ROTATE:
        return found(_ORIENTATION, "the question depends on the orientation")
    if name in _PIXEL_COLOURS and (reason := found(_COLOUR, "the question names a colour")):
        return reason
    if name == OperationName.SALT_PEPPER and _COUNT.search(words):
        return found(_SPECKS, "specks may be counted")
    if name == OperationName.OCCLUSION:
        return found(_COUNT, "what is to be counted may be hidden") or found(_GREY, "the patches are grey")
    if name in (OperationName.BLUR, OperationName.LOW_RESOLUTION):
        side = min(min(problem.images[i].width, problem.images[i].height) for i in images)
        left = side / operation.parameters.get("factor", 1)
        if left < MIN_READABLE_PIXELS:
            return f"{name}: {left:.0f} pixels of the shorter side would be left, too few for writing"
        return found(_READING, "writing in the image must be read")
    if name == OperationName.QUESTION:
        return _undrawable_question(problem)
    return None


def _undrawable_question(problem: Problem) -> str | None:
    question, name = drawn_text(problem.text, len(problem.images)), OperationName.QUESTION
    if not question:
        return f"{name}: there is no text to draw"
    if len(question) > MAX_DRAWN_CHARS:
        return f"{name}: {len(question):,} characters are more than {MAX_DRAWN_CHARS:,}"
    if r"\begin{" in question:
        return f"{name}: a LaTeX environment cannot be read as its source"
    reason = undrawable(question)
    return f"{name}: {reason}" if reason else None


def refusal(recipe: Recipe, problem: Problem) -> str | None:
    """Why a recipe must not be used on a problem, or None. This check accepts or rejects image variants.

    It also finds a recipe that cannot be rendered: one of another renderer, with an image that does not exist, or with
    parameters that its operation does not have.
    """
    if recipe.renderer != RENDERER:
        return f"made for renderer {recipe.renderer}, this is {RENDERER}"
    try:
        images = chosen_images(recipe, len(problem.images))
    except RecipeError as error:
        return str(error)
    if OperationName.QUESTION in recipe.names and (hides := HIDES_WRITING.intersection(recipe.names)):
        return f"{min(hides)}: the question in the image could not be read"
    for operation in recipe.operations:
        wanted = OPERATIONS[operation.name].parameters(operation.strength, recipe.seed)
        if wanted != operation.parameters:
            return (
                f"{operation.name}: parameters {operation.parameters} are not those of its strength, {wanted}"
            )
        if reason := unsuited(operation, problem, images):
            return reason
    return None
