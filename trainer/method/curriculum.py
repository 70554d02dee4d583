"""`Curriculum`: which prompts a training run shows for its problems, and what it learns from their rollouts.

    curriculum = Curriculum(problem_ids, CurriculumSettings(selector="posterior"))
    problem_P, chosen_P = curriculum.draw(count, step)        # problems, where their sampler is not the epoch
    choice = curriculum.choose(problem_P, variants, step)     # before generation: a prompt for each slot
    visit = curriculum.observe(choice, accuracy_PVN)          # after the rewards: live difficulty changes
    curriculum.metrics(choice, accuracy_PVN)
    state = curriculum.state_dict()                           # with a checkpoint; load_state_dict takes it back

It knows no trainer, model or store: variants come from any `VariantSource`. All processes of a run give the same
arguments and get the same choices, because every random number is a hash (`trainer.method.selection.Draw`).

Axes: P problems of a generation batch, V = M + 1 slots (prompts) of each problem, N rollouts of each prompt.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.difficulty.scale import FloatArray, pass_rate_from_difficulty, variant_difficulty
from diva_grpo.pipeline.difficulty.variants import AcceptedVariant, AcceptedVariants
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import ORIGINAL
from diva_grpo.trainer.method.live import LiveDifficulty, LiveRule
from diva_grpo.trainer.method.problems import EASY, HARD, Drawn, ProblemHistory, ProblemSampler, draw_problems
from diva_grpo.trainer.method.selection import SELECTORS, Candidates, Draw
from diva_grpo.trainer.method.selection import BoolArray as BoolArray
from diva_grpo.trainer.method.selection import IntArray as IntArray

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
    problem_sampler: ProblemSampler = "epoch"
    """Which problems come next: those of the epoch, or by what their rollouts have shown."""
    pool_revisit: float = 0.05
    """With the sampler `pool`, the share of the draws that goes to problems that are set aside."""
    full_solutions: bool = False
    """Whether a variant may be chosen whose hint is the whole solution. The paper's method does (delta -8); the policy
    then learns to copy it."""
    warmup_steps: int = 0
    """First steps, in which all slots get the original (plain GRPO)."""
    seed: int = 0
    """Seed of all random choices."""


class VariantSource(Protocol):
    """Where accepted variants come from, such as `pipeline.store.Snapshot`."""

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        """Return the accepted variants of the given problems."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The prompts of one generation batch; the same on every process.

    Attributes:
        problem_P: row numbers of the batch's problems in the training data.
        variant_PV: for each problem, the variant of each slot; None is the original.
        difficulty_PV: live difficulty of each prompt before this visit, in levels.
        shortage: slots that got the original because no variant was left to choose.
        warmup: whether the batch is one of the warm-up.
        chosen_P: how each problem was chosen, as objects: `epoch`, `refill`, or see `problems.Drawn`.
    """

    problem_P: IntArray
    variant_PV: Sequence[Sequence[AcceptedVariant | None]]
    difficulty_PV: FloatArray
    shortage: int
    warmup: bool
    chosen_P: npt.NDArray[np.object_]

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
            np.where(take_P, other.chosen_P, self.chosen_P),
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
        history: what was drawn, and what the last visits of the problems showed.
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
        self.history = ProblemHistory(np.zeros((len(self.problem_ids), 2)))

    def draw(self, count: int, step: int) -> Drawn:
        """Draw the problems of a generation, where their sampler is not the epoch; no problem comes twice.

        Args:
            count: problems wanted.
            step: training step, from 0.
        """
        options = self.settings
        return draw_problems(
            options.problem_sampler,
            self.history,
            self.live.prior,
            count,
            step,
            seed=options.seed,
            revisit=options.pool_revisit,
        )

    def choose(
        self,
        problem_P: IntArray,
        variants: VariantSource | None,
        step: int,
        chosen_P: npt.NDArray[np.object_] | str = "epoch",
    ) -> Choice:
        """Choose a prompt for every slot of a generation batch.

        Args:
            problem_P: (P,) row numbers of the problems in the training data.
            variants: the accepted variants; None if there are none.
            step: training step, from 0; a part of every random draw.
            chosen_P: how the problems were chosen, each or all.
        """
        options = self.settings
        warmup = step < options.warmup_steps
        shape = len(problem_P), options.variants + 1
        variant_PV: list[list[AcceptedVariant | None]] = [[None] * shape[1] for _ in problem_P]
        delta_PV = np.zeros(shape)
        shortage = 0
        if variants is not None and not warmup and (options.variants or options.aim == "all"):
            found = variants.candidates([self.problem_ids[number] for number in problem_P])
            if not options.full_solutions:
                found = found.where(found.steps_left_V != 0)  # NaN, without a hint, is not 0
            row_PV = self._rows(problem_P, found, step)
            chosen_PV = row_PV >= 0
            delta_PV[chosen_PV] = found.delta_V[row_PV[chosen_PV]]
            places = np.argwhere(chosen_PV).tolist()
            for (place, slot), variant in zip(places, found.rows(row_PV[chosen_PV]), strict=True):
                variant_PV[place][slot] = variant
            shortage = options.variants * int((found.count_P == 0).sum())
        difficulty_PV = variant_difficulty(self.live.difficulty[problem_P][:, None], delta_PV)
        how_P = np.full(len(problem_P), chosen_P, object) if isinstance(chosen_P, str) else chosen_P
        return Choice(problem_P, variant_PV, difficulty_PV, shortage, warmup, how_P)

    def _rows(self, problem_P: IntArray, found: AcceptedVariants, step: int) -> IntArray:
        """(P, V) the row in `found` of each slot's variant; -1 for an original."""
        options = self.settings
        # A place before the variants for the original of a problem, where it competes with them.
        first = int(options.aim == "all")
        candidates = self._candidates(problem_P, found, first)
        ids = [self.problem_ids[number] for number in problem_P]
        place_PM = SELECTORS[options.selector](
            self.live.difficulty[problem_P],
            candidates,
            options.variants + first,
            [Draw(options.seed, step, problem_id) for problem_id in ids],
        )
        first_row_P = np.cumsum(found.count_P) - found.count_P
        row_PM = np.where(place_PM >= first, first_row_P[:, None] + place_PM - first, -1)
        return row_PM if first else np.insert(row_PM, 0, -1, axis=1)

    def _candidates(self, problem_P: IntArray, found: AcceptedVariants, first: int) -> Candidates:
        """What the selector chooses from: the variants from the place `first` on, and before them the originals."""
        owner_V, place_V = found.owner_V, found.place_V + first
        shape = len(problem_P), first + int(found.count_P.max(initial=0))
        there_PK = np.zeros(shape, bool)
        there_PK[owner_V, place_V] = True
        there_PK[:, :first] = (found.count_P > 0)[:, None]

        def filled(values_V: npt.NDArray[Any], of_original: object) -> npt.NDArray[Any]:
            values_PK = np.full(shape, of_original, values_V.dtype)
            values_PK[owner_V, place_V] = values_V
            return values_PK

        variant_id_PK = filled(found.variant_id_V, "")
        for number in range(first):
            variant_id_PK[:, number] = [self.problem_ids[problem] for problem in problem_P]
        pass_rate_PK = filled(found.pass_rate_V, np.nan)
        delta_PK = filled(found.delta_V, 0.0)
        if self.settings.variant_prior == "pooled":
            by_delta_PK = pass_rate_from_difficulty(
                variant_difficulty(self.live.difficulty[problem_P][:, None], delta_PK)
            )
            pools = filled(_pools(found), ORIGINAL)[there_PK].tolist()
            prior = np.where(np.isnan(pass_rate_PK), by_delta_PK, pass_rate_PK)[there_PK]
            pass_rate_PK[there_PK] = self.live.pooled(pools, prior)
        counts_PK2 = np.zeros((*shape, 2))
        counts_PK2[there_PK] = self.live.counts_of(variant_id_PK[there_PK].tolist())
        return Candidates(
            there_PK,
            variant_id_PK,
            filled(found.kind_V, ORIGINAL),
            delta_PK,
            pass_rate_PK,
            counts_PK2[..., 0],
            counts_PK2[..., 1],
            filled(found.share_left_V, 1.0),
        )

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
        if self.settings.problem_sampler == "epoch":
            draw = Draw(self.settings.seed, step, "refill")
            generator = np.random.default_rng(draw.index(2**52, round_number, "order"))
            order = generator.permutation(len(self.problem_ids)).tolist()
        else:
            order = self.draw(len(choice.problem_P), step).problem_P.tolist()
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
        self.history.observe(choice.problem_P, right_P, judged_P)
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
        right rollouts by kind of prompt, `variant_shortage` the number of slots that had no variant. Where a sampler
        draws the problems, `problems/easy` and `problems/hard` are the shares of the training data whose last visit was
        all right or all wrong, and `problems/signal` is the mean p(1 - p) of the batch's problems in this visit.
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
            **({} if self.settings.problem_sampler == "epoch" else self._problem_metrics(accuracy_PVN)),
        }

    def _problem_metrics(self, accuracy_PVN: FloatArray) -> dict[str, float]:
        outcome_N = self.history.outcome_N
        flat_PR = accuracy_PVN.reshape(len(accuracy_PVN), -1)
        judged_P = (~np.isnan(flat_PR)).sum(axis=1)
        rate_P = np.nansum(flat_PR, axis=1) / np.maximum(judged_P, 1)
        return {
            "problems/easy": float((outcome_N == EASY).mean()),
            "problems/hard": float((outcome_N == HARD).mean()),
            "problems/signal": float((rate_P * (1 - rate_P)).mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: lists, dictionaries, and NumPy arrays that are copies."""
        return {
            "problem_ids": list(self.problem_ids),
            "live": self.live.state(),
            "history": self.history.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; other keys are ignored.

        Raises:
            ConfigError: the state is of other problems.
        """
        if state["problem_ids"] != self.problem_ids:
            raise ConfigError(
                "the checkpoint was made with other problems: resume with the same data (store and split, or dataset)"
            )
        self.live.restore(state["live"])
        if "history" in state:  # a checkpoint of before has none
            self.history.restore(state["history"])


def pool_of(variant: AcceptedVariant | None) -> str:
    """Return the name of the pool of prompts that are expected to help as much as this one.

    There is a pool of originals, one of each kind of variant, and of hints one for each number of remaining steps.
    """
    return _pool(variant.kind, variant.steps_left) if variant else ORIGINAL


def _pool(kind: str, steps_left: int | None) -> str:
    return kind if steps_left is None else f"{kind}/{steps_left}"


def _pools(found: AcceptedVariants) -> npt.NDArray[np.object_]:
    """(V,) names of the pools of variants, as objects."""
    steps = [None if math.isnan(left) else int(left) for left in found.steps_left_V.tolist()]
    return np.array([*map(_pool, found.kind_V.tolist(), steps)], object)


def _prompts(choice: Choice) -> Iterator[tuple[int, int]]:
    """Problem and slot of every prompt of a batch."""
    return ((problem, slot) for problem, slots in enumerate(choice.variant_PV) for slot in range(len(slots)))
