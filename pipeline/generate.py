"""Ask the teacher for variants: candidates, which `verify` accepts or rejects."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain

from pipeline.prompts import load_prompt
from pipeline.store import VariantStore
from pipeline.teacher import Teacher
from pipeline.work import Progress, shards, with_teacher
from schemas.config import TEXT_KINDS, GenerateConfig, TeacherConfig
from schemas.exceptions import ConfigError
from schemas.question import render_question
from schemas.records import Kind, Problem, Status, Variant
from schemas.replies import Answer, HarderTexts, Reply, Rewordings, ThinkSteps

_SHAPES: dict[str, type[Reply]] = {
    Kind.REWORD: Rewordings,
    Kind.HARDER: HarderTexts,
    Kind.THINK_STEP: ThinkSteps,
}


def designed_delta(kind: str, hint_steps: int = 0, hint_total: int = 0) -> float:
    """Difficulty offset of a text variant by design, in levels (contract.md, Difficulty)."""
    if kind == Kind.THINK_STEP:
        return -8.0 if hint_steps == hint_total else -float(min(2 * hint_steps, 6))
    return {Kind.REWORD: 0.0, Kind.HARDER: 2.0}[Kind(kind)]


def generate(
    store: VariantStore,
    teacher: TeacherConfig,
    config: GenerateConfig,
    *,
    problem_ids: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Counter[str]:
    """Write candidate variants of every problem that has none of that kind, model and prompt yet.

    Args:
        store: where problems come from and variants go.
        teacher: the endpoint.
        config: kinds and how many of each.
        problem_ids: only these; default all.
        limit: only the first so many, by id.
        progress: told of every kind of a problem that is done, now or before.

    Returns:
        New rows by status: `candidate`, or `failed` with the teacher's reason.

    Raises:
        ConfigError: a kind that no teacher writes.
    """
    unknown = [kind for kind in config.kinds if kind not in TEXT_KINDS]
    if unknown:
        raise ConfigError(
            f"kind {unknown[0]} is not written by a teacher: choose from {', '.join(TEXT_KINDS)}"
        )
    counts: Counter[str] = Counter()
    for shard in shards(store.problems(problem_ids, limit=limit)):
        done = _done(store, teacher.model, config, [problem.problem_id for problem in shard])
        jobs = [
            partial(_ask, store, problem, kind, config)
            for problem in shard
            for kind in config.kinds
            if (problem.problem_id, kind) not in done
        ]
        if progress:
            progress(len(shard) * len(config.kinds) - len(jobs))
        variants = list(chain.from_iterable(with_teacher(store, teacher, jobs, progress)))
        store.append(variants)
        counts.update(str(variant.status) for variant in variants)
    return counts


def _done(
    store: VariantStore, model: str, config: GenerateConfig, problem_ids: Sequence[str]
) -> set[tuple[str, str]]:
    """(problem_id, kind) that this model and prompt have written for already."""
    versions = [load_prompt(kind).version for kind in config.kinds]
    rows = store.query(
        "SELECT DISTINCT problem_id, kind FROM variants WHERE generator_model = ? "
        "AND prompt_version IN (SELECT unnest(?)) AND problem_id IN (SELECT unnest(?)) "
        "AND NOT (status = 'failed' AND ?)",
        [model, versions, list(problem_ids), config.retry_failed],
    )
    return set(rows)


async def _ask(
    store: VariantStore, problem: Problem, kind: Kind, config: GenerateConfig, teacher: Teacher
) -> list[Variant]:
    prompt = load_prompt(kind)
    question = render_question(problem.text, options=problem.options if kind == Kind.THINK_STEP else ())
    answer: Answer[Reply] = await teacher.ask(
        prompt,
        {
            "problem": question,
            "count": config.rewordings if kind == Kind.REWORD else config.harder,
        },
        purpose=kind,
        problem_id=problem.problem_id,
        shape=_SHAPES[kind],
        images=[store.image_path(image.hash) for image in problem.images],
    )
    maker = _Maker(problem, kind, teacher.config.model, prompt.version)
    if answer.failure:
        return [maker.failed(answer.failure)]
    if isinstance(answer.value, ThinkSteps):
        variants = maker.think_steps(answer.value)
    elif isinstance(answer.value, Rewordings):
        variants = maker.texts(answer.value.rewordings)
    elif isinstance(answer.value, HarderTexts):
        variants = maker.texts(answer.value.texts)
    else:
        raise TypeError(f"no variants are made of {type(answer.value).__name__}")
    return variants or [maker.failed("schema: an empty list")]


class _Maker:
    """Variants of one problem and kind, with ids that are the same on every run."""

    def __init__(self, problem: Problem, kind: Kind, model: str, prompt_version: str) -> None:
        self._problem, self._kind = problem, kind
        self._model, self._version = model, prompt_version
        made_by = hashlib.sha256(f"{model}\n{prompt_version}".encode()).hexdigest()[:8]
        self._prefix = f"{problem.problem_id}:{kind}:{made_by}"

    def failed(self, reason: str) -> Variant:
        # Under the first number that an answer would get, so that a later answer takes its place.
        first = 1 if self._kind == Kind.THINK_STEP else 0
        return self._variant(first, status=Status.FAILED, reason=reason)

    def texts(self, texts: Sequence[str]) -> list[Variant]:
        delta = designed_delta(self._kind)
        return [self._variant(i, text=t.strip(), delta_designed=delta) for i, t in enumerate(texts)]

    def think_steps(self, solution: ThinkSteps) -> list[Variant]:
        total = len(solution.steps)
        return [
            self._variant(
                j,
                text=self._problem.text,
                hint_steps=j,
                hint=solution.steps[:j],
                hint_total=total,
                solution_answer=solution.answer,
                delta_designed=designed_delta(self._kind, j, total),
            )
            for j in range(1, total + 1)
        ]

    def _variant(self, number: int, **values: object) -> Variant:
        return Variant.model_validate(
            {
                "variant_id": f"{self._prefix}:{number}",
                "problem_id": self._problem.problem_id,
                "kind": self._kind,
                "generator_model": self._model,
                "prompt_version": self._version,
                **values,
            }
        )
