"""Solvers answer questions: a teacher's endpoint, or (in `trainer`) the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from pipeline.prompts import load_prompt
from pipeline.store import VariantStore
from pipeline.teacher import Teacher
from pipeline.work import Progress, with_teacher
from schemas.config import TeacherConfig
from schemas.question import Question
from schemas.replies import Answer, Reply


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


class TeacherSolver:
    """A solver behind an OpenAI-compatible endpoint.

    Args:
        store: whose images and journal are used.
        config: the endpoint.
    """

    def __init__(self, store: VariantStore, config: TeacherConfig) -> None:
        self._store, self._config = store, config

    @property
    def model(self) -> str:
        """The endpoint's model."""
        return self._config.model

    def solve(
        self, questions: Sequence[Question], samples: int, progress: Progress | None = None
    ) -> list[list[Answer[Reply]]]:
        """`samples` answers to each question, in order."""
        jobs = [partial(self._ask, question, i) for question in questions for i in range(samples)]
        answers = with_teacher(self._store, self._config, jobs, progress)
        return [answers[i * samples : (i + 1) * samples] for i in range(len(questions))]

    async def _ask(self, question: Question, sample: int, teacher: Teacher) -> Answer[Reply]:
        return await teacher.ask(
            load_prompt("solve"),
            {"problem": question.rendered()},
            purpose="solve",
            problem_id=question.problem_id,
            images=[self._store.image_path(digest) for digest in question.image_hashes],
            sample=sample,
        )
