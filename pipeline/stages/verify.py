"""Decide which candidates are accepted. Every rejection has a reason, and every check writes a verdict."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from diva_grpo.pipeline.checks import (
    Finding,
    check_decontamination,
    check_duplicate,
    check_ending,
    check_format,
    check_leak,
    check_numbers,
    check_solution,
    majority,
)
from diva_grpo.pipeline.checks.steps import unlabelled
from diva_grpo.pipeline.session.references import References
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.image_variants import check_recipe
from diva_grpo.pipeline.stages.judge import Judge
from diva_grpo.pipeline.stages.solve import VERIFICATION, Solver, TeacherSolver
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.progress import Progress
from diva_grpo.schemas.config import IMAGE_KINDS, CheckName, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import Kind, Problem, Status, Variant, Verdict
from diva_grpo.schemas.replies import COST_NOTHING


def decide(
    session: Session,
    config: VerifyConfig,
    problem_ids: Sequence[str],
    *,
    solver: Solver | None = None,
    kinds: Collection[Kind] = tuple(Kind),
) -> Counter[str]:
    """Decide on every candidate of some problems: accepted, rejected (a check failed) or failed (no verdict).

    The checks run in order of their cost: those without a model first, then the solver, then the judge. A variant that
    fails a check goes to no further one. The verdicts are written to the table `verdicts`. Image variants have only
    the check `recipe`, which always runs: their answer is the same as the original's by construction.

    Args:
        session: its solver answers rewritten texts. The judge is at the same endpoint, unless configured otherwise.
        config: the checks.
        problem_ids: the problems of a shard.
        solver: used instead of the session's solver.
        kinds: decide only on candidates of these kinds.

    Returns:
        Number of variants by new status.

    Raises:
        ConfigError: a check needs a model and there is none, or a held-out set has no question.
        SourceError: a held-out set cannot be read.
    """
    store = session.store
    round_ = _Round.of_problems(store, config, problem_ids, kinds)
    if round_ is None:
        return Counter()
    if solver is None and session.solver is not None:
        solver = TeacherSolver(session.solver, VERIFICATION)
    references, solved = session.references(config), 0

    def on_solved(done: int) -> None:
        nonlocal solved
        solved += done
        session.meter.count("variants", done)

    with references.lock:
        passed = round_.alone(references)
    passed = round_.solved(passed, solver, _one_of(config.solver_samples, on_solved))
    judge = Judge.for_verify(session, config)
    if judge is not None:
        passed = round_.judged(passed, judge)
    for variant in [*passed, *round_.perturbed()]:
        round_.settle(variant, Status.ACCEPTED, None)
    decided = session.decided(round_.decided)
    store.append(round_.verdicts)
    store.append(decided)
    settled = Counter(str(variant.status) for variant in decided)
    session.meter.failed(variant.reason for variant in decided if variant.status == Status.FAILED)
    session.meter.count("variants", len(decided) - solved)
    session.meter.tell("verified", settled)
    return settled


def _one_of(every: int, progress: Progress) -> Progress:
    """A progress callback for answers that reports one to `progress` for every `every` answers.

    A variant has `every` answers, and `progress` counts variants.
    """
    told = 0

    def tell_some(done: int) -> None:
        nonlocal told
        before, told = told, told + done
        progress(told // every - before // every)

    return tell_some


_UNDECIDED = (
    "(status = 'candidate' OR (status = 'failed' AND text IS NOT NULL "
    "AND (? OR regexp_matches(coalesce(reason, ''), ?))))"
)
"""SQL condition: variants that wait for a verdict, or that failed without one and are to be decided again.

Its parameters are `retry_failed` and `COST_NOTHING`.
"""


def count_undecided(store: VariantStore, config: VerifyConfig, where: str | None = None) -> int:
    """Number of variants that `verify` would decide.

    Args:
        store: the store.
        config: the checks.
        where: an SQL condition on `problems`; None for all problems.

    Raises:
        ConfigError: the condition is not valid SQL.
    """
    store.problems(where=where, limit=1)  # raises a one-line error if the condition is invalid
    [(count,)] = store.query(
        f"SELECT count(*) FROM variants WHERE {_UNDECIDED} "
        f"AND problem_id IN (SELECT problem_id FROM problems WHERE ({where or 'true'}))",
        [config.retry_failed, COST_NOTHING],
    )
    return int(count)


def undecided(
    store: VariantStore, config: VerifyConfig, problem_ids: Sequence[str], kinds: Collection[Kind]
) -> set[str]:
    """Those of some problems that have variants of these kinds on which `decide` would decide."""
    rows = store.query(
        f"SELECT DISTINCT problem_id FROM variants WHERE {_UNDECIDED} "
        "AND problem_id IN (SELECT unnest(?)) AND kind IN (SELECT unnest(?))",
        [config.retry_failed, COST_NOTHING, list(problem_ids), [str(kind) for kind in kinds]],
    )
    return {problem_id for (problem_id,) in rows}


def has_texts(store: VariantStore, config: VerifyConfig) -> bool:
    """Whether a variant with a rewritten text or a hint waits for a verdict. Image variants do not count."""
    rows = store.query(
        f"SELECT 1 FROM variants WHERE {_UNDECIDED} AND kind NOT IN (SELECT unnest(?)) AND text IS NOT NULL LIMIT 1",
        [config.retry_failed, COST_NOTHING, list(IMAGE_KINDS)],
    )
    return bool(rows)


def _is_undecided(variant: Variant, config: VerifyConfig) -> bool:
    """The condition `_UNDECIDED` in Python, for a variant with a text."""
    if variant.status != Status.FAILED:
        return variant.status == Status.CANDIDATE
    return config.retry_failed or re.search(COST_NOTHING, variant.reason or "") is not None


class _Round:
    """The candidates of one shard, and the verdicts and decisions on them.

    Args:
        config: the checks.
        problems: the problems of the shard, by id.
        variants: all variants of these problems that were not rejected.
        kinds: only variants of these kinds are candidates.

    Attributes:
        verdicts: the verdicts so far.
        decided: the decided variants, with their new status.
    """

    def __init__(
        self,
        config: VerifyConfig,
        problems: Mapping[str, Problem],
        variants: Sequence[Variant],
        kinds: Collection[Kind],
    ) -> None:
        self._checks, self._samples = config.checks, config.solver_samples
        self._problems = problems
        self._variants = variants
        self._candidates = [v for v in variants if v.kind in kinds and _is_undecided(v, config)]
        self.verdicts: list[Verdict] = []
        self.decided: list[Variant] = []

    @classmethod
    def of_problems(
        cls, store: VariantStore, config: VerifyConfig, problem_ids: Sequence[str], kinds: Collection[Kind]
    ) -> _Round | None:
        """The round of some problems; None if they have no candidate of these kinds."""
        # A failed variant without a text stands for a failed request of the teacher; `generate` sends it again.
        where = (
            "problem_id IN (SELECT unnest(?)) AND status <> 'rejected' "
            "AND NOT (status = 'failed' AND text IS NULL)"
        )
        variants = store.read(Variant, where, [list(problem_ids)])
        made = cls(config, {p.problem_id: p for p in store.problems(problem_ids)}, variants, kinds)
        return made if made._candidates else None

    def perturbed(self) -> list[Variant]:
        """Run the check `recipe` on the image candidates; returns those that pass."""
        return [
            v
            for v in self._candidates
            if v.kind in IMAGE_KINDS
            and self._note(v, "recipe", check_recipe(v, self._problems[v.problem_id]))
        ]

    def alone(self, references: References) -> list[Variant]:
        """Run the checks that need no model on the other candidates; returns those that pass.

        The checks of a candidate stop at the first one that it fails. Later candidates are compared with those that
        have passed, too.
        """
        siblings: defaultdict[str, list[Variant]] = defaultdict(list)
        for variant in self._variants:
            if variant.status == Status.ACCEPTED and variant.kind not in IMAGE_KINDS:
                siblings[variant.problem_id].append(variant)
        others, sets = references.others, references.evaluation_sets
        checks: dict[CheckName, Callable[[Variant, Problem], Finding]] = {
            "format": check_format,
            "leak": check_leak,
            "numbers": check_numbers,
            "duplicate": lambda v, p: check_duplicate(v, p, siblings[v.problem_id], others),
        }
        if sets is not None:
            checks["decontamination"] = lambda v, p: check_decontamination(v, p, sets)
        wanted = [(name, check) for name, check in checks.items() if name in self._checks]
        passed = []
        for variant in self._candidates:
            if variant.kind in IMAGE_KINDS:
                continue
            problem = self._problems[variant.problem_id]
            if all(self._note(variant, name, check(variant, problem)) for name, check in wanted):
                passed.append(variant)
                siblings[variant.problem_id].append(variant)
                if others is not None and variant.kind != Kind.THINK_STEP:
                    others.add([(problem, variant.text or "")])
        return passed

    def solved(
        self, variants: Sequence[Variant], solver: Solver | None, progress: Progress | None
    ) -> list[Variant]:
        """Run the check `answer`; returns the variants that pass.

        For a rewritten text, the solver's most common answer must be the reference answer (see `majority`). For a hint,
        the solution that it is taken from must be right (see `check_solution`).

        Args:
            variants: the variants that passed so far.
            solver: answers the rewritten texts.
            progress: called with the number of newly finished answers.

        Raises:
            ConfigError: the check is on and there is no solver.
        """
        if "answer" not in self._checks or not variants:
            return list(variants)
        if solver is None:
            raise ConfigError("the check `answer` needs a solver: name a model")
        texts = [v for v in variants if v.kind != Kind.THINK_STEP]
        questions = [question_of(self._problems[v.problem_id], v) for v in texts]
        answers = solver.solve(questions, self._samples, progress)
        findings = {
            v.variant_id: majority(given, self._problems[v.problem_id])
            for v, given in zip(texts, answers, strict=True)
        }
        passed = []
        for variant in variants:
            finding = findings.get(variant.variant_id) or self._own_answer(variant)
            model = solver.model if variant.variant_id in findings else ""
            if self._note(variant, "answer", finding, model):
                passed.append(variant)
        return passed

    def _own_answer(self, variant: Variant) -> Finding:
        """The finding of `answer` for a hint, from the longest known part of the solution that it is taken from."""
        problem = self._problems[variant.problem_id]
        longest = max((v.hint for v in self._variants if _same_solution(v, variant)), key=len)
        whole = [unlabelled(step) for step in longest]
        finding = check_solution(whole, variant.solution_answer, problem)
        if finding.passed and len(whole) == variant.hint_total:
            finding = check_ending(whole[-1], problem)
        return finding

    def judged(self, variants: Sequence[Variant], judge: Judge) -> list[Variant]:
        """Run the check `judge`; returns the variants that pass. Hints always pass: their question is unchanged."""
        texts = [v for v in variants if v.kind != Kind.THINK_STEP]
        findings = judge.compare([(v, self._problems[v.problem_id]) for v in texts])
        said = {v.variant_id: finding for v, finding in zip(texts, findings, strict=True)}
        return [
            v
            for v in variants
            if v.variant_id not in said or self._note(v, "judge", said[v.variant_id], judge.model)
        ]

    def _note(
        self, variant: Variant, name: CheckName | Literal["recipe"], finding: Finding, model: str = ""
    ) -> bool:
        """Add a verdict; returns whether the check passed. If it did not, the variant is rejected or failed."""
        self.verdicts.append(
            Verdict(
                variant_id=variant.variant_id,
                check_name=name,
                model=model,
                passed=finding.passed,
                detail=finding.detail,
            )
        )
        if finding.passed is not True:
            status = Status.REJECTED if finding.passed is False else Status.FAILED
            self.settle(variant, status, f"{name}: {finding.detail}")
        return finding.passed is True

    def settle(self, variant: Variant, status: Status, reason: str | None) -> None:
        """Add the variant to `decided`, with its new status and the reason."""
        self.decided.append(variant.model_copy(update={"status": status.value, "reason": reason}))


def _same_solution(other: Variant, variant: Variant) -> bool:
    """Whether two variants are hints from the same solution."""
    shorter = min(len(other.hint), len(variant.hint))
    return (
        other.kind == Kind.THINK_STEP
        and (other.problem_id, other.generator_model, other.hint_total, other.solution_answer)
        == (variant.problem_id, variant.generator_model, variant.hint_total, variant.solution_answer)
        and other.hint[:shorter] == variant.hint[:shorter]
    )
