"""The stages of a curation, composed once: write, decide, measure.

Verbs, flows, top-up and the dry run all go through `curate_shard`: a shard of problems, and the configurations of the
stages that are wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self, TypedDict, Unpack

from diva_grpo.pipeline.session.session import Session, shards
from diva_grpo.pipeline.stages.generate import write_candidates
from diva_grpo.pipeline.stages.label import measure
from diva_grpo.pipeline.stages.solve import Solver, TeacherSolver
from diva_grpo.pipeline.stages.supply import Wanted, by_kinds, supply
from diva_grpo.pipeline.stages.verify import decide
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.schemas.config import (
    IMAGE_KINDS,
    FlowConfig,
    GenerateConfig,
    GenerateFlowConfig,
    LabelConfig,
    VerifyConfig,
)
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Kind, Problem, Shortage


@dataclass(frozen=True, slots=True)
class Stages:
    """What is done to problems; None leaves a stage out.

    Attributes:
        generate: what is written. With `accepted`, `verify` decides on it, and more is asked for until there is enough.
        verify: what a variant must pass.
        label: how difficulty is measured.
        wanted: accepted variants asked for by problem and kind, in the place of `accepted`.
        solver: answers in the place of the session's solver, such as the policy itself.
        prompt: how the session's solver is asked when it labels; default the prompt `solve`.

    Example:
        >>> Stages(GenerateConfig(accepted=5), VerifyConfig()).supplies
        True
    """

    generate: GenerateConfig | None = None
    verify: VerifyConfig | None = None
    label: LabelConfig | None = None
    wanted: Wanted | None = None
    solver: Solver | None = None
    prompt: Prompt | None = None

    @classmethod
    def of(cls, config: FlowConfig) -> Self:
        """The stages of a flow."""
        generate, verify, label = (getattr(config, name, None) for name in ("generate", "verify", "label"))
        if isinstance(config, GenerateFlowConfig) and config.generate.accepted is None:
            verify = None
        return cls(generate, verify, label)

    @property
    def supplies(self) -> bool:
        """Whether texts are written and verified in turn until there are enough."""
        accepted = self.generate and self.generate.accepted
        return self.generate is not None and (accepted is not None or self.wanted is not None)

    def apart(self) -> Iterator[tuple[str, Stages]]:
        """The stages one by one, each by its name, but for those that must go together."""
        parts = [
            ("write and verify", replace(self, label=None))
            if self.supplies
            else ("generate", replace(self, verify=None, label=None)),
            ("verify", replace(self, generate=None, label=None)),
            ("label", replace(self, generate=None, verify=None)),
        ]
        present = (self.generate, None if self.supplies else self.verify, self.label)
        return (part for part, there in zip(parts, present, strict=True) if there)


@dataclass(slots=True)
class Curated:
    """What came of the stages.

    Attributes:
        generated: new rows by status.
        verified: variants by new status.
        labelled: labels by kind.
        wanted: kinds of problems that were to be supplied with enough variants.
        shortages: those of them that stayed short, why.
    """

    generated: Counter[str] = field(default_factory=Counter)
    verified: Counter[str] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)
    wanted: int = 0
    shortages: list[Shortage] = field(default_factory=list)

    def add(self, other: Curated) -> None:
        """Count another shard."""
        self.generated += other.generated
        self.verified += other.verified
        self.labelled += other.labelled
        self.wanted += other.wanted
        self.shortages += other.shortages

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


def curate_shard(session: Session, stages: Stages, problem_ids: Sequence[str]) -> Curated:
    """Do all stages for a shard of problems; done again, it does only what is missing.

    Args:
        session: of the run.
        stages: what is done.
        problem_ids: the shard.

    Raises:
        ConfigError: a stage needs an endpoint that the session has not.
        DivaError: see `Endpoint.ask`.
    """
    problems = session.store.problems(problem_ids)
    done = Curated()
    if stages.generate and stages.supplies:
        if stages.verify is None:
            raise ConfigError("how many accepted variants there are is known after their verification")
        supplied = supply(
            session, stages.generate, problems, partial(_decide, session, stages, problems), stages.wanted
        )
        done.generated, done.verified = supplied.generated, supplied.verified
        done.wanted, done.shortages = supplied.wanted, supplied.shortages
    else:
        if stages.generate:
            done.generated = write_candidates(session, stages.generate, problems)
        done.verified = _decide(session, stages, problems)
    if stages.label:
        solver = stages.solver or _labeller(session, stages)
        done.labelled = measure(session, solver, stages.label, problems, stages.wanted)
    return done


def _decide(session: Session, stages: Stages, problems: Sequence[Problem]) -> Counter[str]:
    counts: Counter[str] = Counter()
    if stages.verify is None:
        return counts
    config, allowed = stages.verify, tuple(Kind)
    if not (stages.solver or session.solver):
        # Of images alone: a text that another process writes meanwhile waits for its solver.
        config, allowed = config.model_copy(update={"checks": ()}), IMAGE_KINDS
    for kinds, of_kinds in by_kinds(problems, stages.wanted):
        ids = [problem.problem_id for problem in of_kinds]
        wanted = [kind for kind in kinds if kind in allowed]
        counts += decide(session, config, ids, solver=stages.solver, kinds=wanted)
    return counts


def _labeller(session: Session, stages: Stages) -> Solver:
    if session.solver is None:
        raise ConfigError("labels need a solver: name a model")
    return TeacherSolver(session.solver, prompt=stages.prompt)


class Chosen(TypedDict, total=False):
    """Problems of a store; all where nothing is given.

    Attributes:
        problem_ids: only these.
        where: an SQL condition on `problems`.
        limit: only the first N, by id.
        shard_size: problems whose records are written together; default the session's.
    """

    problem_ids: Sequence[str] | None
    where: str | None
    limit: int | None
    shard_size: int | None


def curate(session: Session, stages: Stages, **chosen: Unpack[Chosen]) -> Curated:
    """Do all stages for the problems of a store, shard by shard; see `Session.over`.

    Args:
        session: of the run.
        stages: what is done.
        **chosen: for which problems.

    Raises:
        ConfigError: as `curate_shard`; or the condition is not valid SQL.
        DivaError: see `Endpoint.ask`.

    Example:
        >>> with Session(store, TeacherConfig(model="gpt-4.1-mini")) as session:
        ...     curate(session, Stages(verify=VerifyConfig())).verified  # all are decided already
        Counter()
    """
    size = chosen.get("shard_size") or session.shard_size
    ids = session.store.problem_ids(
        chosen.get("problem_ids"), where=chosen.get("where"), limit=chosen.get("limit")
    )
    total = Curated()
    for done in session.over(shards(ids, size), partial(curate_shard, session, stages)):
        total.add(done)
    return total


def generate(session: Session, config: GenerateConfig, **chosen: Unpack[Chosen]) -> Counter[str]:
    """Write candidate variants of every problem that has none of that kind, model and prompt yet.

    Returns:
        New rows by status, see `write_candidates`.

    Example:
        >>> with Session(store, TeacherConfig(model="gpt-4.1-mini")) as session:
        ...     generate(session, GenerateConfig(kinds=("reword",)))
        Counter({'candidate': 30})
    """
    return curate(session, Stages(generate=config), **chosen).generated


def verify(
    session: Session, config: VerifyConfig, solver: Solver | None = None, **chosen: Unpack[Chosen]
) -> Counter[str]:
    """Give every candidate its terminal status, see `decide`; without a solver only those of images.

    Returns:
        Variants by new status.

    Example:
        >>> with Session(store, TeacherConfig(model="gpt-4.1-mini")) as session:
        ...     verify(session, VerifyConfig())
        Counter({'accepted': 30})
    """
    return curate(session, Stages(verify=config, solver=solver), **chosen).verified


def label(
    session: Session, config: LabelConfig, solver: Solver | None = None, **chosen: Unpack[Chosen]
) -> Counter[str]:
    """Label every problem and every accepted variant that the solver has not labelled yet, see `measure`.

    Returns:
        Labels written by kind (`original` or a variant's), and `unjudged`.

    Example:
        >>> with Session(store, TeacherConfig(model="gpt-4.1-mini")) as session:
        ...     label(session, LabelConfig(samples=2))
        Counter({'reword': 30, 'original': 6})
    """
    return curate(session, Stages(label=config, solver=solver), **chosen).labelled
