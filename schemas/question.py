"""How a problem or a variant reads as a question: one wording for teacher, solver, policy and trainer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diva_grpo.schemas.records import Problem, Variant

HINT_OPENING = "\n\nThe first steps of a solution:\n"
HINT_CLOSING = "\nContinue from here."

PLACEHOLDER = re.compile(r"<image(\d*)>")
"""Where an image stands in a text: `<image>`, or `<image2>` where an image is not the next one."""


def render_question(text: str, *, options: Sequence[str] = (), hint: Sequence[str] = ()) -> str:
    """The question, followed by its choices and the first steps of a solution.

    The hint in the question is the paper's form of help for hard problems.
    """
    lines = [text, *(f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options))]
    question = "\n".join(lines)
    return question + HINT_OPENING + "\n".join(hint) + HINT_CLOSING if hint else question


def find_places(text: str, images: int) -> list[tuple[int, int, int]]:
    """Where in a text its images stand.

    `<image2>` is the second image, `<image>` the next that no number names. A placeholder without an image,
    or the second of one image, is left out.

    >>> find_places("Is <image2> larger?", 2)
    [(3, 11, 1)]

    Args:
        text: with `<image>` or `<image1>` where its images stand.
        images: how many it has.

    Returns:
        (start, end, number of the image from 0) of each placeholder, in order.
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
    """A question as the content of a message, its placeholders replaced by parts for its images.

    Images without a placeholder go first; a placeholder without an image stays a name: [image2].

    >>> place_images("Is <image2> larger?", 2)[0]
    [{'type': 'image'}, {'type': 'text', 'text': 'Is '}, {'type': 'image'}, {'type': 'text', 'text': ' larger?'}]

    Args:
        text: the question, with `<image>` or `<image1>` where its images stand.
        images: how many it has.

    Returns:
        The parts, and the number (from 0) of the image that each image part stands for.
    """
    found = find_places(text, images)
    order = [place for _, _, place in found]
    first = [i for i in range(images) if i not in order]
    starts, ends = [start for start, _, _ in found], [end for _, end, _ in found]
    parts = [{"type": "image"} for _ in first]
    for number, (start, end) in enumerate(zip([0, *ends], [*starts, len(text)], strict=True)):
        # A processor would take what is left of the placeholders for images.
        held = PLACEHOLDER.sub(r"[image\1]", text[start:end])
        parts += [{"type": "text", "text": held}] if held else []
        parts += [{"type": "image"}] if number < len(found) else []
    return parts, first + order


@dataclass(frozen=True, slots=True)
class Question:
    """What is put to a solver.

    Attributes:
        subject_id: problem_id or variant_id that the answer counts for.
        problem_id: the problem that it belongs to.
        text: the question itself.
        answer: reference answer.
        options: texts of the choices A, B, ...
        hint: first steps of a solution.
        image_hashes: images in order, by content hash.
        recipe: how its images are perturbed (JSON of `schemas.recipe.Recipe`), if they are.
        original: the problem's own text, which a recipe may draw into an image.
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
    """The original, or one of its variants, as it is put to a solver."""
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
