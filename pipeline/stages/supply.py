"""Enough accepted variants of each kind for each problem: generate, verify, and ask again for what is missing.

    diva generate --store DIR --model NAME --kinds reword,think_step --accepted 5

Nothing but the store says how far it is, so a run that was killed goes on where it stopped, and no request that
was answered is sent twice: each try has a number of its own, which is part of the journal's key.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from diva_grpo.pipeline.checks import Judge
from diva_grpo.pipeline.session.work import SHARD_SIZE, AnyTeacher, Progress, shards, tell
from diva_grpo.pipeline.stages.generate import Ask, asked, first_ask, write
from diva_grpo.pipeline.stages.image_variants import generate_image_variants
from diva_grpo.pipeline.stages.solve import VERIFICATION, TeacherSolver
from diva_grpo.pipeline.stages.verify import References, verify
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import IMAGE_KINDS, GenerateConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Kind, Problem, Shortage, Status, Variant

Verify = Callable[[Sequence[str]], Counter[str]]
"""Decides on the candidates of problems, by their ids; returns variants by new status."""

Wanted = Mapping[str, Mapping[Kind, int]]
"""Accepted variants asked for, by problem and kind; no other kinds of these problems are touched."""


@dataclass(slots=True)
class Supply:
    """What a run made, and what it could not.

    Attributes:
        generated: new rows by status, as `generate` counts them.
        verified: variants by new status, as `verify` counts them.
        wanted: kinds of problems that were to be supplied.
        shortages: those of them that stayed short, why.
    """

    generated: Counter[str] = field(default_factory=Counter)
    verified: Counter[str] = field(default_factory=Counter)
    wanted: int = 0
    shortages: list[Shortage] = field(default_factory=list)

    def summary(self) -> str:
        """One line: how many are short, by kind and by what kept their variants from being accepted."""
        if not self.shortages:
            return f"all {self.wanted} kinds of problems have the variants asked for"
        kinds = Counter(str(shortage.kind) for shortage in self.shortages)
        by_kind = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        problems = len({shortage.problem_id for shortage in self.shortages})
        of_problems = f"{problems} problem{'s' * (problems != 1)}"
        return (
            f"{len(self.shortages)} of {self.wanted} kinds of problems stayed short, in {of_problems} "
            f"({by_kind}; most often: {self._reasons()})"
        )

    def _reasons(self) -> str:
        """What kept most variants from being accepted, over all that is short."""
        causes: Counter[str] = Counter()
        for shortage in self.shortages:
            for part in (shortage.reason or "").split(", "):
                count, _, cause = part.partition(" ")
                causes[cause if count.isdecimal() else part] += int(count) if count.isdecimal() else 1
        return ", ".join(f"{n} {cause}" for cause, n in causes.most_common(2))


def verifying(
    store: VariantStore,
    endpoint: AnyTeacher,
    checks: VerifyConfig,
    references: References | None = None,
    wanted: Wanted | None = None,
) -> Verify:
    """Verification of a few problems at a time, by a solver (and a judge, if one is wanted) behind an endpoint.

    Args:
        store: where candidates come from and verdicts go.
        endpoint: of the solver.
        checks: what a variant must pass.
        references: what to compare with, where others share it; it grows with what is accepted.
        wanted: only candidates of these kinds of these problems; None decides on all.

    Raises:
        ConfigError: an evaluation set has no question.
        SourceError: an evaluation set cannot be read.
    """
    solver, judge = TeacherSolver(store, endpoint, VERIFICATION), Judge.for_verify(store, endpoint, checks)
    references = references or References.of(store, checks)

    def decide(problem_ids: Sequence[str]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for kinds, ids in _by_kinds(problem_ids, wanted):
            counts += verify(
                store,
                solver,
                checks,
                judge=judge,
                references=references,
                problem_ids=ids,
                kinds=kinds,
                shard_size=max(1, len(ids)),
            )
        return counts

    return decide


def _by_kinds(
    problem_ids: Sequence[str], wanted: Wanted | None
) -> list[tuple[tuple[Kind, ...], Sequence[str]]]:
    """The problems by the kinds that are wanted of them."""
    if wanted is None:
        return [(tuple(Kind), problem_ids)]
    groups: defaultdict[tuple[Kind, ...], list[str]] = defaultdict(list)
    for problem_id in problem_ids:
        groups[tuple(kind for kind in Kind if kind in wanted.get(problem_id, {}))].append(problem_id)
    return [(kinds, ids) for kinds, ids in groups.items() if kinds]


def supply(
    store: VariantStore,
    teacher: AnyTeacher,
    config: GenerateConfig,
    decide: Verify,
    *,
    problem_ids: Sequence[str] | None = None,
    wanted: Wanted | None = None,
    where: str | None = None,
    limit: int | None = None,
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Supply:
    """Generate and verify until each problem has the accepted variants asked for, or its tries are spent.

    Accepted variants count whoever wrote them; tries are counted for this teacher and its prompts, over all
    runs. Of problems that stay short the view `shortages` says why.

    Args:
        store: where problems come from and variants go.
        teacher: writes.
        config: `accepted` and `tries`, and how to ask.
        decide: decides on the candidates of the problems that it is given; see `verifying`.
        problem_ids: only these; default all.
        wanted: how many of which kinds of which problems, in the place of `accepted`; others are left alone.
        where: an SQL condition on `problems`.
        limit: only the first so many, by id.
        shard_size: problems that are asked for together.
        progress: told of every request to the teacher that is done.

    Raises:
        ConfigError: neither `accepted` nor `wanted` is set, or the condition is no SQL.
    """
    if config.accepted is None and wanted is None:
        raise ConfigError("how many accepted variants? Give --accepted, such as 5 or reword=5,think_step=3")
    done = Supply()
    for shard in shards(store.problems(problem_ids, where=where, limit=limit), shard_size):
        ids = [problem.problem_id for problem in shard]
        for kinds, of_kinds in _by_kinds(ids, wanted):
            asked_for = tuple(kind for kind in config.kinds if kind in kinds)
            done.generated += generate_image_variants(
                store, config.model_copy(update={"kinds": asked_for}), problem_ids=of_kinds
            )
        sent: set[tuple[str, str, int]] = set()
        while True:
            verified = decide(ids)
            done.verified += verified
            tell(progress, verified)
            stock = _stock(store, teacher.model, config, shard, wanted)
            asks = [ask for holding in stock if (ask := _next_ask(holding, config, sent))]
            if not asks:
                break
            sent |= {(ask.problem.problem_id, ask.kind, ask.sample) for ask in asks if not ask.from_source}
            done.generated += write(store, teacher, config, asks, progress)
        done.wanted += len(stock)
        done.shortages += _record(store, teacher.model, stock)
    return done


@dataclass(slots=True)
class _Holding:
    """What there is of one kind of a problem.

    Attributes:
        samples: requests made, see `pipeline.stages.generate.asked`.
        accepted: variants.
        texts: of all that were written, accepted or not: a text that was rejected is not wanted again.
        undecided: variants on which `verify` reached no verdict: it may be asked again.
        lost: others by what kept them from being accepted.
    """

    problem: Problem
    kind: Kind
    wanted: int
    samples: set[int | None]
    accepted: int = 0
    texts: list[str] = field(default_factory=list)
    undecided: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> int:
        return max(0, self.wanted - self.accepted)


def _stock(
    store: VariantStore,
    model: str,
    config: GenerateConfig,
    problems: Sequence[Problem],
    wanted: Wanted | None,
) -> list[_Holding]:
    """What there is of every kind that is wanted of these problems."""
    ids = [problem.problem_id for problem in problems]
    samples = asked(store, model, config, ids)
    variants: defaultdict[tuple[str, str], list[Variant]] = defaultdict(list)
    for variant in store.read(Variant, "problem_id IN (SELECT unnest(?))", [ids]):
        variants[variant.problem_id, variant.kind].append(variant)
    stock = []
    for problem in problems:
        for kind in config.kinds:
            of_problem = None if wanted is None else wanted.get(problem.problem_id, {})
            count = config.wanted(kind) if of_problem is None else of_problem.get(kind, 0)
            if not count or (kind in IMAGE_KINDS and not problem.images):
                continue
            key = (problem.problem_id, kind)
            holding = _Holding(problem, kind, count, samples[key])
            for variant in variants[key]:
                _add(holding, variant)
            stock.append(holding)
    return stock


def _add(holding: _Holding, variant: Variant) -> None:
    if variant.text is not None:
        holding.texts.append(variant.text)
    if variant.status == Status.ACCEPTED:
        holding.accepted += 1
        return
    why = (variant.reason or "not verified").partition(":")[0]
    if variant.status == Status.FAILED and variant.text is not None:
        holding.undecided += 1
        why += " undecided"
    holding.lost[why] += 1


def _next_ask(holding: _Holding, config: GenerateConfig, sent: set[tuple[str, str, int]]) -> Ask | None:
    """The next request for a kind of a problem; None where it has enough, or its tries are spent.

    A variant without a verdict counts as there: where the solver does not answer, more variants are no help.
    """
    problem, kind = holding.problem, holding.kind
    count = holding.missing - holding.undecided
    if count <= 0 or kind in IMAGE_KINDS:  # of which all that the configuration allows are made at once
        return None
    ask = first_ask(problem, kind, config)
    if ask.from_source and None not in holding.samples:
        return ask
    spent = holding.samples | {
        n for problem_id, k, n in sent if (problem_id, k) == (problem.problem_id, kind)
    }
    left = [number for number in range(config.tries) if number not in spent]
    if not left:
        return None
    existing = () if kind == Kind.THINK_STEP else tuple(holding.texts)
    return replace(ask, count=count, sample=left[0], existing=existing, from_source=False)


def _record(store: VariantStore, model: str, stock: Sequence[_Holding]) -> list[Shortage]:
    """Append what is short now, and what no longer is; returns the former."""
    ids = sorted({holding.problem.problem_id for holding in stock})
    before = {
        (s.problem_id, s.kind): s for s in store.read(Shortage, "problem_id IN (SELECT unnest(?))", [ids])
    }
    short, changed = [], []
    for holding in stock:
        shortage = _shortage(holding, model)
        if holding.missing:
            short.append(shortage)
        known = before.get((shortage.problem_id, shortage.kind))
        if known is None and not holding.missing:
            continue
        if known is None or known.model_copy(update={"created_at": shortage.created_at}) != shortage:
            changed.append(shortage)
    store.append(changed)
    return short


def _shortage(holding: _Holding, model: str) -> Shortage:
    reasons = ", ".join(f"{n} {why}" for why, n in holding.lost.most_common()) or "too few were written"
    return Shortage(
        problem_id=holding.problem.problem_id,
        kind=holding.kind,
        wanted=holding.wanted,
        accepted=holding.accepted,
        tries=len(holding.samples - {None}),
        reason=reasons if holding.missing else None,
        generator_model=model,
    )
