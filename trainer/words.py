"""What the policy was asked and wrote: the texts of a generation, and which of them a run keeps."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.grade import Grade
from diva_grpo.trainer.method.curriculum import BoolArray
from diva_grpo.trainer.prompts import HintStyle, Prompt

if TYPE_CHECKING:
    from diva_grpo.trainer.rollouts import RolloutBatch

logger = logging.getLogger(__name__)

ObjectArray = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of one generation batch. Axes as in `RolloutBatch`.

    Attributes:
        prompt_PV: what the policy was asked, as TRL was given it.
        opening_PV: text that opened its answer; empty without one.
        completion_PVN: what it wrote behind that.
    """

    prompt_PV: ObjectArray
    opening_PV: ObjectArray
    completion_PVN: ObjectArray

    @classmethod
    def of_batch(
        cls,
        prompts_B: Sequence[Prompt],
        completions_B: Sequence[Any],
        openings: Sequence[Sequence[str]],
        generations: int,
    ) -> Words:
        """The texts of a batch of all processes.

        Args:
            prompts_B: of every row.
            completions_B: of every row, plain or conversational, with their openings.
            openings: for each problem, of each slot.
            generations: rows of a prompt.
        """
        shape = (len(openings), len(openings[0]))
        prompt_PV, opening_PV = np.empty(shape, dtype=object), np.array(openings, dtype=object)
        completion_PVN = np.empty((*shape, generations), dtype=object)
        for row, completion in enumerate(completions_B):
            problem, slot, sample = np.unravel_index(row, completion_PVN.shape)
            if sample == 0:
                prompt_PV[problem, slot] = prompts_B[row]
            completion_PVN[problem, slot, sample] = _said(completion).removeprefix(opening_PV[problem, slot])
        return cls(prompt_PV, opening_PV, completion_PVN)

    def replaced(self, other: Words, take_P: BoolArray) -> Words:
        """These texts with the problems in `take_P` replaced by those of `other` in the same places."""
        taken = self.prompt_PV.copy(), self.opening_PV.copy(), self.completion_PVN.copy()
        for mine, theirs in zip(
            taken, (other.prompt_PV, other.opening_PV, other.completion_PVN), strict=True
        ):
            mine[take_P] = theirs[take_P]
        return Words(*taken)


def _said(completion: Any) -> str:
    """The text of a completion; of one with several turns, its messages as JSON."""
    if isinstance(completion, str):
        return completion
    if len(completion) == 1 and isinstance(completion[0].get("content"), str):
        return str(completion[0]["content"])
    return json.dumps(completion, ensure_ascii=False, default=str)


class WordKeeper:
    """Which texts a run keeps: those of the first problems of each generation, while there is room.

    Problems come in random order, so the first are a random sample. All rollouts of a problem are kept, or none.

    Args:
        problems: of a generation.
        budget_bytes: of all texts of a run, in UTF-8.
        hint_style: of the run's prompts.
        render: gives a prompt as the text that the policy reads.
        grade: of a row number of the training data and a text, where our grader gives the rewards; else None.

    Attributes:
        used_bytes: of the budget.
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
        """Whether there are texts to keep, and room for them."""
        return self._problems > 0 and self.used_bytes < self._budget_bytes

    def columns(
        self, batch: RolloutBatch, places: Sequence[int], problem_ids: Sequence[str]
    ) -> tuple[dict[str, list[Any]], dict[str, Any]]:
        """Columns of texts of `rollouts`, and rows of `prompts` that are new.

        Args:
            batch: with its texts, or without any.
            places: of its problems that are recorded.
            problem_ids: of the training data, by row number.

        Returns:
            Columns over all rollouts of `places`, None where none are kept. And columns of `prompts`.
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
                for text in batch.words.completion_PVN[place, slot]:
                    number = int(batch.choice.problem_P[place])
                    grade = self._grade(number, opening + text) if self._grade else None
                    _add(kept, text, *((grade.outcome, grade.answer, grade.how) if grade else (None,) * 3))
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
