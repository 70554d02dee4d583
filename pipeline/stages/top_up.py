"""Top-up: decide what to ask for where a training run is short of variants, and have just that made.

A kind helps where its design comes near the wanted delta: think steps below 0, rewordings about 0, harder texts and
perturbed images above. What was decided of each problem, and what came of it, is a row of `decisions`: written
before the work as `asked`, and again behind it, so that a run that was killed leaves its mark, which the next one
completes from the variants that are there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.difficulty.design import designed_deltas
from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Curated, Stages, curate_shard
from diva_grpo.pipeline.stages.generate import SOURCE, asked
from diva_grpo.pipeline.stages.image_variants import GENERATOR
from diva_grpo.pipeline.stages.supply import Wanted
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import LABEL_MODEL
from diva_grpo.schemas.config import IMAGE_KINDS, GenerateConfig, LabelConfig
from diva_grpo.schemas.exceptions import BudgetError
from diva_grpo.schemas.records import Decision, Kind, Shortage

ASKED = "asked"
"""Outcome of a decision whose variants are being made, or were when the run was killed."""

_EPS = 1e-9
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Need:
    """What is to be had for a problem.

    Attributes:
        wanted_delta: that selection would like, in levels.
        nearest_delta: of its accepted variants; None without one.
        accepted: by kind, how many accepted variants there are to be.
        requested: how many of these are not there yet.
    """

    problem_id: str
    wanted_delta: float
    nearest_delta: float | None
    accepted: tuple[tuple[Kind, int], ...]
    requested: int

    @property
    def kinds(self) -> list[str]:
        """The kinds asked for."""
        return [str(kind) for kind, _ in self.accepted]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run asks for.

    Attributes:
        needs: worst first, within the run's budget.
        idle: short problems for which nothing can be asked for, by why.
        left: short problems that are for a later run.
    """

    needs: list[Need]
    idle: dict[str, list[int]]
    left: int

    def by_kind(self) -> Counter[str]:
        """Problems by the kinds asked for."""
        return Counter(kind for need in self.needs for kind in need.kinds)


@dataclass(slots=True)
class _Known:
    """What the store says of S problems and K kinds, each (S, K).

    Attributes:
        accepted: variants.
        possible: whether the kind can be asked for at all.
        spent: whether it was, as often as it may be.
    """

    accepted: npt.NDArray[np.int64]
    possible: BoolArray
    spent: BoolArray


def plan(
    store: VariantStore,
    problem_ids: Sequence[str],
    wanted_S: FloatArray,
    nearest_S: FloatArray,
    model: str,
    config: GenerateConfig,
    *,
    variants: int,
    max_problems: int,
    max_variants: int,
    tolerance: float,
) -> Plan:
    """Decide which kinds to ask for, for problems that are short of variants.

    Of the kinds that the configuration allows, those whose design comes nearest to the wanted delta are asked for,
    where that is nearer than what there is. Of a kind that stays further away than the tolerance one is enough, and
    one whose tries are spent is asked for no more.

    Args:
        store: the store.
        problem_ids: S problems, worst first.
        wanted_S: (S,) wanted deltas, in levels.
        nearest_S: (S,) nearest accepted deltas; NaN without one.
        model: teacher that would write.
        config: `kinds` that may be asked for, and the `tries` of each.
        variants: accepted variants more, of each kind asked for.
        max_problems: most problems asked for.
        max_variants: most variants asked for.
        tolerance: levels from the wanted delta that are near enough.
    """
    known = _known(store, problem_ids, model, config)
    distance_S = np.where(np.isnan(nearest_S), np.inf, np.abs(nearest_S - wanted_S))
    reach_SK = np.stack(
        [
            np.abs(np.subtract.outer(wanted_S, designed_deltas(kind))).min(axis=1, initial=np.inf)
            for kind in config.kinds
        ],
        axis=1,
    )
    nearer_SK = reach_SK < distance_S[:, None] - _EPS
    # Beyond the tolerance it must at least be nearer than the original itself, and is not to be had in plenty.
    towards_SK = (known.accepted == 0) & (reach_SK < np.abs(wanted_S)[:, None] - _EPS)
    helpful_SK = known.possible & nearer_SK & ((reach_SK <= tolerance + _EPS) | towards_SK)
    open_SK = helpful_SK & ~known.spent
    best_S = np.where(open_SK, reach_SK, np.inf).min(axis=1, initial=np.inf)
    chosen_SK = open_SK & (reach_SK <= best_S[:, None] + _EPS)
    needs: list[Need] = []
    idle: defaultdict[str, list[int]] = defaultdict(list)
    room, left = max_variants, 0
    for place, problem_id in enumerate(problem_ids):
        columns = np.flatnonzero(chosen_SK[place])
        if not len(columns):
            spent = [str(config.kinds[i]) for i in np.flatnonzero(helpful_SK[place])]
            why = f"tries spent for {', '.join(spent)}" if spent else "no kind comes nearer"
            idle[f"nothing to ask: {why}"].append(place)
            continue
        requested = variants * len(columns)
        if left or len(needs) == max_problems or requested > room:
            left += 1
            continue
        room -= requested
        accepted = tuple((config.kinds[i], int(known.accepted[place, i]) + variants) for i in columns)
        near = None if np.isnan(nearest_S[place]) else float(nearest_S[place])
        needs.append(Need(problem_id, float(wanted_S[place]), near, accepted, requested))
    return Plan(needs, dict(idle), left)


def _known(store: VariantStore, problem_ids: Sequence[str], model: str, config: GenerateConfig) -> _Known:
    kinds, ids = config.kinds, list(problem_ids)
    place = {problem_id: number for number, problem_id in enumerate(ids)}
    column = {str(kind): number for number, kind in enumerate(kinds)}
    shape = (len(ids), len(kinds))
    known = _Known(np.zeros(shape, np.int64), np.ones(shape, np.bool_), np.zeros(shape, np.bool_))
    of_images = [column[kind] for kind in kinds if kind in IMAGE_KINDS]
    solved = set()
    for problem_id, has_images, has_steps in store.query(
        "SELECT problem_id, len(images) > 0, len(solution_steps) > 0 FROM problems "
        "WHERE problem_id IN (SELECT unnest(?))",
        [ids],
    ):
        known.possible[place[problem_id], of_images] = has_images
        if has_steps:
            solved.add(problem_id)
    tries = set(range(config.tries))
    for (problem_id, kind), samples in asked(store, model, config, ids).items():
        from_source = kind == Kind.THINK_STEP and config.steps_from == SOURCE and problem_id in solved
        if kind in column and tries <= samples and not (from_source and None not in samples):
            known.spent[place[problem_id], column[kind]] = True
    for problem_id, kind, accepted, waiting, perturbed in store.query(
        "SELECT problem_id, kind, count(*) FILTER (status = 'accepted'), bool_or(status = 'candidate'), "
        "bool_or(generator_model = ?) FROM variants WHERE problem_id IN (SELECT unnest(?)) GROUP BY ALL",
        [GENERATOR, ids],
    ):
        if kind in column:
            at = (place[problem_id], column[kind])
            known.accepted[at] = accepted
            # Of images all that the configuration allows are made at once. What waits for a verdict may be it.
            known.spent[at] = (known.spent[at] or perturbed) and not waiting
    return known


# --- records


@dataclass(frozen=True, slots=True)
class Journey:
    """Whose decisions are recorded.

    Attributes:
        flow_run_id: of the top-up.
        training_run: whose live difficulty they are of.
        began_ns: when the top-up began, in nanoseconds since 1970.
    """

    flow_run_id: str
    training_run: str
    began_ns: int

    @property
    def began_at(self) -> datetime:
        """The same as the store keeps times."""
        return datetime.fromtimestamp(self.began_ns / 1e9, UTC).replace(tzinfo=None)

    def decision(self, need: Need, outcome: str, made: int = 0, accepted: int = 0) -> Decision:
        """The record of a problem."""
        return Decision(
            flow_run_id=self.flow_run_id,
            problem_id=need.problem_id,
            wanted_delta=need.wanted_delta,
            nearest_delta=need.nearest_delta,
            kinds=need.kinds,
            requested=need.requested,
            made=made,
            accepted=accepted,
            created_at=self.began_at,
            training_run=self.training_run,
            outcome=outcome,
        )


def complete_killed(store: VariantStore) -> int:
    """Complete the decisions of top-ups that were killed or failed at work; returns how many there were.

    What came since is counted as theirs.
    """
    left = store.read(
        Decision,
        "outcome = ? AND flow_run_id IN (SELECT run_id FROM runs WHERE outcome <> 'running')",
        [ASKED],
    )
    done = []
    for began_at in {decision.created_at for decision in left}:
        of_run = [decision for decision in left if decision.created_at == began_at]
        counts = _counts(store, [decision.problem_id for decision in of_run], began_at)
        for decision in of_run:
            of_kinds = [counts[decision.problem_id, kind] for kind in decision.kinds]
            update = {
                "made": sum(count.made for count in of_kinds),
                "accepted": sum(count.made_accepted for count in of_kinds),
                "outcome": "cut short: the run was killed or failed",
            }
            done.append(decision.model_copy(update=update))
    store.append(done)
    return len(done)


def record_idle(
    store: VariantStore,
    journey: Journey,
    planned: Plan,
    problem_ids: Sequence[str],
    wanted_S: FloatArray,
    nearest_S: FloatArray,
) -> None:
    """Record the problems for which nothing can be asked for, unless an earlier top-up has said the same."""
    said = dict(
        store.query(
            "SELECT problem_id, arg_max(outcome, created_at) FROM decisions WHERE training_run = ? GROUP BY ALL",
            [journey.training_run],
        )
    )
    store.append(
        [
            journey.decision(Need(problem_ids[place], float(wanted_S[place]), near, (), 0), why)
            for why, places in planned.idle.items()
            for place in places
            if said.get(problem_ids[place]) != why
            for near in [None if np.isnan(nearest_S[place]) else float(nearest_S[place])]
        ]
    )


@dataclass(slots=True)
class _Count:
    """Variants of one kind of a problem: all accepted, and those made or accepted since a moment."""

    accepted: int = 0
    made: int = 0
    made_accepted: int = 0


def _counts(
    store: VariantStore, problem_ids: Sequence[str], since: datetime
) -> defaultdict[tuple[str, str], _Count]:
    rows = store.query(
        "SELECT problem_id, kind, count(*) FILTER (status = 'accepted'), "
        "count(*) FILTER (created_at >= ? AND text IS NOT NULL), "
        # What an earlier run has left as a candidate may be accepted by this one.
        "count(*) FILTER (status = 'accepted' AND (created_at >= ? OR variant_id IN "
        "(SELECT variant_id FROM verdicts WHERE created_at >= ?))) "
        "FROM variants WHERE problem_id IN (SELECT unnest(?)) GROUP BY ALL",
        [since, since, since, list(problem_ids)],
    )
    counts: defaultdict[tuple[str, str], _Count] = defaultdict(_Count)
    counts.update({(problem_id, kind): _Count(*numbers) for problem_id, kind, *numbers in rows})
    return counts


# --- the work


def moves_deltas(store: VariantStore, labels: LabelConfig, model: str) -> bool:
    """Whether labels by a solver are those that measured deltas are of: another's would be paid for in vain."""
    return labels.label_model or store.setting(LABEL_MODEL) in (None, model)


def stages_for(session: Session, stages: Stages, needs: Sequence[Need]) -> Stages:
    """The stages that give some problems what they need, and no more.

    Args:
        session: its solver labels only where that moves deltas, see `moves_deltas`.
        stages: how to ask, check and label.
        needs: of a few problems.
    """
    wanted: Wanted = {need.problem_id: dict(need.accepted) for need in needs}
    kinds = tuple(kind for kind in Kind if any(kind in of_problem for of_problem in wanted.values()))
    model = session.solver.model if session.solver else ""
    return replace(
        stages,
        generate=stages.generate and stages.generate.model_copy(update={"kinds": kinds}),
        label=stages.label if stages.label and moves_deltas(session.store, stages.label, model) else None,
        wanted=wanted,
    )


def fill(
    session: Session, stages: Stages, needs: Sequence[Need], journey: Journey
) -> tuple[Curated, Counter[str]]:
    """Have the variants made that problems need, verify and label them, and record what came of each decision.

    Run again, it continues where it stopped: a need says how many there are to be.

    Args:
        session: its teacher writes, its solver verifies and labels.
        stages: how to ask, check and label.
        needs: of a shard of problems.
        journey: whose decisions are recorded.

    Returns:
        What came of the stages, and problems by outcome, without its reasons.

    Raises:
        BudgetError: the budget is spent; what is there then is kept and recorded.
    """
    store, made, stopped = session.store, Curated(), None
    store.append([journey.decision(need, ASKED) for need in needs])
    try:
        made = curate_shard(session, stages_for(session, stages, needs), [need.problem_id for need in needs])
    except BudgetError as error:
        stopped = error
    decisions = _closed(store, needs, journey, made.shortages, stopped is not None)
    store.append(decisions)
    if stopped is not None:
        raise stopped
    return made, Counter(decision.outcome.partition(" ")[0] for decision in decisions)


def _closed(
    store: VariantStore,
    needs: Sequence[Need],
    journey: Journey,
    shortages: Sequence[Shortage],
    stopped: bool,
) -> list[Decision]:
    """The decisions with what came of them."""
    counts = _counts(store, [need.problem_id for need in needs], journey.began_at)
    why = {(s.problem_id, s.kind): f"{s.reason} ({s.tries} tries)" for s in shortages}
    closed = []
    for need in needs:
        of_kinds = {kind: counts[need.problem_id, kind] for kind, _ in need.accepted}
        before = sum(number for _, number in need.accepted) - need.requested
        short = [
            f"{kind}: {'the budget is spent' if stopped else why.get((need.problem_id, kind), 'too few')}"
            for kind, number in need.accepted
            if of_kinds[kind].accepted < number
        ]
        closed.append(
            journey.decision(
                need,
                f"short of {'; '.join(short)}" if short else "enough",
                sum(count.made for count in of_kinds.values()),
                max(0, sum(count.accepted for count in of_kinds.values()) - before),
            )
        )
    return closed
