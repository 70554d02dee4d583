"""Decide what a top-up requests: which problems of a training run have a shortage, and which kinds of variants help.

A problem has a shortage if no accepted variant is near the offset that its live difficulty asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from diva_grpo.pipeline.stages.shortage import Shortages, find_shortages, training_run
from diva_grpo.pipeline.stages.top_up import Plan, plan
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import TopUpConfig


@dataclass(frozen=True, slots=True)
class Found:
    """The result of `find`.

    Attributes:
        shortages: the problems of the training run that have a shortage.
        planned: what the top-up requests for them, within its limits.
    """

    shortages: Shortages
    planned: Plan

    def summary(self) -> str:
        """The shortages and the plan in one line of text."""
        short, needs = len(self.shortages.problem_ids), self.planned.needs
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.planned.by_kind().items()))
        parts = [f"run {self.shortages.run_id}: {short} of {self.shortages.seen} problems are short"]
        parts += [f"{len(needs)} are asked for ({kinds})" if needs else "nothing is asked for"]
        parts += [f"{why} ({len(places)})" for why, places in self.planned.idle.items()]
        parts += [f"{self.planned.left} wait for a later run"] * bool(self.planned.left)
        return "; ".join(parts)


def find(config: TopUpConfig, store: VariantStore) -> Found:
    """Find the shortages of a training run, and plan what to request for them.

    Args:
        config: the training run, the kinds that may be requested, and the limits of the top-up.
        store: the store.

    Raises:
        ConfigError: there is no such training run, or the filter is not valid SQL.
    """
    run_id = training_run(store, config.run)
    found = find_shortages(
        store,
        run_id,
        window_steps=config.window_steps,
        tolerance=config.tolerance,
        problem_filter=config.problem_filter,
    )
    planned = plan(
        store,
        found.problem_ids,
        found.wanted_S,
        found.nearest_S,
        config.teacher.model,
        config.generate,
        variants=config.variants,
        max_problems=config.max_problems,
        max_variants=config.max_variants,
        tolerance=config.tolerance,
    )
    return Found(found, planned)
