"""Accuracy of a model on the problems of a split: overall, by difficulty and by kind of variant.

    variants = accepted_variants(store, problems, ["reword"])
    report = evaluate(store, solver, problems, samples=4, run_id="eval-1", step=0, variants=variants)
    print(report.tables())

All means and standard errors are over problems, because several answers to a problem, or answers to its variants, are
not independent of each other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from diva_grpo.pipeline.difficulty.tiers import tier_of
from diva_grpo.pipeline.grade import grade
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.database import quoted
from diva_grpo.pipeline.store.label_model import BY_LABEL_MODEL
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.question import Question, question_of
from diva_grpo.schemas.records import Evaluation, Kind, Problem, Status, Variant
from diva_grpo.schemas.replies import Answer, Reply
from diva_grpo.trainer.evaluation.policy import PolicySolver

ALL_KINDS = "all"
_BANDS = ("easy (below 4)", "medium (4 to 6)", "hard (above 6)")


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy over problems.

    Attributes:
        problems: number of problems.
        samples: number of answers to each question.
        pass_at_1: mean over problems of the share of right answers.
        standard_error: standard error of `pass_at_1` over problems; NaN for a single problem.
        pass_at_k: by k (powers of 2 up to 64 and `samples`), the probability that at least one of k answers is right
            (unbiased estimate, arXiv 2107.03374, equation 1), as mean over problems.
        pass_at_k_error: by k, the standard error of `pass_at_k`.
        questions: number of questions: the problems, or their variants of one kind.
    """

    problems: int
    samples: int
    pass_at_1: float
    standard_error: float
    pass_at_k: dict[int, float]
    pass_at_k_error: dict[int, float]
    questions: int


@dataclass(frozen=True, slots=True)
class KindScore:
    """Accuracy on the variants of one kind, compared with that on the originals of the same problems.

    Attributes:
        variants: score on the variants. The value of a problem is the mean over its variants.
        originals: score on the originals of these problems.
        gain: pass@1 on the variants minus pass@1 on the originals.
        gain_error: standard error of `gain`, paired by problem; NaN for a single problem.
    """

    variants: Score
    originals: Score
    gain: float
    gain_error: float


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one evaluation.

    Attributes:
        run_id: run id of the rows in the table `evaluations`.
        step: training step of the model in that run.
        overall: score on all problems.
        by_difficulty: score by difficulty, in ascending order: first by band of the label, then, for problems without a
            label, by the level that the source states. Problems with neither are left out.
        by_kind: score on accepted variants by kind. Kinds without variants are left out.
        ungraded: number of answers that the grader could not decide or the model could not give. They count as wrong.
    """

    run_id: str
    step: int
    overall: Score
    by_difficulty: dict[str, Score]
    by_kind: dict[str, KindScore]
    ungraded: int

    def tables(self) -> str:
        """Return the results as aligned text tables."""
        shown = _table("", {"all": self.overall, **self.by_difficulty})
        if not self.by_kind:
            return shown
        kinds = self.by_kind.values()
        more: dict[str, list[object]] = {
            "variants": [kind.variants.questions for kind in kinds],
            "originals": [_with_error(k.originals.pass_at_1, k.originals.standard_error) for k in kinds],
            "gain": [_with_error(kind.gain, kind.gain_error, sign="+") for kind in kinds],
        }
        return f"{shown}\n\n{_table('kind', {k: of.variants for k, of in self.by_kind.items()}, more)}"

    def figures(self) -> dict[str, Any]:
        """Return the results as JSON values. NaN, the standard error for a single problem, becomes None."""
        return {name: _without_nan(part) for name, part in asdict(self).items()}


def score(correct_P: Sequence[int], samples: int) -> Score:
    """Return the score on problems with one question each.

    Args:
        correct_P: number of right answers to each problem.
        samples: number of answers to each problem.

    Raises:
        ValueError: there are no problems.
    """
    return _score([[correct] for correct in correct_P], samples)


def _score(correct_PV: Sequence[Sequence[int]], samples: int) -> Score:
    """Return the score on problems with one or more questions each.

    Args:
        correct_PV: for each problem, the number of right answers to each of its questions.
        samples: number of answers to each question.

    Raises:
        ValueError: there are no problems.
    """
    if not correct_PV:
        raise ValueError("no problems to score")
    powers = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    means = {k: _mean([_pass_of_problem(v, samples, k) for v in correct_PV]) for k in powers}
    return Score(
        problems=len(correct_PV),
        samples=samples,
        pass_at_1=means[1][0],
        standard_error=means[1][1],
        pass_at_k={k: mean for k, (mean, _) in means.items()},
        pass_at_k_error={k: error for k, (_, error) in means.items()},
        questions=sum(len(v) for v in correct_PV),
    )


def _mean(values_P: Sequence[float]) -> tuple[float, float]:
    """Return the mean over problems and its standard error, which is NaN for a single problem."""
    array_P = np.asarray(values_P, np.float64)
    error = float(array_P.std(ddof=1) / math.sqrt(len(array_P))) if len(array_P) > 1 else math.nan
    return float(array_P.mean()), error


def _pass_of_problem(correct_V: Sequence[int], samples: int, k: int) -> float:
    return float(np.mean([_pass_at(correct, samples, k) for correct in correct_V]))


def _pass_at(correct: int, samples: int, k: int) -> float:
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


# --- problems and variants


def select_problems(store: VariantStore, *, split: str, where: str | None = None) -> list[Problem]:
    """Return the problems of a split, in the order of their ids.

    Args:
        store: the store.
        split: split of the problems.
        where: an SQL condition on the columns of `problems`, such as `source = 'gsm8k'`; None for no condition.

    Raises:
        ConfigError: there is no such split, no problem fits, or the condition is not valid SQL.
    """
    splits = [name for (name,) in store.query("SELECT DISTINCT split FROM problems ORDER BY 1")]
    if split not in splits:
        raise ConfigError(f"no split {split!r}: the store has {', '.join(splits) or 'no problems'}")
    found = store.problems(where=f"split = {quoted(split)} AND ({where or 'true'})")
    if not found:
        raise ConfigError(f"no problem of split {split!r} fits the condition {where}")
    return found


def readable_problems(problems: Sequence[Problem], solver: PolicySolver) -> list[Problem]:
    """Return the problems that a model can read: all, or those without images if it reads only text.

    Raises:
        ConfigError: all problems have images, and the model reads only text.
    """
    readable = [problem for problem in problems if solver.reads_images or not problem.images]
    if not readable:
        raise ConfigError(
            f"all {len(problems)} problems have images, and the model reads text alone: evaluate a "
            "vision-language model"
        )
    return readable


def chosen_kinds(names: str) -> list[str]:
    """Return the kinds of variants in a comma-separated list; all kinds if the list contains `all`.

    Raises:
        ConfigError: there is no kind of a name in the list.
    """
    known = [str(kind) for kind in Kind]
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in [*known, ALL_KINDS]:
            raise ConfigError(f"no kind {name!r} to evaluate on: choose {', '.join(known)} or {ALL_KINDS}")
    return known if ALL_KINDS in chosen else list(dict.fromkeys(chosen))


def accepted_variants(
    store: VariantStore, problems: Sequence[Problem], kinds: Sequence[str]
) -> list[Variant]:
    """Return the accepted variants of the given problems and kinds, in the order of their ids."""
    condition = (
        f"status = '{Status.ACCEPTED}' AND kind IN (SELECT unnest(?)) AND problem_id IN (SELECT unnest(?))"
    )
    ids = [problem.problem_id for problem in problems]
    return store.read(Variant, condition, [list(kinds), ids]) if kinds else []


def _difficulty_bands(store: VariantStore, problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Return problem ids by difficulty: by the label of the store's label model, or else by the level of the source."""
    labels = dict(store.query(f"SELECT subject_id, difficulty FROM labels WHERE {BY_LABEL_MODEL}"))
    bands: defaultdict[tuple[int, float], list[str]] = defaultdict(list)
    for problem in problems:
        difficulty = labels.get(problem.problem_id)
        if difficulty is not None:
            bands[0, tier_of(difficulty)].append(problem.problem_id)
        elif problem.human_level is not None:
            bands[1, problem.human_level].append(problem.problem_id)
    return {
        f"level {place:g}" if stated else _BANDS[int(place)]: ids
        for (stated, place), ids in sorted(bands.items())
    }


# --- evaluation


def evaluate(
    store: VariantStore,
    solver: PolicySolver,
    problems: Sequence[Problem],
    *,
    samples: int,
    run_id: str,
    step: int,
    variants: Sequence[Variant] = (),
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Let a model answer problems and variants, grade the answers, and append a row per problem to `evaluations`.

    Args:
        store: the store with the labels and images, to which the rows are appended.
        solver: the model.
        problems: problems to answer.
        samples: number of answers to each question.
        run_id: id of the training run of the model, or else of the evaluation.
        step: training step of the model in that run.
        variants: variants of these problems to answer too. No rows are stored for them.
        progress: called with the number of answers finished since the last call.

    Raises:
        ValueError: there are no problems.
        StoreError: an image is missing.
    """
    by_id = {problem.problem_id: problem for problem in problems}
    questions = [question_of(problem) for problem in problems]
    questions += [question_of(by_id[variant.problem_id], variant) for variant in variants]
    answers = solver.solve(questions, samples, progress)
    correct: dict[str, int] = {}
    ungraded = 0
    for question, given in zip(questions, answers, strict=True):
        outcomes = [_outcome(answer, question) for answer in given]
        correct[question.subject_id] = outcomes.count("correct")
        ungraded += outcomes.count("error")
    store.append(list(_rows(problems, correct, samples, run_id, step)))
    return Report(
        run_id=run_id,
        step=step,
        overall=score([correct[problem.problem_id] for problem in problems], samples),
        by_difficulty={
            band: score([correct[problem_id] for problem_id in ids], samples)
            for band, ids in _difficulty_bands(store, problems).items()
        },
        by_kind=_by_kind(variants, correct, samples),
        ungraded=ungraded,
    )


def _outcome(answer: Answer[Reply], question: Question) -> str:
    return (
        "error" if answer.failure else grade(answer.text, question.answer, options=question.options).outcome
    )


def _rows(
    problems: Sequence[Problem], correct: Mapping[str, int], samples: int, run_id: str, step: int
) -> Iterator[Evaluation]:
    for problem in problems:
        yield Evaluation(
            run_id=run_id,
            step=step,
            split=problem.split,
            problem_id=problem.problem_id,
            samples=samples,
            correct=correct[problem.problem_id],
        )


def _by_kind(variants: Sequence[Variant], correct: Mapping[str, int], samples: int) -> dict[str, KindScore]:
    grouped: dict[str, defaultdict[str, list[int]]] = {}
    for variant in variants:
        of_problem = grouped.setdefault(str(variant.kind), defaultdict(list))
        of_problem[variant.problem_id].append(correct[variant.variant_id])
    scores = {}
    for kind, of_problem in sorted(grouped.items()):
        gains_P = [
            (float(np.mean(of_variants)) - correct[problem_id]) / samples
            for problem_id, of_variants in of_problem.items()
        ]
        gain, error = _mean(gains_P)
        scores[kind] = KindScore(
            variants=_score(list(of_problem.values()), samples),
            originals=score([correct[problem_id] for problem_id in of_problem], samples),
            gain=gain,
            gain_error=error,
        )
    return scores


# --- tables


def _with_error(value: float, error: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")


def _table(
    heading: str, scores: Mapping[str, Score], more: Mapping[str, Sequence[object]] | None = None
) -> str:
    """Return a text table with one row per score, and the columns of `more` at the end."""
    powers = list(next(iter(scores.values())).pass_at_k)
    rows = [
        [name, of.problems, *(_with_error(of.pass_at_k[k], of.pass_at_k_error[k]) for k in powers)]
        for name, of in scores.items()
    ]
    headers = [heading, "problems", *(f"pass@{k}" for k in powers), *(more or {})]
    for row, *further in zip(rows, *(more or {}).values(), strict=True):
        row.extend(further)
    aligned = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=aligned)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
