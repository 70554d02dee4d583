"""Mappings from the columns of a source to a problem, and presets for known data sets."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field


class AnswerFormat(StrEnum):
    """The format of a source's answer column."""

    PLAIN = "plain"
    """Only the reference answer."""
    GSM8K = "gsm8k"
    """A worked solution with one step per line, then `####` and the answer."""
    SOLUTION = "solution"
    """A worked solution or a reply. The answer is in its last `\\boxed{}`, after `####`, or in a statement."""


FLAGS = ("id", "problem", "answer", "images", "options", "solution", "level", "split")
"""Fields of a mapping that have an option on the command line, such as `--problem-column`."""


class ColumnMapping(BaseModel):
    """Names of a source's columns; None if the source has no such column.

    A dotted name is a path in a nested column: `reward_model.ground_truth`, `choices.0.text`. The columns `problem` and
    `answer` may hold conversations. The question is then read from the conversation in `problem`, and the reply from
    the one in `answer`.

    Example:
        >>> mapping = ColumnMapping(problem="question", answer="answer", answer_format="gsm8k")
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str | None = Field(default=None, description="the preset's name, default of the source's name")
    id: str | None = Field(default=None, description="id within the source; None: a hash of the content")
    id_optional: bool = Field(default=False, description="a source without that column has hashes as ids")
    problem: str = Field(default="problem", description="the question")
    answer: str = Field(
        default="answer", description="the reference answer, or a list of them; see answer_format"
    )
    images: str | None = Field(
        default=None,
        description="one image or a list: paths relative to the file, bytes, or {bytes, path} structs",
    )
    images_fallback: str | None = Field(
        default=None, description="read instead of `images` in rows that have no such column"
    )
    more_images: tuple[str, ...] = Field(
        default=(), description="further columns with one image each, in order, after those of `images`"
    )
    options: str | None = Field(
        default=None, description="texts of the choices A, B, ...: a list, or `A. one; B. two` in one text"
    )
    context: str | None = Field(default=None, description="text that stands before the question")
    answer_index: int | None = Field(
        default=None, description="the answer is the number of an option, and the first has this number"
    )
    kind: str | None = Field(
        default=None,
        description="kind of each row; a row of another kind than `original` is a variant and not a problem",
    )
    unit: str | None = Field(default=None, description="unit of the answer, added to the question")
    decimals: str | None = Field(
        default=None, description="decimal places that the answer is asked with, added to the question"
    )
    solution: str | None = Field(default=None, description="worked solution: a list, or one step per line")
    variants: tuple[str, ...] = Field(
        default=(), description="texts of rewordings; the first of these columns that a row has something in"
    )
    think_steps: tuple[str, ...] = Field(default=(), description="steps of a written solution, likewise")
    think_answer: tuple[str, ...] = Field(default=(), description="the answer that they reach, likewise")
    think_correct: str | None = Field(default=None, description="false where that answer is a wrong one")
    generator_model: str | None = Field(
        default=None, description="who wrote the variants; None: recorded by the source's name"
    )
    level: str | None = Field(default=None, description="difficulty as the source states it, a number")
    split: str | None = Field(default=None, description="split of each row")
    recorded_split: str | None = Field(
        default=None, description="split recorded for every row, whatever the source calls it"
    )
    answer_format: AnswerFormat = AnswerFormat.PLAIN
    labelled_figures: bool = Field(
        default=False,
        description="one picture holds all figures of a question, each labelled in it: <image1>, ...",
    )
    license: str | None = Field(
        default=None, description="the source's licence, by its SPDX id in lower case"
    )
    hub: str | None = Field(default=None, description="the data set's name on the Hugging Face hub")
    hub_config: str | None = Field(default=None, description="its configuration there")
    hub_split: str | None = Field(default=None, description="split read from there where none is named")


PRESETS: Mapping[str, ColumnMapping] = MappingProxyType(
    {
        "gsm8k": ColumnMapping(
            name="gsm8k",
            license="mit",
            problem="question",
            answer_format=AnswerFormat.GSM8K,
            hub="openai/gsm8k",
            hub_config="main",
            hub_split="train",
        ),
        "mathvision": ColumnMapping(
            name="mathvision",
            license="mit",
            id="id",
            problem="question",
            # The hub's rows have two columns: the picture itself, and its path in an archive that the hub lacks.
            images="decoded_image",
            images_fallback="image",
            options="options",
            solution="solution",
            level="level",
            labelled_figures=True,
            hub="MathLLMs/MathVision",
            hub_split="test",
        ),
        "sharevl": ColumnMapping(
            name="sharevl",
            id="id",
            images="images",
            hub="HuanjinYao/R1-ShareVL-52K",
            hub_split="train",
        ),
        "diva": ColumnMapping(
            name="diva",
            id="id",
            id_optional=True,
            images="images",
            variants=("variants", "variant"),
            think_steps=("think_steps", "step2"),
            think_answer=("think_answer", "answer2"),
            think_correct="correct_think",
        ),
        "verl": ColumnMapping(
            problem="prompt",
            answer="reward_model.ground_truth",
            images="images",
            split="extra_info.split",
        ),
        "trl": ColumnMapping(problem="prompt", images="images"),
        "messages": ColumnMapping(
            problem="messages", answer="messages", answer_format=AnswerFormat.SOLUTION, images="images"
        ),
        "sharegpt": ColumnMapping(
            problem="conversations",
            answer="conversations",
            answer_format=AnswerFormat.SOLUTION,
            images="image",
        ),
        "sft": ColumnMapping(
            problem="prompt", answer="completion", answer_format=AnswerFormat.SOLUTION, images="images"
        ),
        "math": ColumnMapping(answer="solution", answer_format=AnswerFormat.SOLUTION, level="level"),
        "export": ColumnMapping(
            id="problem_id",
            problem="text",
            images="images",
            options="options",
            solution="solution_steps",
            split="split",
            kind="kind",
        ),
    }
)
"""Mappings by name.

Data sets: GSM8K (arXiv 2110.14168), MATH-Vision (arXiv 2402.14804), and R1-ShareVL-52K (arXiv 2505.16673), the
training set of the paper. `diva`: data sets with variants, as the authors' released code writes them
(`pipeline/ingest/augmented.py`). Layouts that many data sets have: veRL (also of DAPO-Math-17k), TRL, conversations in
`messages`, ShareGPT, prompts with completions, MATH (arXiv 2103.03874), and the output of `diva export`.
"""
