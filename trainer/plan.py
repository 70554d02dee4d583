"""Which prompt each row of a generation batch gets: the problem's own, or that of a chosen variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.store import Snapshot, SnapshotVariant, VariantText
from diva_grpo.schemas.records import ORIGINAL
from diva_grpo.trainer.method.difficulty import BetaCounts, pass_rate_from_difficulty, variant_difficulty
from diva_grpo.trainer.method.live import LiveDifficulty
from diva_grpo.trainer.method.selection import Candidate, Draw, Selector
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.vision import ImageRows

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows of the global batch divide: n rows a prompt, n (M + 1) rows a problem, in this order."""

    generations: int
    variants: int

    @property
    def block(self) -> int:
        """Rows of one problem."""
        return self.generations * (self.variants + 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen variants of one generation batch; the same on every process.

    Attributes:
        problem_P: row numbers of the batch's problems in the training data.
        variant_PV: for each problem, the variant of each slot 0..M; None is the original.
        texts: what is shown of the chosen variants, by their number in the snapshot.
        difficulty_PV: (P, M+1) live difficulty of each prompt, before this visit.
        shortage: slots that got the original for want of a variant.
    """

    problem_P: IntArray
    variant_PV: list[list[SnapshotVariant | None]]
    texts: dict[int, VariantText]
    difficulty_PV: npt.NDArray[np.float64]
    shortage: int

    def kind(self, problem: int, slot: int) -> str:
        """Kind of a slot's prompt, `original` included."""
        variant = self.variant_PV[problem][slot]
        return variant.kind if variant else ORIGINAL

    def variant_id(self, problem: int, slot: int) -> str:
        """As recorded with a rollout."""
        variant = self.variant_PV[problem][slot]
        return variant.variant_id if variant else ORIGINAL


def make_plan(
    problem_P: IntArray,
    problem_ids: Sequence[str],
    layout: Layout,
    snapshot: Snapshot | None,
    live: LiveDifficulty,
    selector: Selector,
    *,
    seed: int,
    step: int,
    warmup: bool,
    pooled: bool = False,
    aim_all: bool = False,
) -> Plan:
    """Choose the variants of a batch's problems by their live difficulty.

    Args:
        problem_P: row numbers of the problems in the training data.
        problem_ids: of the whole training data, by row number.
        layout: of the batch.
        snapshot: the accepted variants; None is without any.
        live: difficulties and counts.
        selector: one of `trainer.method.selection.SELECTORS`.
        seed: of the run.
        step: TRL's global_step.
        warmup: all slots get the original (plain GRPO).
        pooled: expect of a variant what those of its pool have shown in this run.
        aim_all: choose all M + 1 prompts, the original being a candidate; else slot 0 is the original.
    """
    count = 0 if warmup or snapshot is None else layout.variants
    ids = [problem_ids[number] for number in problem_P]
    candidates = (
        snapshot.candidates(ids)
        if snapshot and (count or aim_all)
        else {problem_id: [] for problem_id in ids}
    )
    variant_PV: list[list[SnapshotVariant | None]] = []
    shortage = 0
    for number, problem_id in zip(problem_P, ids, strict=True):
        known: dict[str, SnapshotVariant | None] = {v.variant_id: v for v in candidates[problem_id]}
        slots: list[SnapshotVariant | None] = [None]
        wanted = count
        if aim_all and known and not warmup:
            known, slots, wanted = {problem_id: None, **known}, [], count + 1
        difficulty = float(live.difficulty[number])
        chosen = selector(
            difficulty,
            [_candidate(name, v, live, difficulty, pooled=pooled) for name, v in known.items()],
            wanted,
            Draw(seed, step, problem_id),
        )
        slots += [known[choice.variant_id] for choice in chosen]
        shortage += wanted - len(chosen)
        variant_PV.append(slots + [None] * (layout.variants + 1 - len(slots)))
    delta_PV = np.array([[v.delta if v else 0.0 for v in slots] for slots in variant_PV]).reshape(
        len(ids), layout.variants + 1
    )
    return Plan(
        problem_P,
        variant_PV,
        snapshot.texts([v.number for slots in variant_PV for v in slots if v]) if snapshot else {},
        variant_difficulty(live.difficulty[problem_P][:, None], delta_PV),
        shortage,
    )


def pool_of(variant: SnapshotVariant | None) -> str:
    """Prompts that help as much: originals, variants of a kind, hints that leave as many steps to do."""
    if variant is None:
        return ORIGINAL
    return variant.kind if variant.steps_left is None else f"{variant.kind}/{variant.steps_left}"


def _candidate(
    prompt_id: str, variant: SnapshotVariant | None, live: LiveDifficulty, difficulty: float, *, pooled: bool
) -> Candidate:
    right, wrong = live.variants.get(prompt_id, BetaCounts())
    kind, delta, pass_rate = (
        (variant.kind, variant.delta, variant.pass_rate) if variant else (ORIGINAL, 0.0, None)
    )
    if pooled:
        by_delta = pass_rate_from_difficulty(variant_difficulty(difficulty, delta))
        pass_rate = live.pooled(pool_of(variant), by_delta if pass_rate is None else pass_rate)
    return Candidate(prompt_id, kind, delta, pass_rate, right, wrong, variant.share_left if variant else 1.0)


def planned_rows(
    inputs: Sequence[dict[str, Any]],
    plan: Plan,
    layout: Layout,
    first_row: int,
    prompts: PromptBuilder,
    images: ImageRows | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one process with the prompts that the plan gives them.

    Args:
        inputs: rows of the training data, as the sampler repeated them.
        plan: of the global batch.
        layout: of the global batch.
        first_row: position of the first row in the global batch.
        prompts: builds a variant's prompt.
        images: gives the rows their images; None where the model reads text alone.

    Returns:
        New rows, and the opening of each row's answer (empty without one).
    """
    rows: list[dict[str, Any]] = []
    openings: list[str] = []
    shown: dict[tuple[int, int], tuple[dict[str, Any], str]] = {}  # the n rows of a prompt share it
    for position, row in enumerate(inputs, first_row):
        place, slot = position // layout.block, position // layout.generations % (layout.variants + 1)
        if (place, slot) not in shown:
            shown[place, slot] = _columns(row, plan, plan.variant_PV[place][slot], prompts, images)
        columns, opening = shown[place, slot]
        rows.append({**row, **columns})
        openings.append(opening)
    return rows, openings


def _columns(
    row: dict[str, Any],
    plan: Plan,
    variant: SnapshotVariant | None,
    prompts: PromptBuilder,
    images: ImageRows | None,
) -> tuple[dict[str, Any], str]:
    """What a row shows instead of its original, and the opening of its answer."""
    prompt, opening, recipe = row["prompt"], "", None
    if variant is not None:
        text = plan.texts[variant.number]
        prompt = prompts.prompt(text.text, row.get("options") or (), text.hint)
        opening, recipe = prompts.prefix(text.hint), text.recipe
    return images.columns(row, prompt, recipe) if images else {"prompt": prompt}, opening
