"""Rules that refuse operations which could change a problem's answer, by its words and the size of its images.

In doubt an operation is refused. To have fewer operations costs little, but a variant whose answer has changed would
be trained on with a wrong answer.
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
"""Largest number of characters of a question that is drawn into an image. A longer one would fill most of it."""

MIN_READABLE_PIXELS = 100
"""Smallest length of the shorter side after an operation, in pixels. In a smaller figure, letters are unreadable."""

# Words about the position of the figure on the page ("the figure on the right"). They are removed before the rules.
_PAGE = re.compile(
    r"\b(?:figures?|pictures?|diagrams?|images?|drawings?|shown|pictured) (?:\w+ )?(?:on|to|at) the (?:left|right)\b"
    r"(?![ -](?:hand )?side)",
    re.IGNORECASE,
)
# "Right" is a direction, except in "right angle" or "right prism". "Above" and "below" are not in the list, because
# they are positions on the page.
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
"""Operations that would make a question that is drawn into the image unreadable."""


def unsuited(operation: Operation, problem: Problem, images: Sequence[int]) -> str | None:
    """Return the reason why an operation is not safe for a problem, or None if it is safe.

    It is not safe if it could change the answer, or hide a detail that is needed to find the answer.

    Args:
        operation: the operation with its parameters.
        problem: the problem. Its text, options and image sizes are used.
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
    """Return the reason why a recipe must not be used on a problem, or None. This is the check of image variants.

    It also refuses a recipe that cannot be rendered as intended: one for another renderer, for an image that does not
    exist, or with parameters that do not belong to its strength.
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
