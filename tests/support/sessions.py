"""Verbs on a store, each in a session of its own, and jobs of one endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, Unpack

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages import curate as stages
from diva_grpo.pipeline.stages.curate import Chosen, Stages
from diva_grpo.pipeline.stages.solve import Solver
from diva_grpo.pipeline.stages.supply import Curated
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.schemas.config import GenerateConfig, LabelConfig, TeacherConfig, VerifyConfig

R = TypeVar("R")


def ask(
    store: VariantStore,
    teacher: TeacherConfig,
    jobs: Sequence[Callable[[Teacher], Awaitable[R]]],
) -> list[R]:
    """Results of jobs that ask one endpoint."""
    with Session(store, teacher) as session:
        return session.teacher.ask(jobs)


def generate(
    store: VariantStore,
    teacher: TeacherConfig | None,
    config: GenerateConfig,
    meter: Meter | None = None,
    **chosen: Unpack[Chosen],
) -> Counter[str]:
    with Session(store, teacher, meter=meter) as session:
        return stages.generate(session, config, **chosen)


def _session(
    store: VariantStore, solver: TeacherConfig | Solver, meter: Meter | None = None
) -> tuple[Session, Solver | None]:
    if isinstance(solver, TeacherConfig):
        return Session(store, solver, meter=meter), None
    return Session(store, meter=meter), solver


def verify(
    store: VariantStore, solver: TeacherConfig | Solver, config: VerifyConfig, **chosen: Unpack[Chosen]
) -> Counter[str]:
    session, own = _session(store, solver)
    with session:
        return stages.verify(session, config, own, **chosen)


def label(
    store: VariantStore,
    solver: TeacherConfig | Solver,
    config: LabelConfig,
    meter: Meter | None = None,
    **chosen: Unpack[Chosen],
) -> Counter[str]:
    session, own = _session(store, solver, meter)
    with session:
        return stages.label(session, config, own, **chosen)


def supply(
    store: VariantStore,
    teacher: TeacherConfig,
    config: GenerateConfig,
    checks: VerifyConfig,
    solver: Solver | None = None,
    **chosen: Unpack[Chosen],
) -> Curated:
    """Write and verify in turn until there are enough."""
    with Session(store, teacher) as session:
        return stages.curate(session, Stages(config, checks, solver=solver), **chosen)
