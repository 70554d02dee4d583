r"""The paper's six benchmarks: their sources, their columns, and how they are asked and graded.

The paper's scores of its base model on MathVista, MathVerse and MathVision (arXiv 2603.01106, table 1) are those of
MM-Eureka (arXiv 2503.07365). So each benchmark is read as in MM-Eureka's evaluation, with the same data, split and
columns. MM-Eureka grades answers with GPT-4o. Here the project's grader decides, which is free, repeatable and
stricter. For all benchmarks the last `\boxed{}` of a response is its answer, and `pipeline.grade` decides whether two
answers are equal. A row is rejected at ingest, with a reason, if the grader does not accept the row's own answer.

| benchmark | rows | question | graded against |
| --- | --- | --- | --- |
| MathVista testmini | 1,000 | `question`, `choices`, `unit`, decimal places as in `precision` | letter or value |
| MathVerse testmini | 3,940 | `query_cot`: holds the choices, never empty (`question` may be) | letter, or value |
| MathVision test | 3,040 | `question` and `options` | letter or value |
| OlympiadBench | 1,516 | `context` (physics), `question`, `unit`; up to nine pictures | all of `final_answer` |
| We-Math testmini | 1,740 | `question`, and `option`, one text of all choices | letter or value |
| MMK12 test | 2,000 | `question`, which holds the choices | letter |

Differences from the benchmarks' own scripts:

- MathVista rounds an answer to the requested precision before it compares, and replaces an answer by the choice with
  the smallest edit distance. Here 1.42 is not equal to 1.4, and an answer that is not one of the choices is wrong.
- In MathVerse and MMK12 the choices are part of the question's text, so the answer must be the letter of a choice.
- OlympiadBench allows an absolute error in some physics answers (`error`). Here a number must be equal to the
  reference, or round to it. Its prompt asks for answers without units, but does not name the unit; here the question
  names it. The four English sets of open-ended problems are read; proofs are not.
- We-Math's own metric combines the sub-problems of a problem. Here each row has the same weight.

The names of data sets, splits and columns are from dataset cards, repositories and public programs that read them.
Not verified, because there was no network: that the rows of We-Math on the hub have the `question number` of its JSON
file; that the ids of OlympiadBench's four sets do not overlap (the second row with an id is rejected); that the paper
used all four sets; and how many rows the grader rejects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.mapping import PRESETS, ColumnMapping

SPLIT = "test"
"""Split of all benchmark problems in a store, for any name of the split in the source."""

_LETTER = "\nReason step by step, and put the letter of the right choice in \\boxed{}."
_LETTER_OR = (
    "\nReason step by step, and put the final answer in one \\boxed{}: "
    "the letter alone where there are choices, else "
)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark that can be ingested into a store and on which a model can be evaluated.

    Attributes:
        name: name of the benchmark, and the `source` of its problems in the store.
        mapping: the mapping of its columns, with its name on the hub.
        instruction: text added after each question.
        size: number of rows as published.
        hub_configs: its configurations on the hub; empty if the mapping names the only one.
        max_new_tokens: largest number of tokens in an answer.
    """

    name: str
    mapping: ColumnMapping
    instruction: str
    size: int
    hub_configs: tuple[str, ...] = ()
    max_new_tokens: int = 4096

    def parts(self, source: str | None = None) -> list[tuple[str, ColumnMapping]]:
        """Return the sources to ingest, each with its mapping.

        Args:
            source: a file or another source that `diva ingest` reads; None for the hub.
        """
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
            hub_split="testmini",  # the answers of the split `test` are not published
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
            hub_split="train",  # the only split on the hub
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
            id="question number",  # the column `ID` is the same for all steps of a problem
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
"""The benchmarks by name: MathVista (arXiv 2310.02255), MathVerse (2403.14624), MATH-Vision (2402.14804), OlympiadBench
(2402.14008), We-Math (2407.01284), MMK12 (2503.07365)."""


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name. Upper case and hyphens in the name are ignored.

    Raises:
        ConfigError: there is no benchmark of this name.
    """
    plain = name.lower().replace("-", "")
    if plain not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}: choose {', '.join(BENCHMARKS)}")
    return BENCHMARKS[plain]
