"""Solvers answer questions. A solver is a model at an endpoint, or (in `trainer`) the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from diva_grpo.pipeline.images.shown import shown_images
from diva_grpo.pipeline.session.session import Endpoint
from diva_grpo.pipeline.store.files.progress import Progress
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import Prompt, load_prompt
from diva_grpo.schemas.policy import PolicyConfig, PolicyOptions
from diva_grpo.schemas.question import Question
from diva_grpo.schemas.replies import Answer, Reply


class Solver(Protocol):
    """Answers each question several times, independently."""

    @property
    def model(self) -> str:
        """Name of the solver in its labels and verdicts."""
        ...

    def solve(
        self, questions: Sequence[Question], samples: int, progress: Progress | None = None
    ) -> list[list[Answer[Reply]]]:
        """Answer each question `samples` times.

        Args:
            questions: the questions.
            samples: number of answers to each question.
            progress: called with the number of newly finished answers.

        Returns:
            A list of `samples` answers for each question, in order. A failed answer has its `failure` set.
        """
        ...


VERIFICATION = 1_000_000
"""Number of the first sample for verification. Samples for labels are numbered from 0.

The numbers differ so that labels do not reuse the answers of verification. An accepted variant has right answers there,
so with these answers its label would be too easy.
"""


def policy_prompt(system: str | None = None, instruction: str = "") -> Prompt:
    """The prompt that the trainer uses, for an endpoint that serves the policy.

    With it, labels measure the same pass rate as training.

    Args:
        system: the system message of training; None for none.
        instruction: the text that training appends to each question.
    """
    return Prompt("policy", system or "", "$problem" + instruction.replace("$", "$$"))


def policy_fields(asked: PolicyConfig | PolicyOptions) -> dict[str, Any]:
    """The additional sampling fields of a request to a server of the policy (vLLM, SGLang). Unset ones are left out."""
    names = ("top_p", "top_k", "min_p", "repetition_penalty", "chat_template_kwargs")
    fields = {name: getattr(asked, name) for name in names}
    return {name: value for name, value in fields.items() if value not in (None, {})}


class TeacherSolver:
    """A solver at an OpenAI-compatible endpoint.

    Args:
        endpoint: the endpoint, from a session.
        first_sample: number of the first sample of each question: 0 for labels, or `VERIFICATION`.
        prompt: the prompt; by default the prompt `solve`.
    """

    def __init__(self, endpoint: Endpoint, first_sample: int = 0, prompt: Prompt | None = None) -> None:
        self._endpoint, self._first_sample = endpoint, first_sample
        self._store = endpoint.session.store
        self._prompt = prompt or load_prompt("solve")

    @property
    def model(self) -> str:
        """Name of the endpoint's model."""
        return self._endpoint.model

    def solve(
        self, questions: Sequence[Question], samples: int, progress: Progress | None = None
    ) -> list[list[Answer[Reply]]]:
        """See `Solver.solve`; for errors see `Endpoint.ask`."""
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
