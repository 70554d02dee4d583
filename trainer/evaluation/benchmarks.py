r"""The paper's six benchmarks: where each lies, which column holds what, and how its answers are asked and graded.

The paper's scores of its base model on MathVista, MathVerse and MathVision (arXiv 2603.01106, table 1) are those that
MM-Eureka prints (arXiv 2503.07365), so each benchmark is read as MM-Eureka's evaluation reads it: same data, split
and columns. Answers are judged there by GPT-4o; here the project's grader decides, which is free, repeatable and
stricter. Everywhere the last `\boxed{}` counts, and equality is that of `pipeline.grade`. A row whose own answer the
grader does not accept is rejected at ingest with its reason.

| benchmark | rows | question | graded against |
| --- | --- | --- | --- |
| MathVista testmini | 1,000 | `question`, `choices`, `unit`, decimal places as in `precision` | letter or value |
| MathVerse testmini | 3,940 | `query_cot`: holds the choices, never empty (`question` may be) | letter, or value |
| MathVision test | 3,040 | `question` and `options` | letter or value |
| OlympiadBench | 1,516 | `context` (physics), `question`, `unit`; up to nine pictures | all of `final_answer` |
| We-Math testmini | 1,740 | `question`, and `option`, one text of all choices | letter or value |
| MMK12 test | 2,000 | `question`, which holds the choices | letter |

Where this departs from the benchmarks' own scripts:

- MathVista cuts an answer to the asked precision before it compares, and takes the choice most similar by edit
  distance; here 1.42 is not 1.4, and an answer that is none of the choices is wrong.
- In MathVerse and MMK12 the choices stand in the question's text, so a choice must be given by its letter.
- OlympiadBench allows an absolute error in some physics answers (`error`); here a number must be equal, or round to
  the reference. Its prompt keeps units out of the box without naming them; here the question names the unit.
  The four English sets of open-ended problems are read; proofs are not.
- We-Math's own metric looks at the sub-problems of a problem together; here each row counts alike.

Names of data sets, splits and columns are from their cards, their repositories and public programs that read them.
Not seen, for want of a network: that the hub's rows of We-Math have the `question number` of its JSON file; that ids
of OlympiadBench's sets do not overlap (the second row of one id becomes a reject) and that the paper used all four of
them; how many rows the grader rejects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.mapping import PRESETS, ColumnMapping

SPLIT = "test"
"""Split under which every benchmark is kept in a store, whatever its source calls it."""

_LETTER = "\nReason step by step, and put the letter of the right choice in \\boxed{}."
_LETTER_OR = (
    "\nReason step by step, and put the final answer in one \\boxed{}: "
    "the letter alone where there are choices, else "
)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark that can be read into a store and asked of a model.

    Attributes:
        name: of its problems' source in the store.
        mapping: its columns, and its name on the hub.
        instruction: added after each question.
        size: rows that it has as published.
        hub_configs: configurations that it consists of on the hub; empty: the mapping's one.
        max_new_tokens: longest answer.
    """

    name: str
    mapping: ColumnMapping
    instruction: str
    size: int
    hub_configs: tuple[str, ...] = ()
    max_new_tokens: int = 4096

    def parts(self, source: str | None = None) -> list[tuple[str, ColumnMapping]]:
        """What to ingest: each source with its mapping, the hub's where none is named."""
        where = source or self.mapping.hub or self.name
        if where != self.mapping.hub or not self.hub_configs:
            return [(where, self.mapping)]
        return [(where, self.mapping.model_copy(update={"hub_config": name})) for name in self.hub_configs]


_ALL = (
    Benchmark(
        name="mathvista",
        mapping=ColumnMapping(
            name="mathvista",
            id="pid",
            problem="question",
            images="decoded_image",
            images_fallback="image",
            options="choices",
            unit="unit",
            decimals="precision",
            recorded_split=SPLIT,
            hub="AI4Math/MathVista",
            hub_split="testmini",  # the answers of its test split are not published
        ),
        instruction=_LETTER_OR + "a number without its unit, or a list such as [1, 2].",
        size=1000,
    ),
    Benchmark(
        name="mathverse",
        mapping=ColumnMapping(
            name="mathverse",
            id="sample_index",
            problem="query_cot",
            images="image",
            recorded_split=SPLIT,
            hub="AI4Math/MathVerse",
            hub_config="testmini",
            hub_split="testmini",
        ),
        instruction=_LETTER_OR + "the value.",
        size=3940,
    ),
    Benchmark(
        name="mathvision",
        mapping=PRESETS["mathvision"].model_copy(update={"recorded_split": SPLIT}),
        instruction=_LETTER_OR + "the value.",
        size=3040,
    ),
    Benchmark(
        name="olympiadbench",
        mapping=ColumnMapping(
            name="olympiadbench",
            id="id",
            problem="question",
            answer="final_answer",
            images="image_1",
            more_images=tuple(f"image_{i}" for i in range(2, 10)),
            solution="solution",
            context="context",
            unit="unit",
            recorded_split=SPLIT,
            hub="Hothan/OlympiadBench",
            hub_split="train",  # the only split that it has
        ),
        instruction=(
            "\nReason step by step, and put the final answer in one \\boxed{}: in LaTeX, without its unit, several "
            "answers joined by commas."
        ),
        size=1516,
        hub_configs=(
            "OE_MM_maths_en_COMP",
            "OE_MM_physics_en_COMP",
            "OE_TO_maths_en_COMP",
            "OE_TO_physics_en_COMP",
        ),
    ),
    Benchmark(
        name="wemath",
        mapping=ColumnMapping(
            name="wemath",
            id="question number",  # its ID is shared by the steps of one problem
            problem="question",
            images="image_path",
            options="option",
            recorded_split=SPLIT,
            hub="We-Math/We-Math",
            hub_split="testmini",
        ),
        instruction=_LETTER,
        size=1740,
    ),
    Benchmark(
        name="mmk12",
        mapping=ColumnMapping(
            name="mmk12",
            id="id",
            problem="question",
            images="image",
            recorded_split=SPLIT,
            hub="FanqingM/MMK12",
            hub_split="test",
        ),
        instruction=_LETTER,
        size=2000,
    ),
)

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType({benchmark.name: benchmark for benchmark in _ALL})
"""By name: MathVista (arXiv 2310.02255), MathVerse (2403.14624), MATH-Vision (2402.14804), OlympiadBench
(2402.14008), We-Math (2407.01284), MMK12 (2503.07365)."""


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by its name.

    Raises:
        ConfigError: there is none of this name.
    """
    plain = name.lower().replace("-", "")
    if plain not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}: choose {', '.join(BENCHMARKS)}")
    return BENCHMARKS[plain]
