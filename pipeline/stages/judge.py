"""The check `judge`: a second model says whether a rewritten text is still the same question."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from diva_grpo.pipeline.checks.finding import Finding, failed
from diva_grpo.pipeline.images.shown import shown_images
from diva_grpo.pipeline.session.session import Endpoint, Session
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.config import VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.question import question_of, render_question
from diva_grpo.schemas.records import Problem, Variant
from diva_grpo.schemas.replies import Answer, Judgement


class Judge:
    """A model at an OpenAI-compatible endpoint that compares variants with their problems.

    Args:
        endpoint: the endpoint of the judge; `for_verify` chooses it.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._store = endpoint, endpoint.session.store

    @classmethod
    def for_verify(cls, session: Session, config: VerifyConfig) -> Judge | None:
        """The judge that a configuration asks for; None if the check `judge` is off.

        It has the settings of the solver's endpoint, except for those that are given for the judge. If the judge has
        its own URL, it does not use the solver's endpoint name.

        Raises:
            ConfigError: the session has no solver; or the budget is limited and the price of the judge's model is
                unknown.
        """
        if "judge" not in config.checks:
            return None
        if session.solver is None:
            raise ConfigError("the check `judge` needs a judge: name a model")
        own = {"model": config.judge_model, "base_url": config.judge_base_url, "temperature": 0.0}
        own |= {"endpoint": None} if config.judge_base_url else {}
        update = {k: v for k, v in own.items() if v is not None or k == "endpoint"}
        return cls(session.endpoint(session.solver.config.model_copy(update=update)))

    @property
    def model(self) -> str:
        """Name of the judge's model, which is stored in its verdicts."""
        return self._endpoint.model

    def compare(self, pairs: Sequence[tuple[Variant, Problem]]) -> list[Finding]:
        """Ask the judge about each pair of variant and problem; for errors see `Endpoint.ask`.

        Returns:
            A finding for each pair, in order. Its `passed` is None if the judge gave no answer.
        """
        jobs = [partial(self._ask, variant, problem) for variant, problem in pairs]
        return [_finding(answer) for answer in self._endpoint.ask(jobs)]

    async def _ask(self, variant: Variant, problem: Problem, teacher: Teacher) -> Answer[Judgement]:
        return await teacher.ask(
            load_prompt("judge"),
            {
                "original": render_question(problem.text, options=problem.options),
                "rewritten": render_question(variant.text or "", options=problem.options),
            },
            purpose="judge",
            problem_id=problem.problem_id,
            shape=Judgement,
            images=shown_images(question_of(problem), self._store.image_path),
        )


def _finding(answer: Answer[Judgement]) -> Finding:
    if answer.value is None:
        return Finding(None, answer.failure)
    reason = " ".join(answer.value.reason.split())[:300]
    return Finding(True, reason) if answer.value.same_question else failed(reason)
