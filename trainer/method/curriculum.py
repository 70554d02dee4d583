"""`Curriculum`: which prompts a training run shows for its problems, and what it learns from their rollouts.

    curriculum = Curriculum(problem_ids, CurriculumSettings(selector="posterior"))
    choice = curriculum.choose(problem_P, variants, step)     # before generation: a prompt for each slot
    visit = curriculum.observe(choice, accuracy_PVN)          # after the rewards: live difficulty changes
    curriculum.metrics(choice, accuracy_PVN)
    state = curriculum.state_dict()                           # with a checkpoint; load_state_dict takes it back

It knows no trainer, model or store: variants come from any `VariantSource`. All processes of a run give the same
arguments and get the same choices, because every random number is a hash (`trainer.method.selection.Draw`).

Axes: P problems of a generation batch, V = M + 1 slots (prompts) of each problem, N rollouts of each prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.difficulty.scale import FloatArray, pass_rate_from_difficulty, variant_difficulty
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import ORIGINAL
from diva_grpo.trainer.method.difficulty import BetaCounts
from diva_grpo.trainer.method.live import LiveDifficulty, LiveRule
from diva_grpo.trainer.method.selection import SELECTORS, Candidate, Draw

IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
VariantPrior = Literal["delta", "pooled"]
Aim = Literal["variants", "all"]
DifficultyFrom = Literal["original", "group"]


@dataclass(frozen=True, slots=True)
class CurriculumSettings:
    """The options of a `Curriculum`; `DivaGRPOConfig` describes each for users."""

    variants: int = 1
    """Number M of variants for each problem, beside its original."""
    selector: str = "paper"
    """One of `trainer.method.selection.SELECTORS`."""
    variant_prior: VariantPrior = "delta"
    """Pass rate expected of a variant before its first rollouts: its own (`delta`), or its pool's (`pooled`)."""
    aim: Aim = "variants"
    """Whether slot 0 is always the original, or the original competes with the variants for `all` slots."""
    difficulty_rule: LiveRule = "paper"
    """How live difficulty changes."""
    difficulty_eta: float = 4.0
    """Step of the rule `paper`, in levels per unit of accuracy."""
    difficulty_from: DifficultyFrom = "original"
    """Whose rollouts change it: those of the original, or those of the whole group."""
    warmup_steps: int = 0
    """First steps, in which all slots get the original (plain GRPO)."""
    seed: int = 0
    """Seed of all random choices."""


class TrainableVariant(Protocol):
    """What selection needs to know of an accepted variant."""

    @property
    def number(self) -> int:
        """By which its source finds its text."""

    @property
    def variant_id(self) -> str:
        """Its id."""

    @property
    def kind(self) -> str:
        """One of `reword harder think_step image image_text composite`."""

    @property
    def delta(self) -> float:
        """Difficulty offset from the original, in levels."""

    @property
    def pass_rate(self) -> float | None:
        """Pass rate of its label; None without one."""

    @property
    def steps_left(self) -> int | None:
        """Steps of the solution that its hint does not give; None without a hint."""

    @property
    def share_left(self) -> float:
        """The same as a share of all steps; 1 without a hint."""


class VariantSource(Protocol):
    """Where accepted variants come from, such as `pipeline.store.Snapshot`."""

    def candidates(self, problem_ids: Sequence[str]) -> Mapping[str, Sequence[TrainableVariant]]:
        """Return the accepted variants of each given problem; an empty list where there is none."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The prompts of one generation batch; the same on every process.

    Attributes:
        problem_P: row numbers of the batch's problems in the training data.
        variant_PV: for each problem, the variant of each slot; None is the original.
        difficulty_PV: live difficulty of each prompt before this visit, in levels.
        shortage: slots that got the original because no variant was left to choose.
        warmup: whether the batch is one of the warm-up.
    """

    problem_P: IntArray
    variant_PV: Sequence[Sequence[TrainableVariant | None]]
    difficulty_PV: FloatArray
    shortage: int
    warmup: bool

    def kind(self, problem: int, slot: int) -> str:
        """Kind of a slot's prompt, or `original`."""
        variant = self.variant_PV[problem][slot]
        return variant.kind if variant else ORIGINAL

    def variant_id(self, problem: int, slot: int) -> str:
        """Id of a slot's variant, or `original`."""
        variant = self.variant_PV[problem][slot]
        return variant.variant_id if variant else ORIGINAL

    def variant_numbers(self) -> list[int]:
        """Numbers of the chosen variants, by which their source finds their texts."""
        return [variant.number for slots in self.variant_PV for variant in slots if variant]

    def replaced(self, other: Choice, take_P: BoolArray) -> Choice:
        """This choice with the problems in `take_P` replaced by those of `other` in the same places."""
        variants = [
            theirs if take else ours
            for take, ours, theirs in zip(take_P, self.variant_PV, other.variant_PV, strict=True)
        ]
        return Choice(
            np.where(take_P, other.problem_P, self.problem_P),
            variants,
            np.where(take_P[:, None], other.difficulty_PV, self.difficulty_PV),
            self.shortage,
            self.warmup,
        )


class Visit(NamedTuple):
    """What the rollouts of a batch said of its problems. All arrays have the shape (P,).

    Attributes:
        old_P: difficulty before.
        new_P: difficulty after.
        uncertainty_P: standard deviation of the new difficulty in levels; NaN where the rule gives none.
        accuracy_P: share of right rollouts, of those that count; NaN where none was judged.
        judged_P: judged rollouts that count.
    """

    old_P: FloatArray
    new_P: FloatArray
    uncertainty_P: FloatArray
    accuracy_P: FloatArray
    judged_P: IntArray


class Curriculum:
    """Chooses the prompts of a training run, and keeps what its rollouts said of problems and variants.

    Args:
        problem_ids: of the training data, by row number.
        settings: options.
        labels: measured difficulty by problem id, to start from; None starts every problem in the middle.

    Attributes:
        live: live difficulty of the problems, and counts of rollouts by variant.
    """

    def __init__(
        self,
        problem_ids: Sequence[str],
        settings: CurriculumSettings,
        labels: Mapping[str, float] | None = None,
    ) -> None:
        self.problem_ids = list(problem_ids)
        self.settings = settings
        self.live = LiveDifficulty.starting(
            self.problem_ids, labels, settings.difficulty_rule, settings.difficulty_eta
        )

    def choose(self, problem_P: IntArray, variants: VariantSource | None, step: int) -> Choice:
        """Choose a prompt for every slot of a generation batch.

        Args:
            problem_P: (P,) row numbers of the problems in the training data.
            variants: the accepted variants; None if there are none.
            step: training step, from 0; a part of every random draw.
        """
        options = self.settings
        warmup = step < options.warmup_steps
        ids = [self.problem_ids[number] for number in problem_P]
        variant_PV: list[list[TrainableVariant | None]] = [[None] * (options.variants + 1) for _ in ids]
        shortage = 0
        if variants is not None and not warmup and (options.variants or options.aim == "all"):
            found = variants.candidates(ids)
            for place, number in enumerate(problem_P):
                variant_PV[place], missing = self._slots(int(number), found[ids[place]], step)
                shortage += missing
        delta_PV = np.array([[v.delta if v else 0.0 for v in slots] for slots in variant_PV])
        difficulty_PV = variant_difficulty(
            self.live.difficulty[problem_P][:, None], delta_PV.reshape(len(ids), options.variants + 1)
        )
        return Choice(problem_P, variant_PV, difficulty_PV, shortage, warmup)

    def _slots(
        self, number: int, candidates: Sequence[TrainableVariant], step: int
    ) -> tuple[list[TrainableVariant | None], int]:
        """The prompts of one problem, and how many of them are originals for want of a variant."""
        options, problem_id = self.settings, self.problem_ids[number]
        known: dict[str, TrainableVariant | None] = {v.variant_id: v for v in candidates}
        slots: list[TrainableVariant | None] = [None]
        wanted = options.variants
        if options.aim == "all" and known:
            known, slots, wanted = {problem_id: None, **known}, [], wanted + 1
        difficulty = float(self.live.difficulty[number])
        chosen = SELECTORS[options.selector](
            difficulty,
            [self._candidate(prompt_id, variant, difficulty) for prompt_id, variant in known.items()],
            wanted,
            Draw(options.seed, step, problem_id),
        )
        slots += [known[choice.variant_id] for choice in chosen]
        return slots + [None] * (options.variants + 1 - len(slots)), wanted - len(chosen)

    def _candidate(self, prompt_id: str, variant: TrainableVariant | None, difficulty: float) -> Candidate:
        right, wrong = self.live.variants.get(prompt_id, BetaCounts())
        kind, delta, pass_rate = (
            (variant.kind, variant.delta, variant.pass_rate) if variant else (ORIGINAL, 0.0, None)
        )
        if self.settings.variant_prior == "pooled":
            by_delta = pass_rate_from_difficulty(variant_difficulty(difficulty, delta))
            pass_rate = self.live.pooled(pool_of(variant), by_delta if pass_rate is None else pass_rate)
        share_left = variant.share_left if variant else 1.0
        return Candidate(prompt_id, kind, delta, pass_rate, right, wrong, share_left)

    def replacements(self, choice: Choice, silent_P: BoolArray, step: int, round_number: int) -> IntArray:
        """Choose other problems, for a generation that replaces the silent problems of a batch.

        Args:
            choice: the batch.
            silent_P: problems whose rollouts all have the same reward.
            step: training step.
            round_number: of the refill, from 1.

        Returns:
            (P,) row numbers in the training data, all different. Where the training data has too few other problems,
            silent problems are replaced first, and the rest keep their places for another try. So no problem can be
            in a batch twice, whichever places are taken.
        """
        taken = set(choice.problem_P.tolist())
        draw = Draw(self.settings.seed, step, "refill")
        generator = np.random.default_rng(draw.index(2**52, round_number, "order"))
        order = generator.permutation(len(self.problem_ids)).tolist()
        fresh = [number for number in order if number not in taken]
        places = np.arange(len(choice.problem_P))
        if len(fresh) < len(places):
            places = np.argsort(~silent_P, kind="stable")[: len(fresh)]
        numbers_P = choice.problem_P.copy()
        numbers_P[places] = fresh[: len(places)]
        return numbers_P

    def observe(self, choice: Choice, accuracy_PVN: FloatArray) -> Visit:
        """Change the live difficulty of the batch's problems, and count the rollouts of its prompts.

        Args:
            choice: the prompts that were used.
            accuracy_PVN: 1 for a right rollout, 0 for a wrong one, NaN for one that was not judged.
        """
        right_PV = np.nansum(accuracy_PVN, axis=2)
        judged_PV = (~np.isnan(accuracy_PVN)).sum(axis=2).astype(np.float64)
        counted_PV = np.ones_like(judged_PV, dtype=bool)
        for problem, slot in _prompts(choice):
            variant = choice.variant_PV[problem][slot]
            counted_PV[problem, slot] = self.settings.difficulty_from == "group" or variant is None
            right, judged = float(right_PV[problem, slot]), float(judged_PV[problem, slot])
            prompt_id = variant.variant_id if variant else self.problem_ids[choice.problem_P[problem]]
            self.live.visit_prompt(prompt_id, pool_of(variant), right, judged - right)
        right_P, judged_P = (np.where(counted_PV, x, 0).sum(axis=1) for x in (right_PV, judged_PV))
        old_P = self.live.difficulty[choice.problem_P].copy()
        self.live.visit(choice.problem_P, right_P, judged_P)
        accuracy_P = np.divide(right_P, judged_P, out=np.full(len(right_P), np.nan), where=judged_P > 0)
        return Visit(
            old_P,
            self.live.difficulty[choice.problem_P],
            self.live.uncertainty[choice.problem_P],
            accuracy_P,
            judged_P.astype(np.int64),
        )

    def metrics(self, choice: Choice, accuracy_PVN: FloatArray) -> dict[str, float]:
        """Return what a trainer logs of a batch, by name.

        `difficulty` is the mean live difficulty of the batch's problems after the visit, `pass_rate/KIND` the share of
        right rollouts by kind of prompt, `variant_shortage` the number of slots that had no variant.
        """
        right: defaultdict[str, float] = defaultdict(float)
        judged: defaultdict[str, int] = defaultdict(int)
        for problem, slot in _prompts(choice):
            values_N, kind = accuracy_PVN[problem, slot], choice.kind(problem, slot)
            right[kind] += float(np.nansum(values_N))
            judged[kind] += int((~np.isnan(values_N)).sum())
        return {
            **{f"pass_rate/{kind}": right[kind] / judged[kind] for kind in sorted(right) if judged[kind]},
            "difficulty": float(self.live.difficulty[choice.problem_P].mean()),
            "variant_shortage": float(choice.shortage),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: lists, dictionaries, and NumPy arrays that are copies."""
        return {"problem_ids": list(self.problem_ids), "live": self.live.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; other keys are ignored.

        Raises:
            ConfigError: the state is of other problems.
        """
        if state["problem_ids"] != self.problem_ids:
            raise ConfigError(
                "the checkpoint was made with other problems: resume with the same store and split"
            )
        self.live.restore(state["live"])


def pool_of(variant: TrainableVariant | None) -> str:
    """Return the name of the pool of prompts that are expected to help as much as this one.

    There is a pool of originals, one of each kind of variant, and of hints one for each number of remaining steps.
    """
    if variant is None:
        return ORIGINAL
    return variant.kind if variant.steps_left is None else f"{variant.kind}/{variant.steps_left}"


def _prompts(choice: Choice) -> Iterator[tuple[int, int]]:
    """Problem and slot of every prompt of a batch."""
    return ((problem, slot) for problem, slots in enumerate(choice.variant_PV) for slot in range(len(slots)))
