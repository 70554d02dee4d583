"""`RolloutBatch`, a generation batch with its rewards: advantages, records, and the refill of silent problems."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.trainer.columns import event_columns
from diva_grpo.trainer.data import Layout
from diva_grpo.trainer.method.advantages import (
    ADVANTAGES,
    Advantages,
    AdvantageSettings,
    DivaAdvantages,
    normalised_sum,
)
from diva_grpo.trainer.method.curriculum import BoolArray, Choice, Curriculum, IntArray, Visit
from diva_grpo.trainer.rows import joined, picked
from diva_grpo.trainer.words import Words

FINISHES = {True: "ended", False: "truncated"}
"""Names of how a rollout finished, by whether the policy ended it."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """One generation batch of all processes.

    Axes: P problems, V = M + 1 prompts per problem, N rollouts per prompt, F reward functions, B = P V N rollouts.

    Attributes:
        choice: the prompts that were used.
        reward_PVN: weighted sum of the rewards; NaN where no function judged.
        part_PVNF: reward by each function; NaN where it did not judge.
        accuracy_PVN: 1 for a right rollout, 0 for a wrong one, NaN for one that was not judged.
        tokens_PVN: number of tokens that the policy generated.
        ended_PVN: whether the policy ended the answer; if not, it was truncated.
        tries_P: number of earlier generations for the same problem in this step. Not 0 only if a refill had to generate
            for the same problem again.
        output: TRL's tensors for this process's rows.
        words: the texts; None if the run keeps none of this batch.
    """

    choice: Choice
    reward_PVN: FloatArray
    part_PVNF: FloatArray
    accuracy_PVN: FloatArray
    tokens_PVN: IntArray
    ended_PVN: BoolArray
    tries_P: IntArray
    output: dict[str, Any]
    words: Words | None = None

    def silent_P(self) -> BoolArray:
        """Return (P,) whether all judged rollouts of a problem have the same reward."""
        return ~_varies(self.reward_PVN.reshape(len(self.reward_PVN), -1))

    def silent_share(self) -> dict[str, float]:
        """Return the share of silent groups: `local` and `global` groups, and the local groups of the `original`."""
        flat_QN = self.reward_PVN.reshape(-1, self.reward_PVN.shape[-1])
        return {
            "local": float(1 - _varies(flat_QN).mean()),
            "global": float(self.silent_P().mean()),
            "original": float(1 - _varies(self.reward_PVN[:, 0]).mean()),
        }

    def advantages(
        self, name: str, settings: AdvantageSettings, weights_F: torch.Tensor | None = None
    ) -> Advantages:
        """Return the advantages of all rollouts, as tensors of shape (B,). In the warm-up they are those of GRPO.

        Args:
            name: one of `trainer.method.advantages.ADVANTAGES`.
            settings: options of the advantage function.
            weights_F: (F,) weights of the reward functions. The rewards of each function are then standardised before
                they are added (`normalised_sum`). None: the sums in `reward_PVN` are used.
        """
        reward_B, prompt_B, problem_B, difficulty_B = self._tensors()
        if self.choice.warmup:  # all prompts of a problem are its original, so its rollouts form one group
            name, prompt_B = "grpo", problem_B
        if weights_F is not None:
            part_BF = torch.from_numpy(self.part_PVNF.reshape(len(reward_B), -1))
            reward_B = normalised_sum(part_BF, weights_F, prompt_B, settings.eps)
            prompt_B = torch.zeros_like(prompt_B)
        return ADVANTAGES[name](reward_B, prompt_B, problem_B, difficulty_B, settings)

    def metrics(self, trained: Advantages, settings: AdvantageSettings) -> dict[str, float]:
        """Return metrics of the rewards and advantages for the trainer's log, by name.

        Args:
            trained: the advantages that the loss uses.
            settings: the options with which they were computed.
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
        """Return rewards, local groups, global groups and difficulties of all rollouts, each (B,)."""
        problems, slots, samples = self.reward_PVN.shape
        prompt_B = torch.arange(problems * slots).repeat_interleave(samples)
        difficulty_B = torch.from_numpy(self.choice.difficulty_PV.reshape(-1)).repeat_interleave(samples)
        return torch.from_numpy(self.reward_PVN.reshape(-1)), prompt_B, prompt_B // slots, difficulty_B

    def rollout_columns(
        self,
        problem_ids: Sequence[str],
        functions: Sequence[str],
        advantage_PVN: FloatArray | None,
        places: Sequence[int],
    ) -> dict[str, Any]:
        """Return columns of the table `rollouts`, without texts, run_id, step and attempt.

        Args:
            problem_ids: ids of the problems of the training data, by row number.
            functions: names of the reward functions.
            advantage_PVN: advantages of the policy's own tokens in the loss. None if the rollouts are not trained on;
                their advantage is then recorded as 0.
            places: places in the batch of the problems that are recorded.
        """
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
            # If a step generates for a problem again, the numbers of the samples continue those of the earlier ones.
            "sample": np.concatenate(
                [np.arange(samples) + samples * self.tries_P[place] for place, _ in prompts] or [np.arange(0)]
            ),
            "reward": pa.array(self.reward_PVN[places].reshape(-1), from_pandas=True),
            "accuracy": pa.array(self.accuracy_PVN[places].reshape(-1), from_pandas=True),
            "advantage": advantages[places].reshape(-1),
            "completion_tokens": self.tokens_PVN[places].reshape(-1),
            "reward_parts": _as_json(functions, self.part_PVNF[places].reshape(-1, len(functions))),
            "finish": np.where(self.ended_PVN[places].reshape(-1), FINISHES[True], FINISHES[False]),
        }

    def event_columns(self, visit: Visit, curriculum: Curriculum) -> dict[str, Any]:
        """Return columns of the table `difficulty_events`, one row per problem, without run_id, step and attempt."""
        return event_columns(self.choice, visit, curriculum)

    def refilled(
        self, other: RolloutBatch, take_P: BoolArray, layout: Layout, first_row: int, pad_id: int
    ) -> RolloutBatch:
        """Return this batch with the problems where `take_P` is true replaced by those of `other` at the same places.

        No row moves between processes, because a problem keeps its place in the batch.

        Args:
            other: a batch with the same layout.
            take_P: (P,) whether a place is replaced.
            layout: layout of both batches.
            first_row: position of this process's first row in the batch of all processes.
            pad_id: id of the padding token.
        """
        row_B = np.arange(len(self.output["prompt_ids"]))
        theirs_B = take_P[(row_B + first_row) // layout.block]
        source_B = torch.from_numpy(np.where(theirs_B, row_B + len(row_B), row_B))
        where_PVN = take_P[:, None, None]
        return RolloutBatch(
            self.choice.replaced(other.choice, take_P),
            np.where(where_PVN, other.reward_PVN, self.reward_PVN),
            np.where(where_PVN[..., None], other.part_PVNF, self.part_PVNF),
            np.where(where_PVN, other.accuracy_PVN, self.accuracy_PVN),
            np.where(where_PVN, other.tokens_PVN, self.tokens_PVN),
            np.where(where_PVN, other.ended_PVN, self.ended_PVN),
            np.where(take_P, other.tries_P, self.tries_P),
            picked(joined([self.output, other.output], pad_id), source_B),
            self.words.replaced(other.words, take_P) if self.words and other.words else None,
        )


def _varies(values_QN: FloatArray) -> BoolArray:
    """Return (Q,) whether the judged (not NaN) values of a group differ."""
    low = np.where(np.isnan(values_QN), np.inf, values_QN).min(axis=1)
    high = np.where(np.isnan(values_QN), -np.inf, values_QN).max(axis=1)
    varies: BoolArray = high > low
    return varies


def _as_json(functions: Sequence[str], part_BF: FloatArray) -> list[str]:
    """Return the rewards of each rollout as JSON by function; equal rewards are converted only once."""

    @cache
    def written(parts: tuple[float, ...]) -> str:
        named = zip(functions, parts, strict=True)
        return json.dumps({name: None if math.isnan(part) else part for name, part in named})

    # NaN is not equal to itself, so rollouts with NaN are converted one by one.
    return [written(tuple(parts)) for parts in part_BF.tolist()]
