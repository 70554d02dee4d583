"""Problems with all of their variants, deltas, labels and verdicts, for the terminal and for pages."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import BY_LABEL_MODEL
from diva_grpo.pipeline.store.terminal import visible
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Kind, Label, Problem, Status, Variant, Verdict

_ORDER = [str(kind) for kind in Kind]
_MARKS = {Status.ACCEPTED: "✓", Status.REJECTED: "✗", Status.FAILED: "!", Status.CANDIDATE: "?"}


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A variant with its offsets, label and verdicts.

    Attributes:
        variant: the variant's record.
        delta: the offset in use, in levels; None if unknown.
        delta_measured: the offset measured by the store's label model, in levels; None if not measured.
        label: the label by the store's label model; None if there is none.
        verdicts: the verdicts of the checks, in the order in which they were reached.
    """

    variant: Variant
    delta: float | None
    delta_measured: float | None
    label: Label | None
    verdicts: list[Verdict]

    @property
    def title(self) -> str:
        """The kind, with the hint's share of steps (`think_step 2/5`) or the aspect (`harder: story`), if any."""
        kind = str(self.variant.kind)
        if self.variant.hint_steps is not None:
            return f"{kind} {self.variant.hint_steps}/{self.variant.hint_total}"
        return f"{kind}: {self.variant.aspect}" if self.variant.aspect else kind

    @property
    def operations(self) -> str:
        """The operations of the variant's recipe, such as `rotate 0.30 (degrees -27)`; empty without a recipe."""
        if self.variant.recipe is None:
            return ""
        return ", ".join(
            f"{operation['name']} {operation['strength']:.2f} ("
            + ", ".join(f"{name} {value:g}" for name, value in operation["parameters"].items())
            + ")"
            for operation in json.loads(self.variant.recipe)["operations"]
        )

    @property
    def shown_delta(self) -> str:
        """The offsets as text, such as `delta +1.0, measured +0.8`."""
        if self.delta is None:
            return "delta unknown"
        measured = "" if self.delta_measured is None else f", measured {self.delta_measured:+.1f}"
        return f"delta {self.delta:+.1f}{measured}"


@dataclass(frozen=True, slots=True)
class Looked:
    """A problem with its label and variants.

    Attributes:
        problem: the problem's record.
        label: the label by the store's label model; None if there is none.
        variants: all variants, sorted by kind and number of hint steps.
    """

    problem: Problem
    label: Label | None
    variants: list[LookedAt]


def look(
    store: VariantStore,
    problem_ids: Sequence[str] = (),
    *,
    where: str | None = None,
    limit: int | None = None,
) -> list[Looked]:
    """Read problems with all of their variants.

    Args:
        store: the store.
        problem_ids: ids of the problems, which are returned in this order; empty: all that match `where`, by id.
        where: an SQL condition on the columns of `problems`.
        limit: maximum number of problems; None: no limit.

    Raises:
        ConfigError: an id is unknown, no problem matches, or the condition is not valid SQL.
    """
    about = store.of_problems(problem_ids) if problem_ids else store
    found = {p.problem_id: p for p in about.problems(list(problem_ids) or None, where=where, limit=limit)}
    missing = next((problem_id for problem_id in problem_ids if problem_id not in found), None)
    if missing is not None:
        near = store.query(
            "SELECT problem_id FROM problems ORDER BY levenshtein(problem_id, ?), 1 LIMIT 3", [missing]
        )
        names = ", ".join(name for (name,) in near) or "it has none"
        raise ConfigError(f"no problem {missing!r} in this store; near it: {names}")
    if not found:
        raise ConfigError("no problem fits: `diva status` shows what the store holds")
    problems = [found[problem_id] for problem_id in problem_ids or found]
    ids = list(found)
    about = about if problem_ids else store.of_problems(ids)
    variants: defaultdict[str, list[Variant]] = defaultdict(list)
    for variant in about.read(Variant, "problem_id IN (SELECT unnest(?))", [ids]):
        variants[variant.problem_id].append(variant)
    deltas = {
        name: (delta, measured)
        for name, delta, measured in about.query(
            "SELECT variant_id, delta, delta_measured FROM variants WHERE problem_id IN (SELECT unnest(?))",
            [ids],
        )
    }
    labels = _labels(about, [*ids, *deltas])
    verdicts: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in about.read(Verdict, "variant_id IN (SELECT unnest(?))", [list(deltas)]):
        verdicts[verdict.variant_id].append(verdict)
    return [
        Looked(
            problem,
            labels.get(problem.problem_id),
            [
                LookedAt(
                    variant,
                    *deltas[variant.variant_id],
                    labels.get(variant.variant_id),
                    sorted(verdicts[variant.variant_id], key=lambda v: (v.created_at, v.sample)),
                )
                for variant in sorted(variants[problem.problem_id], key=_place)
            ],
        )
        for problem in problems
    ]


def _place(variant: Variant) -> tuple[int, int, str]:
    return _ORDER.index(str(variant.kind)), variant.hint_steps or 0, variant.variant_id


def _labels(store: VariantStore, subject_ids: Sequence[str]) -> dict[str, Label]:
    where = f"{BY_LABEL_MODEL} AND subject_id IN (SELECT unnest(?))"
    # `read` names only this table. A view is created for each table that a query names.
    return {label.subject_id: label for label in store.read(Label, where, [list(subject_ids)])}


# --- in the terminal


def as_text(looked: Looked, width: int | None = None) -> str:
    """Format a problem and its variants as text for the terminal.

    Args:
        looked: a problem from `look`.
        width: characters per line; default the terminal's width, up to 110.
    """
    columns = width or min(110, shutil.get_terminal_size((100, 24)).columns)
    problem = looked.problem
    lines = [f"{problem.problem_id}  ({problem.source}, {problem.split})  answer: {problem.answer}"]
    lines += [f"  label: {label_text(looked.label)}"] if looked.label else []
    lines += [
        f"  image {number}: {image.width} x {image.height}, {image.hash[:12]}"
        for number, image in enumerate(problem.images, start=1)
    ]
    lines += _wrapped(problem.text, columns, "  ")
    lines += [f"  ({chr(ord('A') + i)}) {option}" for i, option in enumerate(problem.options)]
    for at in looked.variants:
        lines += ["", *_variant_lines(at, problem, columns)]
    if not looked.variants:
        lines += ["", "  no variants yet: `diva generate` writes them"]
    return visible("\n".join(lines))


def _variant_lines(at: LookedAt, problem: Problem, columns: int) -> list[str]:
    variant = at.variant
    status = str(variant.status)
    lines = [f"{_MARKS[Status(status)]} {at.title}  {at.shown_delta}  {status}  by {variant.generator_model}"]
    lines += _wrapped(f"because: {variant.reason}", columns, "    ") if variant.reason else []
    lines += [f"    label: {label_text(at.label)}"] if at.label else []
    if at.verdicts:
        lines += _wrapped(f"checks: {', '.join(map(verdict_text, at.verdicts))}", columns, "    ")
    lines += _wrapped(f"image: {at.operations}", columns, "    ") if at.operations else []
    if variant.text and variant.text != problem.text:
        lines += _wrapped(variant.text, columns, "    ")
    for number, step in enumerate(variant.hint, start=1):
        lines += _wrapped(f"{number}. {step}", columns, "    ")
    return lines


def _wrapped(text: str, columns: int, indent: str) -> list[str]:
    return [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(paragraph, columns, initial_indent=indent, subsequent_indent=indent)
    ]


def label_text(label: Label) -> str:
    """A label as text: difficulty, its interval, correct answers, solver."""
    interval = f"{label.difficulty_low:.1f} to {label.difficulty_high:.1f}"
    return (
        f"difficulty {label.difficulty:.1f} ({interval}), {label.correct} of {label.samples} right by "
        f"{label.solver_model}"
    )


def verdict_text(verdict: Verdict) -> str:
    """A verdict as text: the check, its outcome and the detail."""
    passed = {True: "passed", False: "failed", None: "undecided"}[verdict.passed]
    detail = f" ({verdict.detail})" if verdict.detail else ""
    return f"{verdict.check_name} {passed}{detail}"
