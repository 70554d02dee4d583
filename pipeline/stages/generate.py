"""Ask the teacher for variants: candidates, which `verify` accepts or rejects."""

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
"""`generator_model` of think steps that are the problem's own worked solution."""

MOST_STEPS = 5
"""Think steps of a solution; a longer one has its neighbouring steps joined (the paper: three to five)."""

_SHAPES: dict[str, type[Reply]] = {
    Kind.REWORD: Rewordings,
    Kind.HARDER: HarderTexts,
    Kind.THINK_STEP: ThinkSteps,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for variants.

    Attributes:
        count: texts asked for; of think steps, one solution is.
        sample: which request for this kind of the problem it is, from 0: part of the journal's key and of the
            variants' ids, so that another sample brings other variants.
        existing: texts that the new ones must differ from.
        from_source: the problem's own solution is taken, and nothing sent.
    """

    problem: Problem
    kind: Kind
    count: int = 1
    sample: int = 0
    existing: tuple[str, ...] = ()
    from_source: bool = False


def write_candidates(session: Session, config: GenerateConfig, problems: Sequence[Problem]) -> Counter[str]:
    """Write candidate variants of every problem that has none of that kind, model and prompt yet.

    Kinds of perturbed images are recipes, for which no teacher is asked.

    Args:
        session: its teacher writes.
        config: kinds and how many of each.
        problems: of a shard.

    Returns:
        New rows by status: `candidate`, `failed` with the teacher's reason, or `rejected` where an operation
        does not suit a problem.

    Raises:
        ConfigError: a kind that a teacher must write, and no teacher.
    """
    counts = perturb_images(session.store, config, problems)
    kinds = [kind for kind in config.kinds if kind in TEXT_KINDS]
    asks = []
    if kinds:
        done = asked(session.store, session.teacher.model, config, [p.problem_id for p in problems])
        firsts = [first_ask(problem, kind, config) for problem in problems for kind in kinds]
        asks = [ask for ask in firsts if not _is_done(ask, done[ask.problem.problem_id, ask.kind])]
    session.meter.count("requests", len(problems) * len(config.kinds) - len(asks))
    session.meter.tell("generated", counts)
    return counts + write(session, config, asks)


def first_ask(problem: Problem, kind: Kind, config: GenerateConfig) -> Ask:
    """The first request for a kind of a problem; its own solution where the configuration takes those."""
    count = {Kind.REWORD: config.rewordings, Kind.HARDER: config.harder}.get(kind, 1)
    from_source = kind == Kind.THINK_STEP and config.steps_from == SOURCE and bool(problem.solution_steps)
    return Ask(problem, kind, count, from_source=from_source)


def _is_done(ask: Ask, done: set[int | None]) -> bool:
    """Whether a first request, or what stands in its place, was made before."""
    return bool(done if ask.from_source else done - {None})


def asked(
    store: VariantStore, model: str, config: GenerateConfig, problem_ids: Sequence[str]
) -> defaultdict[tuple[str, str], set[int | None]]:
    """What was asked for already, with these prompts, by (problem_id, kind).

    Returns:
        Numbers of the samples, and None for the problem's own solution. Left out are samples whose requests cost
        nothing, since they failed on their way; with `retry_failed` all that brought no usable answer.
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
    """Carry out requests and append what comes of them, as one part.

    Returns:
        New rows by status.
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
    session.meter.tell("generated", counts)
    return counts


def solution_hints(problem: Problem) -> list[str]:
    """The problem's own worked solution as at most five think steps, only the last of which may state the answer.

    Closing lines that state the answer again ("The answer is 18.") are one step with the line that finds it:
    else that line would be a hint which gives the answer away.
    """
    steps = list(problem.solution_steps)
    while len(steps) > 1 and _gives_away(problem, steps[-2]):
        steps[-2:] = ["\n".join(steps[-2:])]
    return joined(steps)


def joined(steps: Sequence[str], most: int = MOST_STEPS) -> list[str]:
    """Steps with neighbours joined, evenly, so that there are at most `most`."""
    count = min(len(steps), most)
    bounds = [round(i * len(steps) / count) for i in range(count + 1)] if count else []
    return ["\n".join(steps[start:end]) for start, end in pairwise(bounds)]


def _gives_away(problem: Problem, step: str) -> bool:
    """Whether a hint of that one step would be rejected for stating the answer."""
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
    """The aspects asked for: each in its turn over a problem's requests, beginning anywhere over problems."""
    start = zlib.crc32(ask.problem.problem_id.encode()) + ask.sample
    return [config.aspects[(start + i) % len(config.aspects)] for i in range(ask.count)]


class _Maker:
    """Variants of one request, with ids that are the same on every run."""

    def __init__(
        self, problem: Problem, kind: Kind, model: str, prompt_version: str, sample: int = 0
    ) -> None:
        self._problem, self._kind, self._sample = problem, kind, sample
        self._model, self._version = model, prompt_version
        made_by = hashlib.sha256(f"{model}\n{prompt_version}".encode()).hexdigest()[:8]
        self._prefix = f"{problem.problem_id}:{kind}:{made_by}:{sample}"

    def failed(self, reason: str) -> Variant:
        # Under the first number that an answer would get, so that a later answer takes its place.
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
