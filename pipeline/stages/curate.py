"""Run the stages of curation (generate, verify, label) for a shard of problems.

All commands, flows, the top-up and the dry run call `curate_shard`, with the configurations of the stages that they
need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, TypedDict, Unpack

from diva_grpo.pipeline.session.session import Session, shards
from diva_grpo.pipeline.stages import supply as supplying
from diva_grpo.pipeline.stages.generate import missing_asks, write_candidates
from diva_grpo.pipeline.stages.image_variants import missing_images
from diva_grpo.pipeline.stages.label import measure, unlabelled
from diva_grpo.pipeline.stages.solve import Solver, TeacherSolver
from diva_grpo.pipeline.stages.supply import Curated, Wanted, by_kinds, supply
from diva_grpo.pipeline.stages.verify import decide, undecided
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
from diva_grpo.schemas.records import Kind, Problem

FINISHED_AT_ONCE = 5_000
"""Largest number of problems in a shard for which nothing is left to do, and of problems that are searched for them."""


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages to run, with their configurations. A stage that is None is left out.

    Attributes:
        generate: the variants to generate. With `accepted`, variants are generated and verified repeatedly until each
            problem has that number of accepted variants of each kind.
        verify: the checks that a variant must pass.
        label: how labels are measured.
        wanted: number of accepted variants by problem and kind; replaces `generate.accepted`.
        solver: used instead of the session's solver, for example the policy itself.
        prompt: the prompt for labels by the session's solver; by default the prompt `solve`.

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
        """The stages that a flow is configured for."""
        generate, verify, label = (getattr(config, name, None) for name in ("generate", "verify", "label"))
        if isinstance(config, GenerateFlowConfig) and config.generate.accepted is None:
            verify = None
        return cls(generate, verify, label)

    @property
    def supplies(self) -> bool:
        """Whether variants are generated and verified repeatedly until there are enough accepted ones."""
        accepted = self.generate and self.generate.accepted
        return self.generate is not None and (accepted is not None or self.wanted is not None)

    def apart(self) -> Iterator[tuple[str, Stages]]:
        """Yield each stage by itself, with its name. Generation and verification stay together if `supplies`."""
        parts = [
            ("write and verify", replace(self, label=None))
            if self.supplies
            else ("generate", replace(self, verify=None, label=None)),
            ("verify", replace(self, generate=None, label=None)),
            ("label", replace(self, generate=None, verify=None)),
        ]
        present = (self.generate, None if self.supplies else self.verify, self.label)
        return (part for part, there in zip(parts, present, strict=True) if there)


def curate_shard(session: Session, stages: Stages, problem_ids: Sequence[str]) -> Curated:
    """Run the stages for a shard of problems. If it is called again, it does only what is missing.

    Raises:
        ConfigError: a stage needs an endpoint that the session does not have, or a number of accepted variants is
            requested without `verify`.
        DivaError: see `Endpoint.ask`.
    """
    problems = session.store.problems(problem_ids)
    done = Curated()
    if stages.generate and stages.supplies:
        if stages.verify is None:
            raise ConfigError("how many accepted variants there are is known after their verification")
        decide_all = partial(_decide, session, stages, problems)
        done = supply(session, stages.generate, problems, decide_all, stages.wanted)
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
    config, allowed = _decidable(session, stages, stages.verify)
    for kinds, of_kinds in by_kinds(problems, stages.wanted):
        ids = [problem.problem_id for problem in of_kinds]
        wanted = [kind for kind in kinds if kind in allowed]
        counts += decide(session, config, ids, solver=stages.solver, kinds=wanted)
    return counts


def _decidable(
    session: Session, stages: Stages, config: VerifyConfig
) -> tuple[VerifyConfig, tuple[Kind, ...]]:
    """The checks that can run, and the kinds of variants on which they decide.

    Without a solver these are image variants only. Texts, such as those of another process, wait for a solver.
    """
    if stages.solver or session.solver:
        return config, tuple(Kind)
    return config.model_copy(update={"checks": ()}), IMAGE_KINDS


def _labeller(session: Session, stages: Stages) -> Solver:
    if session.solver is None:
        raise ConfigError("labels need a solver: name a model")
    return TeacherSolver(session.solver, prompt=stages.prompt)


class Chosen(TypedDict, total=False):
    """A choice of problems of a store; all problems if nothing is given.

    Attributes:
        problem_ids: only the problems with these ids.
        where: only problems that fulfil this SQL condition on `problems`.
        limit: only the first N problems, by id.
        shard_size: number of problems in a shard, whose records are written together; by default
            see `Session.shard_size`.
    """

    problem_ids: Sequence[str] | None
    where: str | None
    limit: int | None
    shard_size: int | None


def curate(session: Session, stages: Stages, **chosen: Unpack[Chosen]) -> Curated:
    """Run the stages for the problems of a store, shard by shard; see `Session.over`.

    Args:
        session: the session of the run.
        stages: the stages to run.
        **chosen: the problems, see `Chosen`.

    Raises:
        ConfigError: as `curate_shard`; or the condition is not valid SQL.
        DivaError: see `Endpoint.ask`.

    Example:
        >>> with Session(store, TeacherConfig(model="gpt-4.1-mini")) as session:
        ...     curate(session, Stages(verify=VerifyConfig())).verified  # all are decided already
        Counter()
    """
    ids = session.store.problem_ids(
        chosen.get("problem_ids"), where=chosen.get("where"), limit=chosen.get("limit")
    )
    total, work = Curated(), partial(curate_shard, session, stages)
    for done in session.over(in_shards(session, stages, ids, chosen.get("shard_size")), work):
        total.add(done)
    return total


def unfinished(session: Session, stages: Stages, problem_ids: Sequence[str]) -> set[str]:
    """Return the ids of the problems for which a stage has something left to do.

    Args:
        session: the session of the run.
        stages: the stages; `wanted` is not considered.
        problem_ids: the problems.

    Raises:
        ConfigError: texts are to be written, and the session has no teacher.
    """
    store, found = session.store, set[str]()
    if stages.generate:
        problems = store.problems(problem_ids)
        asks = (supplying.missing_asks if stages.supplies else missing_asks)(
            session, stages.generate, problems
        )
        found.update(ask.problem.problem_id for ask in asks)
        found.update(image.problem_id for image in missing_images(store, stages.generate, problems))
    if stages.verify:
        config, kinds = _decidable(session, stages, stages.verify)
        found |= undecided(store, config, problem_ids, kinds)
    solver = stages.solver or session.solver
    if stages.label and solver:
        found |= unlabelled(store, solver.model, stages.label, problem_ids)
    return found


def in_shards(
    session: Session, stages: Stages, problem_ids: Sequence[str], size: int | None = None
) -> Iterator[Sequence[str]]:
    """Divide problems into shards for `curate_shard`.

    A shard for which nothing is left to do takes as long as its queries, however few problems it has. So the problems
    with something left come first, in shards of the given size, and the others follow in large shards. This is done
    anew for every `FINISHED_AT_ONCE` problems.

    Args:
        session: the session of the run.
        stages: the stages, see `unfinished`.
        problem_ids: the problems.
        size: number of problems in a shard; by default see `Session.shard_size`.

    Raises:
        ConfigError: see `unfinished`.
    """
    for some in shards(problem_ids, max(size or session.shard_size(len(problem_ids)), FINISHED_AT_ONCE)):
        left = unfinished(session, stages, some)
        yield from shards([name for name in some if name in left], size or session.shard_size(len(left)))
        if len(left) < len(some):
            yield [name for name in some if name not in left]


def generate(session: Session, config: GenerateConfig, **chosen: Unpack[Chosen]) -> Counter[str]:
    """Generate candidates for every problem and kind for which this model and prompt have made none yet.

    Args:
        session: the session of the run; its teacher writes.
        config: the kinds, and the number of variants of each.
        **chosen: the problems, see `Chosen`.

    Returns:
        Number of new variants by status, see `write_candidates`.

    Example:
        >>> with Session(store, TeacherConfig(model="gpt-4.1-mini")) as session:
        ...     generate(session, GenerateConfig(kinds=("reword",)))
        Counter({'candidate': 30})
    """
    return curate(session, Stages(generate=config), **chosen).generated


def verify(
    session: Session, config: VerifyConfig, solver: Solver | None = None, **chosen: Unpack[Chosen]
) -> Counter[str]:
    """Decide on every candidate, see `decide`. Without a solver, it decides only on image variants.

    Args:
        session: the session of the run.
        config: the checks.
        solver: used instead of the session's solver.
        **chosen: the problems, see `Chosen`.

    Returns:
        Number of variants by new status.

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

    Args:
        session: the session of the run.
        config: the number of samples for each question.
        solver: used instead of the session's solver.
        **chosen: the problems, see `Chosen`.

    Returns:
        Number of labels by kind (`original`, or the kind of a variant), and of questions without a label (`unjudged`).

    Example:
        >>> with Session(store, TeacherConfig(model="gpt-4.1-mini")) as session:
        ...     label(session, LabelConfig(samples=2))
        Counter({'reword': 30, 'original': 6})
    """
    return curate(session, Stages(label=config, solver=solver), **chosen).labelled
