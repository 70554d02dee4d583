"""Decide which candidates are accepted; every rejection has its reason, every check its verdict."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diva_grpo.pipeline.checks import (
    EvaluationSets,
    Finding,
    Judge,
    OtherProblems,
    check_decontamination,
    check_duplicate,
    check_ending,
    check_format,
    check_leak,
    check_numbers,
    check_solution,
    majority,
    read_evaluation_sets,
)
from diva_grpo.pipeline.checks.steps import unlabelled
from diva_grpo.pipeline.session.work import SHARD_SIZE, Progress, one_of, shards, tell
from diva_grpo.pipeline.stages.image_variants import check_recipe
from diva_grpo.pipeline.stages.solve import Solver
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import IMAGE_KINDS, CheckName, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import Kind, Problem, Status, Variant, Verdict
from diva_grpo.schemas.replies import COST_NOTHING


@dataclass(frozen=True, slots=True)
class References:
    """What variants are compared with beside their own problem; made once, and used for any number of shards.

    Attributes:
        others: texts of all problems of the store; grows as variants pass. None compares with none.
        evaluation_sets: the questions that no variant may contain; None where the user named none.
    """

    others: OtherProblems | None = None
    evaluation_sets: EvaluationSets | None = None

    @classmethod
    def of(
        cls, store: VariantStore, config: VerifyConfig, *, variant_parts: Sequence[str] | None = None
    ) -> References:
        """What the checks of a configuration need.

        Args:
            store: the store.
            config: the checks.
            variant_parts: the parts of `variants` that count, see `VariantStore.variant_parts`; None is all.

        Raises:
            SourceError: an evaluation set cannot be read.
            ConfigError: an evaluation set has no question.
        """
        others = None
        if "duplicate" in config.checks:
            others = OtherProblems()
            problems = {problem.problem_id: problem for problem in store.problems()}
            others.add((problem, problem.text) for problem in problems.values())
            texts = store.query(
                "SELECT problem_id, text FROM variants WHERE status = 'accepted' "
                "AND kind IN ('reword', 'harder') AND text IS NOT NULL ORDER BY variant_id",
                variant_parts=variant_parts,
            )
            others.add((problems[problem_id], text) for problem_id, text in texts if problem_id in problems)
        wanted = "decontamination" in config.checks and config.evaluation_sets
        return cls(others, read_evaluation_sets(config.evaluation_sets) if wanted else None)

    def layered(self) -> References:
        """The same, with what passes from now on known to the copy alone."""
        return References(None if self.others is None else OtherProblems(self.others), self.evaluation_sets)


def verify(
    store: VariantStore,
    solver: Solver | None,
    config: VerifyConfig,
    *,
    judge: Judge | None = None,
    references: References | None = None,
    problem_ids: Sequence[str] | None = None,
    where: str | None = None,
    kinds: Collection[Kind] = tuple(Kind),
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Counter[str]:
    """Give every candidate its terminal status: accepted, rejected (a check), or failed (no verdict).

    Cheap checks run first and spare the solver, which spares the judge; `verdicts` keeps what each check said.
    Of a perturbed image there is one check, always made: `recipe`. Its answer is the original's by rule.

    Args:
        store: where candidates come from and verdicts go.
        solver: for the `answer` check of rewritten texts; may be None where there are none, see `has_texts`.
        config: the checks.
        judge: for the check `judge`; see `Judge.for_verify`.
        references: what to compare with; default what is in the store and the evaluation sets now.
        problem_ids: only variants of these; default all.
        where: an SQL condition on `problems`.
        kinds: only candidates of these.
        shard_size: problems whose verdicts are written together.
        progress: told of every variant that is decided, or solved.

    Returns:
        Variants by new status.

    Raises:
        ConfigError: the check `judge` without a judge, an evaluation set without a question, or a condition
            that is no SQL.
        SourceError: an evaluation set cannot be read.

    Example:
        >>> teacher = TeacherConfig(model="gpt-4.1-mini")
        >>> verify(store, TeacherSolver(store, teacher), VerifyConfig())
        Counter({'accepted': 30})
    """
    if "judge" in config.checks and judge is None:
        raise ConfigError("the check `judge` needs a judge: see Judge.for_verify")
    counts: Counter[str] = Counter()
    ids = [problem.problem_id for problem in store.problems(problem_ids, where=where)]
    for shard in shards(ids, shard_size):
        round_ = _Round.of_problems(store, config, shard, kinds)
        if round_ is None:
            continue
        references = references or References.of(store, config)
        solved = 0

        def on_solved(done: int) -> None:
            nonlocal solved
            solved += done
            if progress:
                progress(done)

        passed = round_.alone(references)
        passed = round_.solved(passed, solver, one_of(config.solver_samples, on_solved))
        if judge is not None:
            passed = round_.judged(passed, judge)
        for variant in [*passed, *round_.perturbed()]:
            round_.settle(variant, Status.ACCEPTED, None)
        store.append(round_.verdicts)
        store.append(round_.decided)
        settled = Counter(str(variant.status) for variant in round_.decided)
        counts += settled
        if progress:
            progress(len(round_.decided) - solved)
        tell(progress, settled)
    return counts


_UNDECIDED = (
    "(status = 'candidate' OR (status = 'failed' AND text IS NOT NULL "
    "AND (? OR regexp_matches(coalesce(reason, ''), ?))))"
)
"""SQL: variants that wait for a verdict, or did not get one since requests failed on their way."""


def count_undecided(store: VariantStore, config: VerifyConfig, where: str | None = None) -> int:
    """How many variants `verify` would decide.

    Raises:
        ConfigError: the condition is no SQL.
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
