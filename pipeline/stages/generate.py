"""Ask the teacher for variants. They are candidates until `verify` accepts or rejects them."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

from diva_grpo.pipeline.checks import check_leak
from diva_grpo.pipeline.difficulty.design import designed_delta
from diva_grpo.pipeline.images.shown import shown_images
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.image_variants import perturb_images
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.config import TEXT_KINDS, GenerateConfig
from diva_grpo.schemas.question import question_of, render_question
from diva_grpo.schemas.records import Aspect, Kind, Problem, Status, Variant
from diva_grpo.schemas.replies import COST_NOTHING, Answer, HarderTexts, Reply, Rewordings, ThinkSteps

SOURCE = "source"
"""The `generator_model` of hints that were made from the problem's own worked solution."""

MOST_STEPS = 5
"""Largest number of think steps of a solution (the paper: three to five). If there are more, neighbours are joined."""

_SHAPES: dict[str, type[Reply]] = {
    Kind.REWORD: Rewordings,
    Kind.HARDER: HarderTexts,
    Kind.THINK_STEP: ThinkSteps,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for variants.

    Attributes:
        problem: the problem.
        kind: the kind of the variants.
        count: number of texts to ask for. It has no effect for think steps: one solution is asked for.
        sample: number of the request for this problem and kind, from 0. It is part of the journal's key and of the
            variants' ids, so each sample gives new variants.
        existing: texts from which the new ones must differ.
        from_source: use the problem's own solution, and send no request.
    """

    problem: Problem
    kind: Kind
    count: int = 1
    sample: int = 0
    existing: tuple[str, ...] = ()
    from_source: bool = False


def write_candidates(session: Session, config: GenerateConfig, problems: Sequence[Problem]) -> Counter[str]:
    """Generate candidates for every problem and kind for which this model and prompt have made none yet.

    Image variants are computed, without the teacher.

    Args:
        session: its teacher writes.
        config: the kinds, and the number of variants of each.
        problems: the problems of a shard.

    Returns:
        Number of new variants by status: `candidate`, `failed` (the request failed), or `rejected` (the operations do
        not suit the problem).

    Raises:
        ConfigError: a kind needs a teacher and the session has none.
        DivaError: see `Endpoint.ask`.
    """
    counts = perturb_images(session.store, config, problems)
    asks = missing_asks(session, config, problems)
    session.meter.count("requests", len(problems) * len(config.kinds) - len(asks))
    session.meter.tell("generated", counts)
    return counts + write(session, config, asks)


def missing_asks(session: Session, config: GenerateConfig, problems: Sequence[Problem]) -> list[Ask]:
    """The first requests for each problem and kind of text that this model and prompt have not been asked for yet.

    Raises:
        ConfigError: a kind needs a teacher and the session has none.
    """
    kinds = [kind for kind in config.kinds if kind in TEXT_KINDS]
    if not kinds:
        return []
    done = asked(session.store, session.teacher.model, config, [p.problem_id for p in problems])
    firsts = [first_ask(problem, kind, config) for problem in problems for kind in kinds]
    return [
        ask
        for ask in firsts
        for made in [done[ask.problem.problem_id, ask.kind]]
        if not (made if ask.from_source else made - {None})
    ]


def first_ask(problem: Problem, kind: Kind, config: GenerateConfig) -> Ask:
    """The first request for a problem and kind. It uses the problem's own solution if the configuration says so."""
    count = {Kind.REWORD: config.rewordings, Kind.HARDER: config.harder}.get(kind, 1)
    from_source = kind == Kind.THINK_STEP and config.steps_from == SOURCE and bool(problem.solution_steps)
    return Ask(problem, kind, count, from_source=from_source)


def asked(
    store: VariantStore, model: str, config: GenerateConfig, problem_ids: Sequence[str]
) -> defaultdict[tuple[str, str], set[int | None]]:
    """The requests that were made before with this model and these prompts, by (problem_id, kind).

    Args:
        store: the store with the variants.
        model: name of the teacher's model.
        config: the kinds, and `retry_failed`.
        problem_ids: ids of the problems.

    Returns:
        The sample numbers of the requests, with None for hints from the problem's own solution. Requests that failed
        without a cost (network, timeout, HTTP error) are left out; with `retry_failed`, all failed requests are.
    """
    versions = [load_prompt(kind).version for kind in config.kinds if kind in TEXT_KINDS]
    rows = store.query(
        "SELECT DISTINCT problem_id, kind, CASE WHEN generator_model <> ? THEN sample END FROM variants "
        "WHERE (generator_model = ? AND prompt_version IN (SELECT unnest(?)) OR generator_model = ?) "
        "AND problem_id IN (SELECT unnest(?)) "
        "AND NOT (status = 'failed' AND text IS NULL AND (? OR regexp_matches(coalesce(reason, ''), ?)))",
        [SOURCE, model, versions, SOURCE, list(problem_ids), config.retry_failed, COST_NOTHING],
    )
    found: defaultdict[tuple[str, str], set[int | None]] = defaultdict(set)
    for problem_id, kind, sample in rows:
        found[problem_id, kind].add(sample)
    return found


def write(session: Session, config: GenerateConfig, asks: Sequence[Ask]) -> Counter[str]:
    """Carry out requests, and append the new variants as one part.

    Returns:
        Number of new variants by status.

    Raises:
        ConfigError: a request needs a teacher and the session has none.
        DivaError: see `Endpoint.ask`.
    """
    if not asks:
        return Counter()
    own = [ask for ask in asks if ask.from_source]
    variants = list(chain.from_iterable(_of_source(ask.problem) for ask in own))
    session.meter.count("requests", len(own))
    jobs = [partial(_send, session.store, ask, config) for ask in asks if not ask.from_source]
    if jobs:
        variants += chain.from_iterable(session.teacher.ask(jobs, partial(session.meter.count, "requests")))
    session.store.append(variants)
    counts = Counter(str(variant.status) for variant in variants)
    session.meter.failed(variant.reason for variant in variants if variant.status == Status.FAILED)
    session.meter.tell("generated", counts)
    return counts


def solution_hints(problem: Problem) -> list[str]:
    """The problem's own worked solution as at most `MOST_STEPS` think steps. Only the last one may state the answer.

    Closing lines that repeat the answer ("The answer is 18.") are joined with the step that finds it. Otherwise the
    step that finds it would be part of a hint, which would then give the answer away.
    """
    steps = list(problem.solution_steps)
    while len(steps) > 1 and _gives_away(problem, steps[-2]):
        steps[-2:] = ["\n".join(steps[-2:])]
    return joined(steps)


def joined(steps: Sequence[str], most: int = MOST_STEPS) -> list[str]:
    """Join neighbouring steps evenly, so that there are at most `most` steps."""
    count = min(len(steps), most)
    bounds = [round(i * len(steps) / count) for i in range(count + 1)] if count else []
    return ["\n".join(steps[start:end]) for start, end in pairwise(bounds)]


def _gives_away(problem: Problem, step: str) -> bool:
    """Whether a hint that consists of this step would be rejected because it states the answer."""
    hint = _Maker(problem, Kind.THINK_STEP, SOURCE, SOURCE).think_step([step, ""], 1, problem.answer)
    return check_leak(hint, problem).passed is False


def _of_source(problem: Problem) -> list[Variant]:
    maker = _Maker(problem, Kind.THINK_STEP, SOURCE, SOURCE)
    return maker.think_steps(solution_hints(problem), problem.answer)


async def _send(store: VariantStore, ask: Ask, config: GenerateConfig, teacher: Teacher) -> list[Variant]:
    problem, kind = ask.problem, ask.kind
    prompt = load_prompt(kind)
    question = render_question(problem.text, options=problem.options if kind == Kind.THINK_STEP else ())
    answer: Answer[Reply] = await teacher.ask(
        prompt,
        {
            "problem": question,
            "count": ask.count,
            "aspects": ", ".join(_aspects(ask, config)),
            "existing": "\n\n".join(ask.existing) or "(none)",
        },
        purpose=kind,
        problem_id=problem.problem_id,
        shape=_SHAPES[kind],
        images=shown_images(question_of(problem), store.image_path),
        sample=ask.sample,
    )
    maker = _Maker(problem, kind, teacher.config.model, prompt.version, ask.sample)
    if answer.failure:
        return [maker.failed(answer.failure)]
    if isinstance(answer.value, ThinkSteps):
        variants = maker.think_steps(joined(answer.value.steps), answer.value.answer)
    elif isinstance(answer.value, Rewordings):
        variants = maker.texts([(text, None) for text in answer.value.rewordings[: ask.count]])
    elif isinstance(answer.value, HarderTexts):
        variants = maker.texts([(harder.text, harder.aspect) for harder in answer.value.texts[: ask.count]])
    else:
        raise TypeError(f"no variants are made of {type(answer.value).__name__}")
    return variants or [maker.failed("schema: an empty list")]


def _aspects(ask: Ask, config: GenerateConfig) -> list[str]:
    """The aspects for the `count` texts of a request, taken in turn from the configured ones.

    The first one depends on the problem and advances by one with each sample.
    """
    start = zlib.crc32(ask.problem.problem_id.encode()) + ask.sample
    return [config.aspects[(start + i) % len(config.aspects)] for i in range(ask.count)]


class _Maker:
    """Makes the variants of one request (see `Ask`), with ids that are the same in every run."""

    def __init__(
        self, problem: Problem, kind: Kind, model: str, prompt_version: str, sample: int = 0
    ) -> None:
        self._problem, self._kind, self._sample = problem, kind, sample
        self._model, self._version = model, prompt_version
        made_by = hashlib.sha256(f"{model}\n{prompt_version}".encode()).hexdigest()[:8]
        self._prefix = f"{problem.problem_id}:{kind}:{made_by}:{sample}"

    def failed(self, reason: str) -> Variant:
        # It has the id of the first variant of an answer, so that a later answer replaces it.
        first = 1 if self._kind == Kind.THINK_STEP else 0
        return self._variant(first, status=Status.FAILED, reason=reason)

    def texts(self, texts: Sequence[tuple[str, Aspect | None]]) -> list[Variant]:
        delta = designed_delta(self._kind)
        return [
            self._variant(i, text=text.strip(), aspect=aspect, delta_designed=delta)
            for i, (text, aspect) in enumerate(texts)
        ]

    def think_steps(self, steps: Sequence[str], answer: str) -> list[Variant]:
        return [self.think_step(steps, j, answer) for j in range(1, len(steps) + 1)]

    def think_step(self, steps: Sequence[str], given: int, answer: str) -> Variant:
        return self._variant(
            given,
            text=self._problem.text,
            hint_steps=given,
            hint=list(steps[:given]),
            hint_total=len(steps),
            solution_answer=answer,
            delta_designed=designed_delta(self._kind, given, len(steps)),
        )

    def _variant(self, number: int, **values: object) -> Variant:
        return Variant.model_validate(
            {
                "variant_id": f"{self._prefix}:{number}",
                "problem_id": self._problem.problem_id,
                "kind": self._kind,
                "generator_model": self._model,
                "prompt_version": self._version,
                "sample": self._sample,
                **values,
            }
        )
