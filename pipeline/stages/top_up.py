"""Top-up: decide which variants to generate for a training run that is short of variants, and generate only these.

A kind is useful if the offset that it is designed for is near the wanted one: below 0 for think steps, about 0 for
rewordings, above 0 for harder texts and image variants. The decision for each problem and its result are a row of the
table `decisions`. The row is written before the work, with the outcome `asked`, and again after it. If the run is
killed in between, the next one completes the row from the variants in the store.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.difficulty.design import designed_deltas
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Stages, curate_shard
from diva_grpo.pipeline.stages.generate import SOURCE, asked
from diva_grpo.pipeline.stages.image_variants import GENERATOR
from diva_grpo.pipeline.stages.shortage import Shortages, find_shortages, training_run
from diva_grpo.pipeline.stages.supply import Curated, Wanted
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import LABEL_MODEL
from diva_grpo.schemas.config import IMAGE_KINDS, GenerateConfig, LabelConfig, TopUpConfig
from diva_grpo.schemas.exceptions import BudgetError
from diva_grpo.schemas.records import Decision, Kind, Shortage

ASKED = "asked"
"""Outcome of a decision whose variants are being generated, or were when the run was killed."""

_EPS = 1e-9
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Need:
    """The variants to generate for a problem.

    Attributes:
        problem_id: id of the problem.
        wanted_delta: the offset that a variant should have, in levels.
        nearest_delta: the nearest offset of its accepted variants, in levels; None if it has no accepted variant.
        accepted: pairs of kind and number of accepted variants that there should be, including existing ones.
        requested: number of variants to generate, over all kinds.
    """

    problem_id: str
    wanted_delta: float
    nearest_delta: float | None
    accepted: tuple[tuple[Kind, int], ...]
    requested: int

    @property
    def kinds(self) -> list[str]:
        """The kinds to generate."""
        return [str(kind) for kind, _ in self.accepted]


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions of one top-up.

    Attributes:
        shortages: the problems of the training run that are short of variants.
        needs: the variants to generate, in the order of the problems, within `max_problems` and `max_variants`.
        idle: problems for which no kind can be generated, by reason, each as a need without kinds.
        left: number of problems that are left for a later top-up, because of `max_problems` or `max_variants`.
    """

    shortages: Shortages
    needs: list[Need]
    idle: dict[str, list[Need]]
    left: int

    def summary(self) -> str:
        """The shortages and the plan in one line of text."""
        short, seen = len(self.shortages.problem_ids), self.shortages.seen
        by_kind = Counter(kind for need in self.needs for kind in need.kinds)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(by_kind.items()))
        parts = [f"run {self.shortages.run_id}: {short} of {seen} problems are short"]
        parts += [f"{len(self.needs)} are asked for ({kinds})" if self.needs else "nothing is asked for"]
        parts += [f"{why} ({len(idle)})" for why, idle in self.idle.items()]
        parts += [f"{self.left} wait for a later run"] * bool(self.left)
        return "; ".join(parts)


@dataclass(slots=True)
class _Known:
    """What the store knows about S problems and K kinds; each array is (S, K).

    Attributes:
        accepted: number of accepted variants.
        possible: whether the kind can be generated for the problem at all.
        spent: whether the tries of the kind are used up.
    """

    accepted: npt.NDArray[np.int64]
    possible: BoolArray
    spent: BoolArray


def plan(store: VariantStore, config: TopUpConfig) -> Plan:
    """Find the problems of a training run that are short of variants, and decide which kinds to generate for them.

    For each problem it chooses the allowed kinds whose designed offset is nearest to the wanted offset. A kind must
    come nearer than the accepted variants. A kind whose designed offset is further away than the tolerance is chosen
    only if it has no accepted variant and is nearer than the original (offset 0). A kind whose tries are used up is not
    chosen.

    Args:
        store: the store.
        config: the training run, the kinds that may be requested, and the limits of the top-up.

    Raises:
        ConfigError: there is no such training run, or the filter is not valid SQL.
    """
    short = find_shortages(
        store,
        training_run(store, config.run),
        window_steps=config.window_steps,
        tolerance=config.tolerance,
        problem_filter=config.problem_filter,
    )
    kinds, wanted_S = config.generate.kinds, short.wanted_S
    known = _known(store, short.problem_ids, config.teacher.model, config.generate)
    reach_SK = np.stack(
        [
            np.abs(np.subtract.outer(wanted_S, designed_deltas(kind))).min(axis=1, initial=np.inf)
            for kind in kinds
        ],
        axis=1,
    )
    nearer_SK = reach_SK < short.distance_S[:, None] - _EPS
    # Beyond the tolerance, a kind must be nearer than the original (offset 0) and have no accepted variant yet.
    towards_SK = (known.accepted == 0) & (reach_SK < np.abs(wanted_S)[:, None] - _EPS)
    helpful_SK = known.possible & nearer_SK & ((reach_SK <= config.tolerance + _EPS) | towards_SK)
    open_SK = helpful_SK & ~known.spent
    best_S = np.where(open_SK, reach_SK, np.inf).min(axis=1, initial=np.inf)
    chosen_SK = open_SK & (reach_SK <= best_S[:, None] + _EPS)
    needs: list[Need] = []
    idle: defaultdict[str, list[Need]] = defaultdict(list)
    room, left = config.max_variants, 0
    for place, problem_id in enumerate(short.problem_ids):
        columns = np.flatnonzero(chosen_SK[place])
        near = None if np.isnan(short.nearest_S[place]) else float(short.nearest_S[place])
        accepted = tuple((kinds[i], int(known.accepted[place, i]) + config.variants) for i in columns)
        need = Need(problem_id, float(wanted_S[place]), near, accepted, config.variants * len(columns))
        if not accepted:
            spent = [str(kinds[i]) for i in np.flatnonzero(helpful_SK[place])]
            why = f"tries spent for {', '.join(spent)}" if spent else "no kind comes nearer"
            idle[f"nothing to ask: {why}"].append(need)
        elif left or len(needs) == config.max_problems or need.requested > room:
            left += 1
        else:
            room -= need.requested
            needs.append(need)
    return Plan(short, needs, dict(idle), left)


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
            # All image variants that the configuration allows are made at once, so one of them means that none is left.
            # While a candidate waits for a verdict, the tries are not used up, because it may be accepted.
            known.spent[at] = (known.spent[at] or perturbed) and not waiting
    return known


# --- records


@dataclass(frozen=True, slots=True)
class Journey:
    """The top-up to which recorded decisions belong.

    Attributes:
        flow_run_id: id of the top-up.
        training_run: id of the training run whose live difficulty is used.
        began_ns: start of the top-up, in nanoseconds since 1970.
    """

    flow_run_id: str
    training_run: str
    began_ns: int

    @property
    def began_at(self) -> datetime:
        """Start of the top-up in the store's form of times: UTC, without a time zone."""
        return datetime.fromtimestamp(self.began_ns / 1e9, UTC).replace(tzinfo=None)

    def decision(self, need: Need, outcome: str, made: int = 0, accepted: int = 0) -> Decision:
        """The record of a decision.

        Args:
            need: the variants to generate for the problem.
            outcome: `asked`, or the result.
            made: number of variants that were generated.
            accepted: number of these that were accepted.
        """
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
    """Complete the decisions of top-ups that were killed or have failed; returns the number of decisions.

    All variants that were generated or accepted since the start of such a top-up are counted as its results.
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


def record_idle(store: VariantStore, journey: Journey, planned: Plan) -> None:
    """Record the problems for which no kind can be generated.

    A problem is left out if its last decision has the same reason.
    """
    said = dict(
        store.query(
            "SELECT problem_id, arg_max(outcome, created_at) FROM decisions WHERE training_run = ? GROUP BY ALL",
            [journey.training_run],
        )
    )
    store.append(
        [
            journey.decision(need, why)
            for why, needs in planned.idle.items()
            for need in needs
            if said.get(need.problem_id) != why
        ]
    )


@dataclass(slots=True)
class _Count:
    """Numbers of variants of one problem and kind.

    Attributes:
        accepted: all accepted variants.
        made: variants that were generated since a given time.
        made_accepted: accepted variants that were generated or verified since then.
    """

    accepted: int = 0
    made: int = 0
    made_accepted: int = 0


def _counts(
    store: VariantStore, problem_ids: Sequence[str], since: datetime
) -> defaultdict[tuple[str, str], _Count]:
    rows = store.query(
        "SELECT problem_id, kind, count(*) FILTER (status = 'accepted'), "
        "count(*) FILTER (created_at >= ? AND text IS NOT NULL), "
        # Verified since then counts, too, because this run may accept a candidate of an earlier run.
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
    """Whether labels by this model change measured offsets. They do only if it is, or becomes, the label model.

    Args:
        store: the store, which knows its label model.
        labels: how labels are measured.
        model: name of the solver's model.
    """
    return labels.label_model or store.setting(LABEL_MODEL) in (None, model)


def stages_for(session: Session, stages: Stages, needs: Sequence[Need]) -> Stages:
    """The stages that generate exactly the needed variants.

    Args:
        session: the session. Its solver labels only if that changes offsets, see `moves_deltas`.
        stages: how to generate, verify and label.
        needs: the variants to generate.
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
    """Generate, verify and label the variants that problems need, and record each decision with its result.

    If it is called again with the same needs, it continues where it stopped, because a need contains the number of
    accepted variants that there should be.

    Args:
        session: its teacher writes, its solver verifies and labels.
        stages: how to generate, verify and label.
        needs: the needs of a shard of problems.
        journey: the top-up.

    Returns:
        The results of the stages, and the number of problems by outcome (`enough` or `short`).

    Raises:
        BudgetError: the budget is spent. The variants made until then are kept, and the decisions are recorded.
        DivaError: see `curate_shard`. The decisions then keep the outcome `asked`, see `complete_killed`.
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
    """The decisions with their results, after the work. `stopped` says whether the budget was spent."""
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
