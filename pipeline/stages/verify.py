"""Decide which candidates are accepted; every rejection has its reason, every check its verdict."""

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
from diva_grpo.pipeline.stages.solve import VERIFICATION, Progress, Solver, TeacherSolver
from diva_grpo.pipeline.store import VariantStore
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
    """Give every candidate of some problems its terminal status: accepted, rejected (a check), or failed (no verdict).

    Cheap checks run first and spare the solver, which spares the judge; `verdicts` keeps what each check said.
    Of a perturbed image there is one check, always made: `recipe`. Its answer is the original's by rule.

    Args:
        session: its solver (and a judge at the same endpoint) is asked of rewritten texts.
        config: the checks.
        problem_ids: of a shard.
        solver: asked in the place of the session's.
        kinds: only candidates of these.

    Returns:
        Variants by new status.

    Raises:
        ConfigError: a check that needs a model without one, or an evaluation set without a question.
        SourceError: an evaluation set cannot be read.
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
    session.meter.count("variants", len(decided) - solved)
    session.meter.tell("verified", settled)
    return settled


def _one_of(every: int, progress: Progress) -> Progress:
    """A progress callback that counts one for every `every` answers, since progress counts questions."""
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
"""SQL: variants that wait for a verdict, or did not get one since requests failed on their way."""


def count_undecided(store: VariantStore, config: VerifyConfig, where: str | None = None) -> int:
    """How many variants `verify` would decide.

    Raises:
        ConfigError: the condition is not valid SQL.
    """
    store.problems(where=where, limit=1)  # says in one line what is wrong with the condition
    [(count,)] = store.query(
        f"SELECT count(*) FROM variants WHERE {_UNDECIDED} "
        f"AND problem_id IN (SELECT problem_id FROM problems WHERE ({where or 'true'}))",
        [config.retry_failed, COST_NOTHING],
    )
    return int(count)


def has_texts(store: VariantStore, config: VerifyConfig) -> bool:
    """Whether a written variant waits for a verdict; perturbed images need no model."""
    rows = store.query(
        f"SELECT 1 FROM variants WHERE {_UNDECIDED} AND kind NOT IN (SELECT unnest(?)) AND text IS NOT NULL LIMIT 1",
        [config.retry_failed, COST_NOTHING, list(IMAGE_KINDS)],
    )
    return bool(rows)


def _is_undecided(variant: Variant, config: VerifyConfig) -> bool:
    """As `_UNDECIDED`, of a variant with a text."""
    if variant.status != Status.FAILED:
        return variant.status == Status.CANDIDATE
    return config.retry_failed or re.search(COST_NOTHING, variant.reason or "") is not None


class _Round:
    """The candidates of one shard, their verdicts, and what was decided.

    Args:
        config: the checks.
        problems: the candidates' problems by id.
        variants: all variants of these that were not rejected.
        kinds: of the candidates.
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
        """None where these problems have no candidate of these kinds."""
        # A failed variant without a text is one that the teacher did not write: `generate` asks for it again.
        where = (
            "problem_id IN (SELECT unnest(?)) AND status <> 'rejected' "
            "AND NOT (status = 'failed' AND text IS NULL)"
        )
        variants = store.read(Variant, where, [list(problem_ids)])
        made = cls(config, {p.problem_id: p for p in store.problems(problem_ids)}, variants, kinds)
        return made if made._candidates else None

    def perturbed(self) -> list[Variant]:
        """The image variants whose operations suit their problem."""
        return [
            v
            for v in self._candidates
            if v.kind in IMAGE_KINDS
            and self._note(v, "recipe", check_recipe(v, self._problems[v.problem_id]))
        ]

    def alone(self, references: References) -> list[Variant]:
        """The written candidates that pass the checks without a model; the first failure settles each."""
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
        """The variants that pass `answer`: think steps by their own solution, texts by independent ones."""
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
        """`answer` of a hint: its solution is judged as a whole, wherever the hint ends."""
        problem = self._problems[variant.problem_id]
        longest = max((v.hint for v in self._variants if _same_solution(v, variant)), key=len)
        whole = [unlabelled(step) for step in longest]
        finding = check_solution(whole, variant.solution_answer, problem)
        if finding.passed and len(whole) == variant.hint_total:
            finding = check_ending(whole[-1], problem)
        return finding

    def judged(self, variants: Sequence[Variant], judge: Judge) -> list[Variant]:
        """The variants that pass `judge`; a think step's question is the original itself."""
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
        """Keep a verdict; one that is not a pass settles the variant."""
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
        """The variant's record with its new status."""
        self.decided.append(variant.model_copy(update={"status": status.value, "reason": reason}))


def _same_solution(other: Variant, variant: Variant) -> bool:
    """Whether two hints are parts of one solution."""
    shorter = min(len(other.hint), len(variant.hint))
    return (
        other.kind == Kind.THINK_STEP
        and (other.problem_id, other.generator_model, other.hint_total, other.solution_answer)
        == (variant.problem_id, variant.generator_model, variant.hint_total, variant.solution_answer)
        and other.hint[:shorter] == variant.hint[:shorter]
    )
