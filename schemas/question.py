"""How a problem or a variant reads as a question: one wording for teacher, solver, policy and trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.records import Problem, Variant

HINT_OPENING = "\n\nThe first steps of a solution:\n"
HINT_CLOSING = "\nContinue from here."


def render_question(text: str, *, options: Sequence[str] = (), hint: Sequence[str] = ()) -> str:
    """The question with its choices and, behind them, the first steps of a solution.

    The hint in the question is the paper's form of help for hard problems (method.md section 3).
    """
    lines = [text, *(f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options))]
    question = "\n".join(lines)
    return question + HINT_OPENING + "\n".join(hint) + HINT_CLOSING if hint else question


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
    """

    subject_id: str
    problem_id: str
    text: str
    answer: str
    options: tuple[str, ...] = ()
    hint: tuple[str, ...] = ()
    image_hashes: tuple[str, ...] = ()

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
    )
