"""Chooses the rollouts whose texts a run stores, and makes the table columns of these texts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from diva_grpo.pipeline.grade import Grade
from diva_grpo.schemas.policy import HintStyle
from diva_grpo.trainer.prompts import Prompt
from diva_grpo.trainer.rollouts import RolloutBatch

logger = logging.getLogger(__name__)


class WordKeeper:
    """Keeps the texts of the first problems of each generation, until a budget in bytes is used up.

    The problems of a generation are in random order, so the first ones are a random sample. For a problem, the texts of
    all its rollouts are kept or none.

    Args:
        problems: number of problems of each generation whose texts are kept.
        budget_bytes: limit for the UTF-8 size of all texts of a run.
        hint_style: hint style of the run's prompts.
        render: returns the text that the policy reads for a prompt.
        grade: returns our grader's result for (row number in the training data, text of an answer). None if another
            function decides whether an answer is right.

    Attributes:
        used_bytes: size of the texts kept so far.
    """

    def __init__(
        self,
        problems: int,
        budget_bytes: int,
        hint_style: HintStyle,
        render: Callable[[Prompt], str],
        grade: Callable[[int, str], Grade] | None,
    ) -> None:
        self._problems, self._budget_bytes, self._hint_style = problems, budget_bytes, hint_style
        self._render, self._grade = render, grade
        self._prompts: set[tuple[str, str]] = set()
        self.used_bytes = 0

    @property
    def active(self) -> bool:
        """Whether further texts are kept.

        False if `problems` is 0, or if the texts kept so far have reached `budget_bytes`.
        """
        return self._problems > 0 and self.used_bytes < self._budget_bytes

    def columns(
        self, batch: RolloutBatch, places: Sequence[int], problem_ids: Sequence[str]
    ) -> tuple[dict[str, list[Any]], dict[str, Any]]:
        """Return the text columns of the table `rollouts`, and new rows for the table `prompts`.

        Args:
            batch: a generation batch; its `words` may be None.
            places: places in the batch of the problems that are recorded.
            problem_ids: ids of the problems of the training data, by row number.

        Returns:
            Text columns with one value per rollout of `places`, None where the text is not kept; and columns of
            `prompts` with the prompts that were not returned before.
        """
        kept: dict[str, list[Any]] = {name: [] for name in _OF_A_ROLLOUT}
        asked: dict[str, Any] = {name: [] for name in _OF_A_PROMPT}
        _, slots, samples = batch.reward_PVN.shape
        for place in places:
            if batch.words is None or place >= self._problems or not self.active:
                for column in kept.values():
                    column += [None] * (slots * samples)
                continue
            for slot in range(slots):
                opening = batch.words.opening_PV[place, slot]
                key = problem_ids[batch.choice.problem_P[place]], batch.choice.variant_id(place, slot)
                if key not in self._prompts:
                    self._prompts.add(key)
                    _add(asked, *key, self._render(batch.words.prompt_PV[place, slot]), opening)
                number = int(batch.choice.problem_P[place])
                judged = zip(
                    batch.words.completion_PVN[place, slot], batch.accuracy_PVN[place, slot], strict=True
                )
                for text, accuracy in judged:
                    grade = self._grade(number, opening + text) if self._grade else None
                    outcome = _outcome(grade, accuracy) if grade else None
                    _add(kept, text, outcome, *((grade.answer, grade.how) if grade else (None, None)))
        self._count([*kept.values(), asked["prompt"], asked["opening"]])
        return kept, {**asked, "hint_style": self._hint_style}

    def _count(self, columns: Sequence[Sequence[str | None]]) -> None:
        before = self.active
        self.used_bytes += sum(
            len(text.encode(errors="replace")) for texts in columns for text in texts if text
        )
        if before and not self.active:
            logger.warning(
                "the %.0f MB of log_rollouts_mb are used up: further rollouts are recorded without their texts",
                self._budget_bytes / 1e6,
            )


_OF_A_ROLLOUT = ("completion", "graded_outcome", "graded_answer", "graded_how")
_OF_A_PROMPT = ("problem_id", "variant_id", "prompt", "opening")


def _add(columns: dict[str, list[Any]], *row: Any) -> None:
    for column, value in zip(columns.values(), row, strict=True):
        column.append(value)


def _outcome(grade: Grade, accuracy: float) -> str:
    """Return the grader's outcome, corrected to agree with the accuracy that the reward function gave.

    They differ if the grader ran into its time limit in one of the two calls only.
    """
    if math.isnan(accuracy):
        return "error"
    return grade.outcome if grade.score == accuracy else "correct" if accuracy else "wrong"
