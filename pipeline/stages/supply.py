"""Enough accepted variants of each kind for each problem: generate, verify, and ask again for what is missing.

    diva generate --store DIR --model NAME --kinds reword,think_step --accepted 5

Nothing but the store says how far it is, so a run that was killed continues where it stopped, and no request that
was answered is sent twice: each try has a number of its own, which is part of the journal's key.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.generate import Ask, asked, first_ask, write
from diva_grpo.pipeline.stages.image_variants import perturb_images
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import IMAGE_KINDS, GenerateConfig
from diva_grpo.schemas.records import Kind, Problem, Shortage, Status, Variant

Wanted = Mapping[str, Mapping[Kind, int]]
"""Accepted variants asked for, by problem and kind; no other kinds of these problems are touched."""


def supply(
    session: Session,
    config: GenerateConfig,
    problems: Sequence[Problem],
    decide: Callable[[], Counter[str]],
    wanted: Wanted | None = None,
) -> Supply:
    """Generate and verify until each problem of a shard has the accepted variants asked for, or its tries are spent.

    Accepted variants count whoever wrote them; tries are counted for this teacher and its prompts, over all
    runs. Of problems that stay short the view `shortages` says why.

    Args:
        session: its teacher writes.
        config: `accepted` and `tries`, and how to ask.
        problems: of the shard.
        decide: decides on the candidates of the shard; returns variants by new status.
        wanted: how many of which kinds of which problems, in the place of `accepted`; others are left alone.
    """
    store, model, done = session.store, session.teacher.model, Supply()
    for kinds, of_kinds in by_kinds(problems, wanted):
        asked_for = tuple(kind for kind in config.kinds if kind in kinds)
        done.generated += perturb_images(store, config.model_copy(update={"kinds": asked_for}), of_kinds)
    sent: set[tuple[str, str, int]] = set()
    while True:
        done.verified += decide()
        stock = _stock(store, model, config, problems, wanted)
        asks = [ask for holding in stock if (ask := _next_ask(holding, config, sent))]
        if not asks:
            break
        sent |= {(ask.problem.problem_id, ask.kind, ask.sample) for ask in asks if not ask.from_source}
        done.generated += write(session, config, asks)
    done.wanted = len(stock)
    done.shortages = _record(store, model, stock)
    return done


def by_kinds(
    problems: Sequence[Problem], wanted: Wanted | None
) -> list[tuple[tuple[Kind, ...], Sequence[Problem]]]:
    """The problems by the kinds that are wanted of them."""
    if wanted is None:
        return [(tuple(Kind), problems)]
    groups: defaultdict[tuple[Kind, ...], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[tuple(kind for kind in Kind if kind in wanted.get(problem.problem_id, {}))].append(problem)
    return [(kinds, of_kinds) for kinds, of_kinds in groups.items() if kinds]


@dataclass(slots=True)
class Supply:
    """What was made for a shard, and what could not be.

    Attributes:
        generated: new rows by status.
        verified: variants by new status.
        wanted: kinds of problems that were to be supplied.
        shortages: those of them that stayed short, why.
    """

    generated: Counter[str] = field(default_factory=Counter)
    verified: Counter[str] = field(default_factory=Counter)
    wanted: int = 0
    shortages: list[Shortage] = field(default_factory=list)


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
