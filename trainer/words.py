"""`Words`: the texts of a generation batch, which are its prompts, openings and completions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diva_grpo.trainer.method.curriculum import BoolArray
from diva_grpo.trainer.prompts import Prompt

ObjectArray = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of one generation batch, as arrays of objects. Axes as in `RolloutBatch`.

    Attributes:
        prompt_PV: prompts, as TRL got them: a text or a list of messages.
        opening_PV: openings of the answers; empty texts where there is none.
        completion_PVN: texts that the policy wrote after the opening.
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
        """Arrange the texts of the batch of all processes.

        Args:
            prompts_B: prompt of each row.
            completions_B: completion of each row, plain or conversational, including its opening.
            openings: for each problem, the opening of each slot.
            generations: number of rows per prompt.
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
        """Return these texts with those of `other` for the problems where `take_P` is true."""
        taken = self.prompt_PV.copy(), self.opening_PV.copy(), self.completion_PVN.copy()
        for mine, theirs in zip(
            taken, (other.prompt_PV, other.opening_PV, other.completion_PVN), strict=True
        ):
            mine[take_P] = theirs[take_P]
        return Words(*taken)


def _said(completion: Any) -> str:
    """Return the text of a completion. If it has several messages, return them as JSON."""
    if isinstance(completion, str):
        return completion
    if len(completion) == 1 and isinstance(completion[0].get("content"), str):
        return str(completion[0]["content"])
    return json.dumps(completion, ensure_ascii=False, default=str)
