"""Render a problem or a variant as a question. Teacher, solver, policy and trainer all use the same wording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diva_grpo.schemas.records import Problem, Variant

HINT_OPENING = "\n\nThe first steps of a solution:\n"
HINT_CLOSING = "\nContinue from here."

PLACEHOLDER = re.compile(r"<image(\d*)>")
"""The place of an image in a text: `<image>` is the next image, and `<image2>` is image number 2."""


def render_question(text: str, *, options: Sequence[str] = (), hint: Sequence[str] = ()) -> str:
    """Render a question as text: the question, then its choices, then the hint.

    A hint in the question is how the paper helps with hard problems.

    Args:
        text: the question.
        options: texts of the choices A, B, ...; empty for an open question.
        hint: first steps of a solution; empty: no hint.
    """
    lines = [text, *(f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options))]
    question = "\n".join(lines)
    return question + HINT_OPENING + "\n".join(hint) + HINT_CLOSING if hint else question


def find_places(text: str, images: int) -> list[tuple[int, int, int]]:
    """Find the placeholders of images in a text.

    `<image2>` is the second image. `<image>` is the next image that no numbered placeholder names. A placeholder
    without an image is left out, and so is a second placeholder of the same image.

    >>> find_places("Is <image2> larger?", 2)
    [(3, 11, 1)]

    Args:
        text: the text, with placeholders such as `<image>` or `<image1>`.
        images: number of images.

    Returns:
        (start, end, number of the image from 0) of each placeholder, in the order of the text.
    """
    matches = list(PLACEHOLDER.finditer(text))
    numbered = {int(match[1]) - 1 for match in matches if match[1]}
    unnamed = iter([i for i in range(images) if i not in numbered])
    found: dict[int, tuple[int, int, int]] = {}
    for match in matches:
        place = int(match[1]) - 1 if match[1] else next(unnamed, images)
        if 0 <= place < images:
            found.setdefault(place, (*match.span(), place))
    return sorted(found.values())


def place_images(text: str, images: int) -> tuple[list[dict[str, str]], list[int]]:
    """Convert a question to the content of a message: parts of text, and image parts in place of the placeholders.

    Images without a placeholder come first. A placeholder without an image becomes text, such as `[image2]`.

    >>> place_images("Is <image2> larger?", 2)[0]
    [{'type': 'image'}, {'type': 'text', 'text': 'Is '}, {'type': 'image'}, {'type': 'text', 'text': ' larger?'}]

    Args:
        text: the question, with placeholders such as `<image>` or `<image1>`.
        images: number of images.

    Returns:
        The parts, and for each image part the number of its image, from 0.
    """
    found = find_places(text, images)
    order = [place for _, _, place in found]
    first = [i for i in range(images) if i not in order]
    starts, ends = [start for start, _, _ in found], [end for _, end, _ in found]
    parts = [{"type": "image"} for _ in first]
    for number, (start, end) in enumerate(zip([0, *ends], [*starts, len(text)], strict=True)):
        # Placeholders without an image are rewritten, because a processor would take them for images.
        held = PLACEHOLDER.sub(r"[image\1]", text[start:end])
        parts += [{"type": "text", "text": held}] if held else []
        parts += [{"type": "image"}] if number < len(found) else []
    return parts, first + order


@dataclass(frozen=True, slots=True)
class Question:
    """A question for a solver.

    Attributes:
        subject_id: id of the problem or variant that the question is made from.
        problem_id: id of the problem.
        text: text of the question.
        answer: reference answer.
        options: texts of the choices A, B, ...; empty for an open question.
        hint: first steps of a solution; empty without a hint.
        image_hashes: content hashes of the images, in order.
        recipe: the operations on the images (JSON of `schemas.recipe.Recipe`); None: the images are unchanged.
        original: text of the problem, which a recipe may draw into an image.
    """

    subject_id: str
    problem_id: str
    text: str
    answer: str
    options: tuple[str, ...] = ()
    hint: tuple[str, ...] = ()
    image_hashes: tuple[str, ...] = ()
    recipe: str | None = None
    original: str = ""

    def rendered(self) -> str:
        """The text with options and hint, see `render_question`."""
        return render_question(self.text, options=self.options, hint=self.hint)


def question_of(problem: Problem, variant: Variant | None = None) -> Question:
    """Make a question from a problem, or from one of its variants if that is given."""
    return Question(
        subject_id=problem.problem_id if variant is None else variant.variant_id,
        problem_id=problem.problem_id,
        text=problem.text if variant is None else variant.text or "",
        answer=problem.answer,
        options=tuple(problem.options),
        hint=() if variant is None else tuple(variant.hint),
        image_hashes=tuple(image.hash for image in problem.images),
        recipe=None if variant is None else variant.recipe,
        original=problem.text,
    )
