"""Label problems and accepted variants: measure the pass rate of a solver, and from it the difficulty."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from diva_grpo.pipeline.difficulty.scale import measured_difficulty
from diva_grpo.pipeline.grade import grade
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.solve import Solver
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import LABEL_MODEL
from diva_grpo.schemas.config import LabelConfig
from diva_grpo.schemas.question import Question, question_of
from diva_grpo.schemas.records import ORIGINAL, Label, Problem, Variant
from diva_grpo.schemas.replies import Answer, Reply

UNJUDGED = "unjudged"
"""Key in the counts for questions that got no label, because no answer to them could be judged."""


def measure(
    session: Session,
    solver: Solver,
    config: LabelConfig,
    problems: Sequence[Problem],
    kinds: Mapping[str, Collection[str]] | None = None,
) -> Counter[str]:
    """Label every problem of a shard and every accepted variant that this solver has not labelled yet.

    The first solver that labels anything becomes the label model of the store. With `config.label_model`, this solver
    becomes the label model in any case.

    Args:
        session: its store has the questions and gets the labels.
        solver: answers the questions.
        config: the number of samples for each question.
        problems: the problems of a shard.
        kinds: for each problem id, the kinds of variants to label; None for all variants.

    Returns:
        Number of labels by kind (`original`, or the kind of a variant), and of questions without a label (`unjudged`).
    """
    store, counts = session.store, Counter[str]()
    of_shard = "problem_id IN (SELECT unnest(?)) AND status = 'accepted'"
    variants: defaultdict[str, list[Variant]] = defaultdict(list)
    for variant in store.read(Variant, of_shard, [[problem.problem_id for problem in problems]]):
        if kinds is None or variant.kind in kinds.get(variant.problem_id, ()):
            variants[variant.problem_id].append(variant)
    subjects = [
        (kind, question)
        for problem in problems
        for kind, question in [
            (ORIGINAL, question_of(problem)),
            *((str(v.kind), question_of(problem, v)) for v in variants[problem.problem_id]),
        ]
    ]
    done = _labelled(store, solver.model, [q.subject_id for _, q in subjects], config.samples)
    subjects = [(kind, question) for kind, question in subjects if question.subject_id not in done]
    questions = [question for _, question in subjects]
    answers = solver.solve(questions, config.samples, partial(session.meter.count, "answers"))
    labels = []
    for (kind, question), given in zip(subjects, answers, strict=True):
        made = _label(kind, question, given, solver.model)
        counts[kind if made else UNJUDGED] += 1
        labels += [made] if made else []
    store.append(labels)
    session.meter.tell("labelled", {"labelled": len(labels), UNJUDGED: len(subjects) - len(labels)})
    label_model = store.setting(LABEL_MODEL)
    labelled = "SELECT 1 FROM labels WHERE solver_model = ? LIMIT 1"
    wanted = config.label_model or (label_model is None and store.query(labelled, [solver.model]))
    if wanted and label_model != solver.model:
        store.put_setting(LABEL_MODEL, solver.model)
    return counts


def count_unlabelled(
    store: VariantStore,
    model: str,
    config: LabelConfig,
    *,
    where: str | None = None,
    limit: int | None = None,
) -> int:
    """Number of answers that `label` would request from a solver.

    Args:
        store: the store.
        model: name of the solver's model.
        config: the number of samples for each question.
        where: an SQL condition on `problems`; None for all problems.
        limit: consider only the first N problems, by id; None for all.

    Raises:
        ConfigError: the condition is not valid SQL.
    """
    store.problems(where=where, limit=1)  # raises a one-line error if the condition is invalid
    chosen = f"SELECT problem_id FROM problems WHERE ({where or 'true'}) ORDER BY problem_id LIMIT ?"
    parameters = [limit if limit is not None else 2**62, model, config.samples]
    [(count,)] = store.query(f"SELECT count(*) FROM ({_UNLABELLED.format(chosen=chosen)})", parameters)
    return int(count) * config.samples


def unlabelled(store: VariantStore, model: str, config: LabelConfig, problem_ids: Sequence[str]) -> set[str]:
    """Those of some problems that `measure` would label, or of which it would label a variant."""
    sql = f"SELECT DISTINCT problem_id FROM ({_UNLABELLED.format(chosen='SELECT unnest(?) AS problem_id')})"
    return {found for (found,) in store.query(sql, [list(problem_ids), model, config.samples])}


_UNLABELLED = """
WITH chosen AS ({chosen}), subjects AS (
    SELECT problem_id, problem_id AS id FROM chosen UNION ALL
    SELECT problem_id, variant_id FROM variants JOIN chosen USING (problem_id) WHERE status = 'accepted'
)
SELECT problem_id FROM subjects ANTI JOIN (
    SELECT subject_id AS id FROM labels WHERE solver_model = ? AND samples >= ?
) USING (id)
"""
"""SQL: a row for each question of the problems `chosen` that has no label yet.

Its parameters are those of `chosen`, the solver's model, and the number of samples.
"""


def _labelled(store: VariantStore, model: str, subject_ids: Sequence[str], samples: int) -> set[str]:
    rows = store.query(
        "SELECT subject_id FROM labels WHERE solver_model = ? AND samples >= ? "
        "AND subject_id IN (SELECT unnest(?))",
        [model, samples, list(subject_ids)],
    )
    return {subject_id for (subject_id,) in rows}


def _was_given(answer: Answer[Reply]) -> bool:
    """Whether an answer is to be judged. A truncated answer is judged, too, as in training."""
    return answer.failure is None or answer.failure.startswith("length:")


def _label(kind: str, question: Question, given: Sequence[Answer[Reply]], model: str) -> Label | None:
    """The label of one question; None if no answer could be judged."""
    outcomes = [
        grade(a.text, question.answer, options=question.options).outcome for a in given if _was_given(a)
    ]
    judged = [outcome for outcome in outcomes if outcome != "error"]
    if not judged:
        return None
    correct = judged.count("correct")
    difficulty, low, high = measured_difficulty(correct, len(judged))
    return Label(
        subject_id=question.subject_id,
        solver_model=model,
        subject_kind=kind,
        samples=len(judged),
        correct=correct,
        pass_rate=correct / len(judged),
        difficulty=difficulty,
        difficulty_low=low,
        difficulty_high=high,
    )
