"""`Curriculum` chooses the prompts of a training run, and updates live difficulty from their rollouts.

    curriculum = Curriculum(problem_ids, CurriculumSettings(selector="posterior"))
    problem_P, chosen_P = curriculum.draw(count, step)        # only if problem_sampler is not `epoch`
    choice = curriculum.choose(problem_P, variants, step)     # before generation: a prompt for each slot
    visit = curriculum.observe(choice, accuracy_PVN)          # after the rewards: updates live difficulty
    curriculum.metrics(choice, accuracy_PVN)
    state = curriculum.state_dict()                           # save with a checkpoint; see load_state_dict

It does not depend on a trainer, a model or a store: variants come from any `VariantSource`. All processes of a run pass
the same arguments and get the same choices, because every random number is a hash (`trainer.method.selection.Draw`).

Axes: P problems of a generation batch, V = M + 1 slots (prompts) of each problem, N rollouts of each prompt.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

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

_LADDER_ROLLOUTS: Final = 32.0
"""Rollouts that a pass rate of the ladder counts as. It rests on the latest rollouts of the run, about 160, while those
of one prompt may be old: with 8, a problem whose original once failed kept its hint when the policy had learnt to solve
it."""

VariantPrior = Literal["delta", "pooled", "ladder", "item_response"]
Aim = Literal["variants", "all"]
DifficultyFrom = Literal["original", "group"]


@dataclass(frozen=True, slots=True)
class CurriculumSettings:
    """The options of a `Curriculum`; the help texts of `DivaGRPOConfig` describe them for users."""

    variants: int = 1
    """Number M of variants per problem, not counting the original."""
    selector: str = "paper"
    """The rule that chooses variants: a name in `trainer.method.selection.SELECTORS`."""
    variant_prior: VariantPrior = "delta"
    """Pass rate expected of a variant before its first rollouts. `delta`: from its label, or else from its offset.
    `pooled`: from the rollouts of its pool in this run (see `pool_of`). `ladder`: from all rollouts of this run with a
    known number of remaining steps (see `trainer.method.ladder`); for other prompts as `pooled`. `item_response`: the
    same, with an offset for each problem (see `trainer.method.item_response`)."""
    aim: Aim = "variants"
    """`variants`: slot 0 is always the original. `all`: the original is one of the candidates for all M + 1 slots."""
    difficulty_rule: LiveRule = "paper"
    """The rule that updates live difficulty."""
    difficulty_eta: float = 4.0
    """Step of the rule `paper`, in levels per unit of accuracy."""
    difficulty_from: DifficultyFrom = "original"
    """The rollouts that update live difficulty: those of the original, or those of the global group (`group`)."""
    problem_sampler: ProblemSampler = "epoch"
    """How problems are drawn: `epoch` draws each once per epoch; the others use the results of earlier rollouts (see
    `trainer.method.problems`)."""
    pool_revisit: float = 0.05
    """With the sampler `pool`, the share of the draws that goes to problems that are set aside."""
    full_solutions: bool = False
    """Whether a variant whose hint is the full solution may be chosen. The paper allows it (delta -8), but the policy
    then learns to copy the solution."""
    warmup_steps: int = 0
    """Number of steps at the start of training in which all slots get the original (plain GRPO)."""
    seed: int = 0
    """Seed of all random choices."""


class VariantSource(Protocol):
    """A source of accepted variants, such as `pipeline.store.Snapshot`."""

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        """Return the accepted variants of the given problems."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The prompts of one generation batch; the same on every process.

    Attributes:
        problem_P: (P,) row numbers of the batch's problems in the training data.
        variant_PV: for each problem, the variant of each slot; None is the original.
        difficulty_PV: (P, V) live difficulty of each prompt before this batch, in levels.
        shortage: number of slots that got the original because their problem has no variant to choose from.
        warmup: whether the batch belongs to the warm-up steps.
        chosen_P: (P,) how each problem was chosen, as objects: `epoch`, `refill`, or a value of `problems.Drawn`.
        steps_P: (P,) number of steps of each problem's solution; NaN if none of its variants is a hint.
    """

    problem_P: IntArray
    variant_PV: Sequence[Sequence[AcceptedVariant | None]]
    difficulty_PV: FloatArray
    shortage: int
    warmup: bool
    chosen_P: npt.NDArray[np.object_]
    steps_P: FloatArray

    def kind(self, problem: int, slot: int) -> str:
        """Return the kind of the variant in a slot, or `original`."""
        variant = self.variant_PV[problem][slot]
        return variant.kind if variant else ORIGINAL

    def steps_left(self, problem: int, slot: int) -> float:
        """Return the number of steps that the prompt in a slot leaves to the policy; NaN if it is not known."""
        variant = self.variant_PV[problem][slot]
        if variant is None:
            return float(self.steps_P[problem])
        return math.nan if variant.steps_left is None else variant.steps_left

    def variant_id(self, problem: int, slot: int) -> str:
        """Return the id of the variant in a slot, or `original`."""
        variant = self.variant_PV[problem][slot]
        return variant.variant_id if variant else ORIGINAL

    def variant_numbers(self) -> list[int]:
        """Return the numbers of the chosen variants (`AcceptedVariant.number`); their source finds texts by number."""
        return [variant.number for slots in self.variant_PV for variant in slots if variant]

    def replaced(self, other: Choice, take_P: BoolArray) -> Choice:
        """Return this choice with the problems where `take_P` is true replaced by those of `other` at the same places.

        `shortage` and `warmup` are not changed.
        """
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
            np.where(take_P, other.steps_P, self.steps_P),
        )


class Visit(NamedTuple):
    """The update of a batch's problems by its rollouts. All arrays have the shape (P,).

    Attributes:
        old_P: live difficulty before the update.
        new_P: live difficulty after the update.
        uncertainty_P: standard deviation of the new difficulty in levels; NaN if the rule gives none.
        accuracy_P: share of right rollouts among `judged_P`; NaN if there are none.
        judged_P: number of judged rollouts that count for live difficulty (see `CurriculumSettings.difficulty_from`).
    """

    old_P: FloatArray
    new_P: FloatArray
    uncertainty_P: FloatArray
    accuracy_P: FloatArray
    judged_P: IntArray


class Curriculum:
    """Chooses the prompts of a training run, and keeps the live difficulty and rollout counts of its problems.

    Args:
        problem_ids: ids of the problems of the training data, by row number.
        settings: options.
        labels: measured difficulty by problem id, at which live difficulty starts. Problems without one, or all if
            None, start at 5.

    Attributes:
        live: live difficulty of the problems, and counts of rollouts by variant.
        history: which problems were drawn when, and the outcome of each problem's last rollouts.
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
        """Draw different problems for a generation batch. Only for a `problem_sampler` other than `epoch`.

        Args:
            count: number of problems to draw.
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
            variants: source of the accepted variants; None if there are none.
            step: training step, from 0; every random draw depends on it.
            chosen_P: how the problems were chosen: one value for all, or an array with one per problem.
        """
        options = self.settings
        warmup = step < options.warmup_steps
        shape = len(problem_P), options.variants + 1
        variant_PV: list[list[AcceptedVariant | None]] = [[None] * shape[1] for _ in problem_P]
        delta_PV = np.zeros(shape)
        steps_P = np.full(len(problem_P), np.nan)
        shortage = 0
        if variants is not None and not warmup and (options.variants or options.aim == "all"):
            found = variants.candidates(self._ids(problem_P))
            if not options.full_solutions:
                found = found.where(found.steps_left_V != 0)  # also keeps NaN, which means "no hint"
            steps_P = _solution_steps(found)
            row_PV = self._rows(problem_P, found, step)
            chosen_PV = row_PV >= 0
            delta_PV[chosen_PV] = found.delta_V[row_PV[chosen_PV]]
            places = np.argwhere(chosen_PV).tolist()
            for (place, slot), variant in zip(places, found.rows(row_PV[chosen_PV]), strict=True):
                variant_PV[place][slot] = variant
            shortage = options.variants * int((found.count_P == 0).sum())
        difficulty_PV = variant_difficulty(self.live.difficulty[problem_P][:, None], delta_PV)
        how_P = np.full(len(problem_P), chosen_P, object) if isinstance(chosen_P, str) else chosen_P
        return Choice(problem_P, variant_PV, difficulty_PV, shortage, warmup, how_P, steps_P)

    def _rows(self, problem_P: IntArray, found: AcceptedVariants, step: int) -> IntArray:
        """Return (P, V) the row in `found` of each slot's variant; -1 for the original."""
        options = self.settings
        # With aim=all the original is a candidate too: it takes place 0, and the variants start at place 1.
        first = int(options.aim == "all")
        candidates = self._candidates(problem_P, found, first)
        place_PM = SELECTORS[options.selector](
            self.live.difficulty[problem_P],
            candidates,
            options.variants + first,
            [Draw(options.seed, step, problem_id) for problem_id in self._ids(problem_P)],
        )
        first_row_P = np.cumsum(found.count_P) - found.count_P
        row_PM = np.where(place_PM >= first, first_row_P[:, None] + place_PM - first, -1)
        return row_PM if first else np.insert(row_PM, 0, -1, axis=1)

    def _ids(self, problem_P: IntArray) -> list[str]:
        """Return the ids of problems, given by their row numbers."""
        return [self.problem_ids[number] for number in problem_P.tolist()]

    def _candidates(self, problem_P: IntArray, found: AcceptedVariants, first: int) -> Candidates:
        """Return the candidates for the selector.

        Args:
            problem_P: (P,) row numbers of the problems.
            found: their accepted variants.
            first: place of a problem's first variant: 0, or 1 if the original is a candidate at place 0.
        """
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
            variant_id_PK[:, number] = self._ids(problem_P)
        pass_rate_PK = filled(found.pass_rate_V, np.nan)
        delta_PK = filled(found.delta_V, 0.0)
        if self.settings.variant_prior != "delta":
            by_delta_PK = pass_rate_from_difficulty(
                variant_difficulty(self.live.difficulty[problem_P][:, None], delta_PK)
            )
            pools = filled(_pools(found), ORIGINAL)[there_PK].tolist()
            prior = np.where(np.isnan(pass_rate_PK), by_delta_PK, pass_rate_PK)[there_PK]
            pass_rate_PK[there_PK] = self.live.pooled(pools, prior)
        counts_PK2 = np.zeros((*shape, 2))
        counts_PK2[there_PK] = self.live.counts_of(variant_id_PK[there_PK].tolist())
        if self.settings.variant_prior in ("ladder", "item_response"):
            steps_PK = filled(found.steps_left_V, np.nan)
            steps_PK[:, :first] = _solution_steps(found)[:, None]
            known_PK = there_PK & ~np.isnan(steps_PK)
            if self.settings.variant_prior == "ladder":
                pass_rate_PK[known_PK] = self.live.ladder.pass_rates(steps_PK[known_PK])
            else:
                row_PK = np.broadcast_to(problem_P[:, None], shape)
                pass_rate_PK[known_PK] = self.live.curves.pass_rates(row_PK[known_PK], steps_PK[known_PK])
                counts_PK2[known_PK] = 0.0  # the pass rate includes them
        return Candidates(
            there_PK,
            variant_id_PK,
            filled(found.kind_V, ORIGINAL),
            delta_PK,
            pass_rate_PK,
            counts_PK2[..., 0],
            counts_PK2[..., 1],
            filled(found.share_left_V, 1.0),
            **({"prior_rollouts": _LADDER_ROLLOUTS} if self.settings.variant_prior == "ladder" else {}),
        )

    def replacements(self, choice: Choice, silent_P: BoolArray, step: int, round_number: int) -> IntArray:
        """Choose other problems for a generation that is to replace the silent problems of a batch.

        Args:
            choice: the prompts of the batch.
            silent_P: (P,) whether all rollouts of a problem have the same reward.
            step: training step.
            round_number: number of this refill in the step, from 1.

        Returns:
            (P,) row numbers in the training data, all different. If the training data has fewer than P other problems,
            the places of silent problems get them first, and the remaining places keep their problems, which are
            generated again. A batch therefore never has a problem twice, whichever of these places replace its own.
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
        """Update the live difficulty of the batch's problems, and count the rollouts of its prompts.

        Args:
            choice: the prompts that were used.
            accuracy_PVN: (P, V, N) 1 for a right rollout, 0 for a wrong one, NaN for one that was not judged.
        """
        right_PV = np.nansum(accuracy_PVN, axis=2)
        judged_PV = (~np.isnan(accuracy_PVN)).sum(axis=2).astype(np.float64)
        counted_PV = np.ones_like(judged_PV, dtype=bool)
        if self.settings.variant_prior == "item_response":
            steps_PV = np.full_like(judged_PV, np.nan)
            for problem, slot in _prompts(choice):
                steps_PV[problem, slot] = choice.steps_left(problem, slot)
            row_V = np.repeat(choice.problem_P, steps_PV.shape[1])
            wrong_PV = judged_PV - right_PV
            self.live.curves.visit(row_V, steps_PV.ravel(), right_PV.ravel(), wrong_PV.ravel())
        for problem, slot in _prompts(choice):
            variant = choice.variant_PV[problem][slot]
            counted_PV[problem, slot] = self.settings.difficulty_from == "group" or variant is None
            right, judged = float(right_PV[problem, slot]), float(judged_PV[problem, slot])
            prompt_id = variant.variant_id if variant else self.problem_ids[choice.problem_P[problem]]
            steps = choice.steps_left(problem, slot)
            self.live.visit_prompt(prompt_id, pool_of(variant), right, judged - right, steps)
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
        """Return metrics of a batch for the trainer's log, by name. Call it after `observe`.

        - `difficulty`: mean live difficulty of the batch's problems, after `observe`.
        - `pass_rate/KIND`: share of right rollouts among the judged ones, by kind of prompt.
        - `variant_shortage`: number of slots for which there was no variant.

        If `problem_sampler` is not `epoch`:

        - `problems/easy` and `problems/hard`: share of the problems of the training data whose last rollouts were all
          right, or all wrong.
        - `problems/signal`: mean over the batch's problems of p(1 - p), where p is the accuracy of all their rollouts.
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
        """Return the state for a checkpoint: lists, dictionaries, and NumPy arrays that are copies."""
        return {
            "problem_ids": list(self.problem_ids),
            "live": self.live.state(),
            "history": self.history.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned; other keys are ignored.

        Raises:
            ConfigError: the state was saved for other problems.
        """
        if state["problem_ids"] != self.problem_ids:
            raise ConfigError(
                "the checkpoint was made with other problems: resume with the same data (store and split, or dataset)"
            )
        self.live.restore(state["live"])
        if "history" in state:  # checkpoints of earlier versions have none
            self.history.restore(state["history"])


def pool_of(variant: AcceptedVariant | None) -> str:
    """Return the pool of a prompt. The prompts of one pool are expected to have similar pass rates.

    Pools are `original`, one for each kind and number of remaining steps of variants with a hint, and one for each kind
    and offset, in whole levels, of variants without.

    Args:
        variant: the variant; None for an original.
    """
    return _pool(variant.kind, variant.steps_left, variant.delta) if variant else ORIGINAL


def _pool(kind: str, steps_left: int | None, delta: float) -> str:
    return f"{kind}/{round(delta):+d}" if steps_left is None else f"{kind}/{steps_left}"


def _pools(found: AcceptedVariants) -> npt.NDArray[np.object_]:
    """Return (V,) names of the pools of variants, as objects."""
    steps = [None if math.isnan(left) else int(left) for left in found.steps_left_V.tolist()]
    return np.array([*map(_pool, found.kind_V.tolist(), steps, found.delta_V.tolist())], object)


def _solution_steps(found: AcceptedVariants) -> FloatArray:
    """Return (P,) the number of steps of each problem's solution, read off its hints; NaN if it has none."""
    steps_P = np.full(len(found.count_P), np.nan)
    hint_V = found.steps_left_V > 0  # NaN, which means "no hint", is not
    steps_P[found.owner_V[hint_V]] = np.round(found.steps_left_V[hint_V] / found.share_left_V[hint_V])
    return steps_P


def _prompts(choice: Choice) -> Iterator[tuple[int, int]]:
    """Return an iterator over the (problem, slot) of every prompt of a batch."""
    return ((problem, slot) for problem, slots in enumerate(choice.variant_PV) for slot in range(len(slots)))
