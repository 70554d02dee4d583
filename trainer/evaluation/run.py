"""`run_evaluation` evaluates a model as an `EvaluateConfig` says. `diva eval` and the flow `evaluate` both use it."""

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
    evaluate,
    readable_problems,
    select_problems,
)

Say = Callable[[str], None]
"""Called with each message for the user."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The result of `run_evaluation`.

    Attributes:
        report: the scores.
        settings: the configuration, with the values that were used in place of defaults, such as those of a benchmark.
        left_out: number of problems that were left out because they have images and the model reads only text.
    """

    report: Report
    settings: EvaluateConfig
    left_out: int

    def figures(self) -> dict[str, Any]:
        """Return settings and results as JSON values."""
        settings = self.settings.model_dump(mode="json", exclude={"store", "source"})
        return {"settings": settings, "left_out": self.left_out, **self.report.figures()}


def run_evaluation(config: EvaluateConfig, say: Say) -> Evaluated:
    """Select problems, load the model, let it answer, grade the answers, and append the rows to `evaluations`.

    Args:
        config: model, problems, and prompt and sampling options.
        say: called with each message for the user, such as which problems are left out.

    Raises:
        ConfigError: settings, store and model do not fit together.
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
        return evaluate(
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
    """Return the prompt and sampling options that the user gives, or else those of the benchmark, if there is one."""
    said: dict[str, Any] = {}
    if benchmark is not None:
        said = {"max_new_tokens": benchmark.max_new_tokens, "instruction": benchmark.instruction}
        said["temperature"] = 0.0 if config.samples == 1 else 1.0
    given = {name: getattr(config, name) for name in PolicyOptions.model_fields}
    return {**said, **{name: value for name, value in given.items() if value is not None}}


def _read_benchmark(store: VariantStore, benchmark: Benchmark, config: EvaluateConfig, say: Say) -> None:
    """Ingest a benchmark into a store, unless the store already has it and the user names no source.

    Raises:
        ConfigError: the store has problems of this benchmark in another split than `SPLIT`.
        SourceError: the benchmark cannot be read.
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
