"""A generation batch whose rewards are known: its advantages, its records, and the refill of silent problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.trainer.data import Layout
from diva_grpo.trainer.method.advantages import ADVANTAGES, Advantages, AdvantageSettings, DivaAdvantages
from diva_grpo.trainer.method.curriculum import BoolArray, Choice, Curriculum, IntArray, Visit


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """One generation batch. Axes: P problems, V = M+1 prompts of each, N rollouts of a prompt.

    Attributes:
        choice: the prompts that were used.
        reward_PVN: weighted sum of the rewards, NaN where no function judged.
        accuracy_PVN: 1 right, 0 wrong, NaN not judged.
        tokens_PVN: tokens that the policy generated.
        tries_P: earlier generations of the same step that had the problem too (refill of a small data set).
        output: TRL's tensors of this process's rows.
    """

    choice: Choice
    reward_PVN: FloatArray
    accuracy_PVN: FloatArray
    tokens_PVN: IntArray
    tries_P: IntArray
    output: dict[str, Any]

    def silent_P(self) -> BoolArray:
        """Problems whose rollouts all have the same reward: nothing to learn from."""
        return ~_varies(self.reward_PVN.reshape(len(self.reward_PVN), -1))

    def silent_share(self) -> dict[str, float]:
        """Shares of groups without a signal, by what the group is of."""
        flat_QN = self.reward_PVN.reshape(-1, self.reward_PVN.shape[-1])
        return {
            "local": float(1 - _varies(flat_QN).mean()),
            "global": float(self.silent_P().mean()),
            "original": float(1 - _varies(self.reward_PVN[:, 0]).mean()),
        }

    def advantages(self, name: str, settings: AdvantageSettings) -> Advantages:
        """The advantages of all rollouts, each tensor of shape (B,).

        Args:
            name: one of `trainer.method.advantages.ADVANTAGES`.
            settings: its options.
        """
        return ADVANTAGES[name](*self._tensors(), settings)

    def metrics(self, trained: Advantages, settings: AdvantageSettings) -> dict[str, float]:
        """What is logged of the rewards and advantages of a batch.

        Args:
            trained: the advantages of the loss.
            settings: what they were computed with.
        """
        logged = {f"groups_without_signal/{name}": share for name, share in self.silent_share().items()}
        if isinstance(trained, DivaAdvantages):
            for name, weight, part_B in (
                ("local", settings.local_weight, trained.local_rescaled),
                ("global", settings.global_weight, trained.global_rescaled),
            ):
                logged[f"advantage_abs/{name}"] = float((weight * part_B).abs().mean())
        return logged

    def _tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rewards, local groups, global groups and difficulties of all rollouts, each (B,)."""
        problems, slots, samples = self.reward_PVN.shape
        prompt_B = torch.arange(problems * slots).repeat_interleave(samples)
        difficulty_B = torch.from_numpy(self.choice.difficulty_PV.reshape(-1)).repeat_interleave(samples)
        return torch.from_numpy(self.reward_PVN.reshape(-1)), prompt_B, prompt_B // slots, difficulty_B

    def rollout_columns(
        self, problem_ids: Sequence[str], advantage_PVN: FloatArray | None, only_P: BoolArray
    ) -> dict[str, Any]:
        """Columns of `rollouts`, for the problems in `only_P`, but for run_id, step and attempt.

        Args:
            problem_ids: of the training data, by row number.
            advantage_PVN: what the loss sees of the policy's own tokens; None where the rollouts are not trained
                on, and count as 0.
            only_P: which problems.
        """
        places = np.flatnonzero(only_P).tolist()
        _, slots, samples = self.reward_PVN.shape
        prompts = [(place, slot) for place in places for slot in range(slots)]
        advantages = np.zeros_like(self.reward_PVN) if advantage_PVN is None else advantage_PVN
        per_prompt = {
            "problem_id": [problem_ids[self.choice.problem_P[place]] for place, _ in prompts],
            "slot": [slot for _, slot in prompts],
            "variant_id": [self.choice.variant_id(place, slot) for place, slot in prompts],
        }
        return {
            **{
                name: [value for value in values for _ in range(samples)]
                for name, values in per_prompt.items()
            },
            # Another try of a problem in the same step continues the numbers of the first.
            "sample": np.concatenate(
                [np.arange(samples) + samples * self.tries_P[place] for place, _ in prompts] or [np.arange(0)]
            ),
            "reward": pa.array(self.reward_PVN[places].reshape(-1), from_pandas=True),
            "accuracy": pa.array(self.accuracy_PVN[places].reshape(-1), from_pandas=True),
            "advantage": advantages[places].reshape(-1),
            "completion_tokens": self.tokens_PVN[places].reshape(-1),
        }

    def event_columns(self, visit: Visit, curriculum: Curriculum) -> dict[str, Any]:
        """Columns of `difficulty_events`, one row a problem, but for run_id, step and attempt."""
        return {
            "problem_id": [curriculum.problem_ids[number] for number in self.choice.problem_P],
            "old_difficulty": visit.old_P,
            "new_difficulty": visit.new_P,
            "accuracy": pa.array(visit.accuracy_P, from_pandas=True),
            "rollouts": visit.judged_P,
            "rule": [curriculum.settings.difficulty_rule] * len(visit.old_P),
            "uncertainty": pa.array(visit.uncertainty_P, from_pandas=True),
        }

    def refilled(
        self, other: RolloutBatch, take_P: BoolArray, layout: Layout, first_row: int, pad_id: int
    ) -> RolloutBatch:
        """This batch with the problems in `take_P` replaced by those of `other` at the same places.

        No row moves between processes: place p of one batch is filled from place p of the other.

        Args:
            other: a batch of the same layout.
            take_P: which places.
            layout: of both.
            first_row: position of this process's first row in the global batch.
            pad_id: padding token.
        """
        rows = len(self.output["prompt_ids"])
        take_rows = torch.from_numpy(take_P[(np.arange(rows) + first_row) // layout.block])
        where_PVN = take_P[:, None, None]
        return RolloutBatch(
            self.choice.replaced(other.choice, take_P),
            np.where(where_PVN, other.reward_PVN, self.reward_PVN),
            np.where(where_PVN, other.accuracy_PVN, self.accuracy_PVN),
            np.where(where_PVN, other.tokens_PVN, self.tokens_PVN),
            np.where(take_P, other.tries_P, self.tries_P),
            _merged_tensors(self.output, other.output, take_rows, pad_id),
        )


def _varies(values_QN: FloatArray) -> BoolArray:
    """(Q,) whether the judged values of a group differ at all."""
    low = np.where(np.isnan(values_QN), np.inf, values_QN).min(axis=1)
    high = np.where(np.isnan(values_QN), -np.inf, values_QN).max(axis=1)
    varies: BoolArray = high > low
    return varies


_LEFT_PADDED = frozenset({"prompt_ids", "prompt_mask"})
_PADDED_WITH_TOKEN = frozenset({"prompt_ids", "completion_ids"})
_OF_PROMPT_AND_COMPLETION = frozenset({"token_type_ids", "mm_token_type_ids"})
_TOOL_MASK = "tool_mask"


def _merged_tensors(
    ours: dict[str, Any], theirs: dict[str, Any], take_rows: torch.Tensor, pad_id: int
) -> dict[str, Any]:
    """Rows of two of TRL's output dictionaries, those in `take_rows` from `theirs`."""
    # TRL keeps the pixels of all rows in one tensor of patches, tiles or images: row by row they can be picked.
    sides = [split_pixel_values_by_grid(side) for side in (ours, theirs)]
    width = ours["prompt_ids"].shape[1], theirs["prompt_ids"].shape[1]
    merged: dict[str, Any] = {}
    for name in dict.fromkeys([*ours, *theirs]):  # in order: TRL takes the first for a tensor
        if name == "num_items_in_batch":
            continue
        a, b = (_with_default(name, *pair) for pair in (sides, sides[::-1]))
        if isinstance(a, list):
            picks = zip(take_rows.tolist(), a, b, strict=True)
            merged[name] = [their if take else our for take, our, their in picks]
        elif name in _OF_PROMPT_AND_COMPLETION:
            prompt = _picked(a[:, : width[0]], b[:, : width[1]], take_rows, 0, left=True)
            completion = _picked(a[:, width[0] :], b[:, width[1] :], take_rows, 0, left=False)
            merged[name] = torch.cat([prompt, completion], dim=1)
        else:
            value = pad_id if name in _PADDED_WITH_TOKEN else 1 if name == _TOOL_MASK else 0
            merged[name] = _picked(a, b, take_rows, value, left=name in _LEFT_PADDED)
    return dict(unsplit_pixel_values_by_grid(merged))


def _with_default(name: str, side: dict[str, Any], other: dict[str, Any]) -> Any:
    """A field of one side, or what it would be where only the other side has it."""
    if name in side:
        return side[name]
    if name in _OF_PROMPT_AND_COMPLETION:
        return torch.zeros_like(torch.cat([side["prompt_ids"], side["completion_ids"]], dim=1))
    if name == _TOOL_MASK:  # a batch without any opening: all of its tokens count
        return torch.ones_like(side["completion_mask"])
    rows = len(side["prompt_ids"])
    if name in ("num_images", "num_tiles"):  # a batch without any image
        return [0] * rows
    theirs = other[name]
    if isinstance(theirs, list):
        return [theirs[0][:0]] * rows
    return theirs.new_zeros((rows, *theirs.shape[1:]))


def _picked(
    a: torch.Tensor, b: torch.Tensor, take_rows: torch.Tensor, value: int, *, left: bool
) -> torch.Tensor:
    """Rows of `b` where they are taken, else of `a`, padded to one width where they have one."""
    if a.dim() > 1:
        wide = max(a.shape[1], b.shape[1])
        a, b = (_padded(x, wide, value, left=left) for x in (a, b))
    take = take_rows.to(a.device).reshape(-1, *[1] * (a.dim() - 1))
    return torch.where(take, b, a)


def _padded(tensor: torch.Tensor, width: int, value: int, *, left: bool) -> torch.Tensor:
    missing = width - tensor.shape[1]
    behind = [0, 0] * (tensor.dim() - 2)
    return torch.nn.functional.pad(
        tensor, (*behind, missing, 0) if left else (*behind, 0, missing), value=value
    )
