"""Supply problems with accepted variants: generate, verify, and request again what is missing.

    diva generate --store DIR --model NAME --kinds reword,think_step --accepted 5

All progress is read from the store, so a run that was killed continues where it stopped. No answered request is sent
twice, because each try has its own sample number, which is part of the journal's key.
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
"""Number of accepted variants to supply, by problem id and kind. Nothing is generated for other kinds."""


@dataclass(slots=True)
class Curated:
    """The results of the stages.

    Attributes:
        generated: number of new variants by status.
        verified: number of decided variants by new status.
        labelled: number of labels by kind, see `measure`.
        wanted: number of pairs of problem and kind for which accepted variants were requested.
        shortages: the pairs of these that did not get enough, each with the reason.
    """

    generated: Counter[str] = field(default_factory=Counter)
    verified: Counter[str] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)
    wanted: int = 0
    shortages: list[Shortage] = field(default_factory=list)

    def add(self, other: Curated) -> None:
        """Add the results of another shard."""
        self.generated += other.generated
        self.verified += other.verified
        self.labelled += other.labelled
        self.wanted += other.wanted
        self.shortages += other.shortages

    def summary(self) -> str:
        """One line with the number of shortages, their kinds, and the most frequent reasons."""
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
        """The two most frequent reasons why variants were not accepted, over all shortages, with their numbers."""
        causes: Counter[str] = Counter()
        for shortage in self.shortages:
            for part in (shortage.reason or "").split(", "):
                count, _, cause = part.partition(" ")
                causes[cause if count.isdecimal() else part] += int(count) if count.isdecimal() else 1
        return ", ".join(f"{n} {cause}" for cause, n in causes.most_common(2))


def supply(
    session: Session,
    config: GenerateConfig,
    problems: Sequence[Problem],
    decide: Callable[[], Counter[str]],
    wanted: Wanted | None = None,
) -> Curated:
    """Generate and verify until each problem has the requested number of accepted variants or its tries are used up.

    Accepted variants of all teachers count. Tries are counted for this teacher and its prompts, over all runs. The
    view `shortages` shows the problems that did not get enough, with the reasons.

    Args:
        session: its teacher writes.
        config: `accepted`, `tries`, and how to generate.
        problems: the problems of the shard.
        decide: decides on the candidates of the shard, and returns the number of variants by new status.
        wanted: number of accepted variants by problem and kind; replaces `config.accepted`. None applies
            `config.accepted` to all problems.

    Returns:
        What was made, and which problems did not get enough.

    Raises:
        ConfigError: the session has no teacher.
        DivaError: see `Endpoint.ask`.
    """
    store, model, done = session.store, session.teacher.model, Curated()
    for kinds, of_kinds in by_kinds(problems, wanted):
        asked_for = tuple(kind for kind in config.kinds if kind in kinds)
        done.generated += perturb_images(store, config.model_copy(update={"kinds": asked_for}), of_kinds)
    sent: set[tuple[str, str, int]] = set()
    while True:
        done.verified += decide()
        stock = _stock(store, model, config, problems, wanted)
        asks = _next_asks(stock, config, sent)
        if not asks:
            break
        sent |= {(ask.problem.problem_id, ask.kind, ask.sample) for ask in asks if not ask.from_source}
        done.generated += write(session, config, asks)
    done.wanted = len(stock)
    done.shortages = _record(store, model, stock)
    return done


def missing_asks(session: Session, config: GenerateConfig, problems: Sequence[Problem]) -> list[Ask]:
    """The requests that `supply` would begin with, if no variant of these problems waits for a verdict.

    Raises:
        ConfigError: the session has no teacher.
    """
    stock = _stock(session.store, session.teacher.model, config, problems, None)
    return _next_asks(stock, config, set())


def by_kinds(
    problems: Sequence[Problem], wanted: Wanted | None
) -> list[tuple[tuple[Kind, ...], Sequence[Problem]]]:
    """Group problems by the kinds that are wanted for them.

    Returns:
        Pairs of kinds and the problems for which exactly these kinds are wanted. Problems without a wanted kind are
        left out. If `wanted` is None, there is one pair, with all kinds and all problems.
    """
    if wanted is None:
        return [(tuple(Kind), problems)]
    groups: defaultdict[tuple[Kind, ...], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[tuple(kind for kind in Kind if kind in wanted.get(problem.problem_id, {}))].append(problem)
    return [(kinds, of_kinds) for kinds, of_kinds in groups.items() if kinds]


@dataclass(slots=True)
class _Holding:
    """The existing variants of one problem and kind.

    Attributes:
        problem: the problem.
        kind: the kind.
        wanted: number of accepted variants that there should be.
        samples: sample numbers of the requests that were made, see `pipeline.stages.generate.asked`.
        accepted: number of accepted variants.
        texts: texts of all variants, accepted or not. New texts must differ from rejected ones, too.
        undecided: number of variants for which `verify` reached no verdict. It may decide on them later.
        lost: number of variants that are not accepted, by reason.
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
    """The existing variants for every pair of problem and kind for which accepted variants are wanted."""
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


def _next_asks(
    stock: Sequence[_Holding], config: GenerateConfig, sent: set[tuple[str, str, int]]
) -> list[Ask]:
    return [ask for holding in stock if (ask := _next_ask(holding, config, sent))]


def _next_ask(holding: _Holding, config: GenerateConfig, sent: set[tuple[str, str, int]]) -> Ask | None:
    """The next request for a problem and kind; None if it has enough variants or its tries are used up.

    A variant without a verdict counts as accepted here: if the solver does not answer, more variants do not help.
    """
    problem, kind = holding.problem, holding.kind
    count = holding.missing - holding.undecided
    if count <= 0 or kind in IMAGE_KINDS:  # all image variants that the configuration allows exist already
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
    """Append the shortages that are new or changed, also those that have ended; returns those that remain."""
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
