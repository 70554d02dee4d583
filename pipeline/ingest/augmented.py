"""Read variants from a source, in the format of the code that the authors of DIVA-GRPO released.

What the release documents (verl/difficulty_variation/README.md): the original columns, `variants` (a list of texts),
`think_steps` (a list of texts) and `think_answer` (the answer of these steps). The training code of the release reads
the older names `variant` and `step2`. Its merging scripts also write `answer2` and `correct_think`, and write a missing
value as a list with one empty text.

What we assume: `variants` are rewordings, because the prompt asks for the same answer in other words; `answer2`
belongs to `step2`; `correct_think = false` means that the answer of the steps is wrong. The column `difficulty` is a
starting value for training and not a measurement, so it is not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from diva_grpo.pipeline.difficulty.design import designed_delta
from diva_grpo.pipeline.ingest.cells import RowError, cell_of, text_of, texts_of
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.records import Kind, Problem, Status, Variant

INGESTED = "ingested"
"""Value of `prompt_version` for variants that were read from a source."""


def read_variants(
    values: Mapping[str, object], mapping: ColumnMapping, problem: Problem, generator_model: str
) -> list[Variant]:
    """Return the distinct variants of a row. Their ids contain a hash of their content.

    Args:
        values: the row.
        mapping: the names of its columns.
        problem: the problem of the row.
        generator_model: the model that wrote the variants.

    Returns:
        Variants with the status `candidate`, to be verified later. If the source says that the solution is wrong, its
        think-step variants have the status `rejected`.

    Raises:
        RowError: a column of variants does not contain a list of texts.
    """
    texts = _texts(values, _first(values, mapping.variants))
    steps = _texts(values, _first(values, mapping.think_steps))
    maker = _Maker(problem, generator_model)
    variants = [maker.reword(text) for text in dict.fromkeys(texts) if text != problem.text]
    if steps:
        column = _first(values, mapping.think_answer)
        answer = text_of(cell_of(values, column), column)
        wrong = cell_of(values, mapping.think_correct) is False
        variants += [maker.think_step(steps, j, answer or None, wrong) for j in range(1, len(steps) + 1)]
    return variants


def _first(values: Mapping[str, object], columns: Sequence[str]) -> str | None:
    """Return the first of these columns that is not empty in the row, or None."""
    return next((column for column in columns if values.get(column) not in (None, "", [], [""])), None)


def _texts(values: Mapping[str, object], column: str | None) -> list[str]:
    found = texts_of(cell_of(values, column), column)
    if column is not None and not found:
        raise RowError(f"the column {column!r} is not a list of texts")
    return [text for text in found if text]


class _Maker:
    """Creates the variants of one problem."""

    def __init__(self, problem: Problem, generator_model: str) -> None:
        self._problem, self._model = problem, generator_model

    def reword(self, text: str) -> Variant:
        return self._variant(
            Kind.REWORD, [text], 0, {"text": text, "delta_designed": designed_delta(Kind.REWORD)}
        )

    def think_step(self, steps: Sequence[str], given: int, answer: str | None, wrong: bool) -> Variant:
        reason = "answer: the source says that the solution is wrong"
        return self._variant(
            Kind.THINK_STEP,
            steps,
            given,
            {
                "text": self._problem.text,
                "hint_steps": given,
                "hint": list(steps[:given]),
                "hint_total": len(steps),
                "solution_answer": answer,
                "delta_designed": designed_delta(Kind.THINK_STEP, given, len(steps)),
            }
            | ({"status": Status.REJECTED, "reason": reason} if wrong else {}),
        )

    def _variant(self, kind: Kind, content: Sequence[str], number: int, own: Mapping[str, object]) -> Variant:
        digest = hashlib.sha256("\n".join([self._model, *content]).encode()).hexdigest()[:12]
        return Variant.model_validate(
            {
                "variant_id": f"{self._problem.problem_id}:{kind}:{digest}:{number}",
                "problem_id": self._problem.problem_id,
                "kind": kind,
                "generator_model": self._model,
                "prompt_version": INGESTED,
                **own,
            }
        )
