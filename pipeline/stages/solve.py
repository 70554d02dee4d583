"""Solvers answer questions: a teacher's endpoint, or (in `trainer`) the policy itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from diva_grpo.pipeline.images.shown import shown_images
from diva_grpo.pipeline.session.session import Endpoint
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import Prompt, load_prompt
from diva_grpo.schemas.policy import PolicyConfig, PolicyOptions
from diva_grpo.schemas.question import Question
from diva_grpo.schemas.replies import Answer, Reply

Progress = Callable[[int], None]
"""Told how many answers are newly there."""


class Solver(Protocol):
    """Anything that answers questions independently several times."""

    @property
    def model(self) -> str:
        """Name under which its labels and verdicts are kept."""
        ...

    def solve(
        self, questions: Sequence[Question], samples: int, progress: Progress | None = None
    ) -> list[list[Answer[Reply]]]:
        """`samples` answers to each question, in order; a failed one has its `failure` set."""
        ...


VERIFICATION = 1_000_000
"""First sample of the answers that decide whether a variant is accepted.

Labels count from 0. If they shared an answer, an accepted variant would be sure of one right sample in its
label, and look easier than it is.
"""


def policy_prompt(system: str | None = None, instruction: str = "") -> Prompt:
    """The question alone, after the system message of training and before its instruction: how the trainer asks.

    For an endpoint that serves the policy, so that its labels are of the level that it trains at.
    """
    return Prompt("policy", system or "", "$problem" + instruction.replace("$", "$$"))


def policy_fields(asked: PolicyConfig | PolicyOptions) -> dict[str, Any]:
    """The fields of a request that a server of the policy (vLLM, SGLang) samples by, beside those of every endpoint."""
    names = ("top_p", "top_k", "min_p", "repetition_penalty", "chat_template_kwargs")
    fields = {name: getattr(asked, name) for name in names}
    return {name: value for name, value in fields.items() if value not in (None, {})}


class TeacherSolver:
    """A solver behind an OpenAI-compatible endpoint.

    Args:
        endpoint: of a session.
        first_sample: number of the first answer to a question: 0, or `VERIFICATION`.
        prompt: how it is asked; default the prompt `solve`.
    """

    def __init__(self, endpoint: Endpoint, first_sample: int = 0, prompt: Prompt | None = None) -> None:
        self._endpoint, self._first_sample = endpoint, first_sample
        self._store = endpoint.session.store
        self._prompt = prompt or load_prompt("solve")

    @property
    def model(self) -> str:
        """The endpoint's model."""
        return self._endpoint.model

    def solve(
        self, questions: Sequence[Question], samples: int, progress: Progress | None = None
    ) -> list[list[Answer[Reply]]]:
        """`samples` answers to each question, in order."""
        numbers = range(self._first_sample, self._first_sample + samples)
        jobs = [partial(self._ask, question, number) for question in questions for number in numbers]
        answers = self._endpoint.ask(jobs, progress)
        return [answers[i * samples : (i + 1) * samples] for i in range(len(questions))]

    async def _ask(self, question: Question, sample: int, teacher: Teacher) -> Answer[Reply]:
        return await teacher.ask(
            self._prompt,
            {"problem": question.rendered()},
            purpose="solve",
            problem_id=question.problem_id,
            images=shown_images(question, self._store.image_path),
            sample=sample,
        )
