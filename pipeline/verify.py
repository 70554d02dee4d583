"""Decide which candidates are accepted; every rejection has its reason, every check its verdict."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from pipeline.checks import Finding, check_duplicate, check_format, check_leak, identity
from pipeline.grade import grade
from pipeline.solve import Solver
from pipeline.store import VariantStore
from pipeline.work import Progress, shards
from schemas.config import CheckName, VerifyConfig
from schemas.question import question_of
from schemas.records import Kind, Problem, Status, Variant, Verdict
from schemas.replies import Answer, Reply


def verify(
    store: VariantStore,
    solver: Solver,
    config: VerifyConfig,
    *,
    problem_ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Counter[str]:
    """Give every candidate its terminal status: accepted, rejected (a check), or failed (no verdict).

    Cheap checks run first and spare the solver; `verdicts` keeps what each check said.

    Args:
        store: where candidates come from and verdicts go.
        solver: for the `answer` check of rewritten texts.
        config: the checks.
        problem_ids: only variants of these; default all.
        progress: told of every answer of the solver.

    Returns:
        Variants by new status.
    """
    counts: Counter[str] = Counter()
    ids = [problem.problem_id for problem in store.problems(problem_ids)]
    for shard in shards(ids):
        counts += _verify_shard(store, solver, config, shard, progress)
    return counts


def _verify_shard(
    store: VariantStore,
    solver: Solver,
    config: VerifyConfig,
    problem_ids: Sequence[str],
    progress: Progress | None,
) -> Counter[str]:
    # A failed variant without a text is one that the teacher did not write: `generate` asks for it again.
    where = "problem_id IN (SELECT unnest(?)) AND status <> 'rejected' AND NOT (status = 'failed' AND text IS NULL)"
    variants = store.read(Variant, where, [list(problem_ids)])
    undecided = {Status.CANDIDATE, Status.FAILED} if config.retry_failed else {Status.CANDIDATE}
    candidates = [v for v in variants if v.status in undecided]
    if not candidates:
        return Counter()
    problems = {p.problem_id: p for p in store.problems(sorted({v.problem_id for v in candidates}))}
    decided = _Decisions()
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for variant in variants:
        if variant.status == Status.ACCEPTED:
            seen[variant.problem_id].add(identity(variant))
    waiting = []
    for variant in candidates:
        problem = problems[variant.problem_id]
        if decided.passes(variant, problem, config.checks, seen[variant.problem_id]):
            seen[variant.problem_id].add(identity(variant))
            waiting.append(variant)
    if "answer" in config.checks:
        texts = _check_own_answers(decided, waiting, problems)
        questions = [question_of(problems[v.problem_id], v) for v in texts]
        answers = solver.solve(questions, config.solver_samples, progress)
        for variant, given in zip(texts, answers, strict=True):
            finding = _majority(given, problems[variant.problem_id])
            if decided.note(variant, "answer", finding, solver.model):
                decided.accept(variant)
    else:
        for variant in waiting:
            decided.accept(variant)
    store.append(decided.verdicts)
    store.append(decided.variants)
    return Counter(str(v.status) for v in decided.variants)


class _Decisions:
    """Verdicts, and the variants with their new status, of one shard."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.variants: list[Variant] = []

    def passes(self, variant: Variant, problem: Problem, checks: Sequence[CheckName], seen: set[str]) -> bool:
        """Whether a variant passes the checks that need no model; the first failure settles it."""
        for name in checks:
            if name == "format":
                finding = check_format(variant, problem)
            elif name == "leak":
                finding = check_leak(variant, problem)
            elif name == "duplicate":
                finding = check_duplicate(variant, problem, seen)
            else:
                continue
            if not self.note(variant, name, finding):
                return False
        return True

    def note(self, variant: Variant, name: str, finding: Finding, model: str = "", sample: int = 0) -> bool:
        """Keep a verdict; a failed one rejects the variant."""
        verdict = Verdict(
            variant_id=variant.variant_id,
            check_name=name,
            model=model,
            sample=sample,
            passed=finding.passed,
            detail=finding.detail,
        )
        self.verdicts.append(verdict)
        if finding.passed is False:
            self._settle(variant, Status.REJECTED, f"{name}: {finding.detail}")
        elif finding.passed is None:
            self._settle(variant, Status.FAILED, f"{name}: {finding.detail}")
        return finding.passed is True

    def accept(self, variant: Variant) -> None:
        """The variant passed all that was asked."""
        self._settle(variant, Status.ACCEPTED, None)

    def _settle(self, variant: Variant, status: Status, reason: str | None) -> None:
        self.variants.append(variant.model_copy(update={"status": status.value, "reason": reason}))


def _check_own_answers(
    decided: _Decisions, variants: Sequence[Variant], problems: dict[str, Problem]
) -> list[Variant]:
    """The `answer` check of think steps, whose solution states its own; returns the others."""
    texts = []
    for variant in variants:
        if variant.kind != Kind.THINK_STEP:
            texts.append(variant)
        elif decided.note(variant, "answer", _own_answer(variant, problems[variant.problem_id])):
            decided.accept(variant)
    return texts


def _own_answer(variant: Variant, problem: Problem) -> Finding:
    """Whether a hint's solution ends at the reference answer."""
    graded = grade(f"\\boxed{{{variant.solution_answer}}}", problem.answer, options=problem.options)
    if graded.outcome == "error":
        return Finding(None, f"the grader could not decide: {graded.how}")
    if graded.outcome == "correct":
        return Finding(True)
    return Finding(False, f"the solution ends at {variant.solution_answer!r}, not {problem.answer!r}")


def _majority(given: Sequence[Answer[Reply]], problem: Problem) -> Finding:
    """Whether the most common of independent answers is the reference, without a tie."""
    failures = [answer.failure for answer in given if answer.failure]
    graded = [grade(a.text, problem.answer, options=problem.options) for a in given if not a.failure]
    votes = Counter(
        "reference" if g.outcome == "correct" else repr(g.answer) if g.answer else "nothing"
        for g in graded
        if g.outcome != "error"
    )
    if not votes:
        return Finding(None, failures[0] if failures else "the grader could not decide")
    (first, count), *others = votes.most_common(2)
    if others and others[0][1] == count:
        return Finding(False, f"the solver is of two minds: {first} and {others[0][0]}")
    if first == "reference":
        return Finding(True, f"{count} of {len(given)}")
    return Finding(False, f"the solver answers {first}, not {problem.answer!r}")
