"""Score a model as a configuration says: what `diva eval` and the flow `evaluate` have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import EvaluateConfig, PolicyOptions
from diva_grpo.schemas.records import Problem
from diva_grpo.trainer.checkpoints import training_step
from diva_grpo.trainer.evaluation.benchmarks import SPLIT, Benchmark, find_benchmark
from diva_grpo.trainer.evaluation.policy import PolicySolver
from diva_grpo.trainer.evaluation.score import (
    Report,
    accepted_variants,
    chosen_kinds,
    evaluate_fully,
    readable_problems,
    select_problems,
)

Say = Callable[[str], None]
"""Told what a user should know beside the figures."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came of an evaluation.

    Attributes:
        report: the figures.
        settings: with the defaults that held, a benchmark's own among them.
        left_out: problems with images that the model cannot see.
    """

    report: Report
    settings: EvaluateConfig
    left_out: int

    def figures(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        settings = self.settings.model_dump(mode="json", exclude={"store", "source"})
        return {"settings": settings, "left_out": self.left_out, **self.report.figures()}


def run_evaluation(config: EvaluateConfig, say: Say) -> Evaluated:
    """Select problems, load the model, answer and grade; the rows go to `evaluations`.

    Args:
        config: what is scored, and how it is asked.
        say: called with what a user should know beside the figures.

    Raises:
        ConfigError: settings, store and model that do not go together.
        SourceError: the benchmark cannot be read.
    """
    benchmark = find_benchmark(config.benchmark) if config.benchmark else None
    if benchmark is not None and config.split != SPLIT:
        raise ConfigError(f"--benchmark is kept as split {SPLIT}: leave --split out")
    store = VariantStore(config.store, create=benchmark is not None)
    condition = config.problem_filter
    if benchmark is not None:
        _read_benchmark(store, benchmark, config, say)
        condition = f"source = '{benchmark.name}' AND ({condition or 'true'})"
    kinds = chosen_kinds(config.kinds)
    found = select_problems(store, split=config.split, where=condition)
    solver = PolicySolver(
        config.model,
        batch_size=config.batch_size,
        seed=config.seed,
        images=store.image_path,
        **_options(config, benchmark),
    )
    for remark in solver.remarks():
        say(remark)
    asked = {name: getattr(solver.policy, name) for name in PolicyOptions.model_fields}
    settings = config.model_copy(update={"problem_filter": condition, **asked})
    readable = readable_problems(found, solver)
    left_out = len(found) - len(readable)
    if left_out:
        say(f"{left_out} problems with images are left out: the model reads text alone")
    report = _scored(store, solver, readable[: settings.limit], kinds, settings, say)
    if report.ungraded:
        say(f"{report.ungraded} answers could not be graded and count as wrong")
    return Evaluated(report, settings, left_out)


def _scored(
    store: VariantStore,
    solver: PolicySolver,
    problems: list[Problem],
    kinds: list[str],
    settings: EvaluateConfig,
    say: Say,
) -> Report:
    variants = accepted_variants(store, problems, kinds)
    if kinds and not variants:
        say(f"these problems have no accepted variant of {', '.join(kinds)}")
    total = (len(problems) + len(variants)) * settings.samples
    with (
        store.run("eval", settings.model_dump_json(exclude={"store", "source"}), settings.model) as own_id,
        progress_bar(total, "answers") as progress,
    ):
        run_id, step = training_step(settings.model) or (own_id, 0)
        return evaluate_fully(
            store,
            solver,
            problems,
            samples=settings.samples,
            run_id=run_id,
            step=step,
            variants=variants,
            progress=progress,
        )


def _options(config: EvaluateConfig, benchmark: Benchmark | None) -> dict[str, Any]:
    """What is said of how the model is asked; of what the user leaves open, by the benchmark where it is one."""
    said: dict[str, Any] = {}
    if benchmark is not None:
        said = {"max_new_tokens": benchmark.max_new_tokens, "instruction": benchmark.instruction}
        said["temperature"] = 0.0 if config.samples == 1 else 1.0
    given = {name: getattr(config, name) for name in PolicyOptions.model_fields}
    return {**said, **{name: value for name, value in given.items() if value is not None}}


def _read_benchmark(store: VariantStore, benchmark: Benchmark, config: EvaluateConfig, say: Say) -> None:
    """Bring a benchmark into a store, where it is not there yet or a source is named.

    Raises:
        ConfigError: the store has problems of its name that are not for testing.
        SourceError: it cannot be read.
    """
    name, setting, limit = benchmark.name, f"benchmark:{benchmark.name}", config.limit
    counts = dict(store.query("SELECT split, count(*) FROM problems WHERE source = ? GROUP BY ALL", [name]))
    others = sorted(counts.keys() - {SPLIT})
    if others:
        raise ConfigError(
            f"the store has {name} as split {', '.join(others)}: evaluate on that with --split, or on the "
            "benchmark in another --store"
        )
    enough = store.setting(setting) is not None or (limit is not None and counts.get(SPLIT, 0) >= limit)
    if config.source is None and enough:
        return
    added = rejected = 0
    mapping = benchmark.mapping.model_dump_json()
    with store.run("ingest", mapping), progress_bar(None, "rows") as progress:
        for part, columns in benchmark.parts(config.source):
            report = ingest(store, part, columns, source_name=name, limit=limit, progress=progress)
            added, rejected = added + report.added, rejected + report.rejected
    if limit is None:
        store.put_setting(setting, config.source or "hub")
    say(f"{name}: {added} problems added, {rejected} rejected; as published it has {benchmark.size:,}")
