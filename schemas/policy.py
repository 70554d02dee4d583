"""Prompt and sampling settings of a policy, which are stored with each training run, and settings of `diva eval`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from diva_grpo.schemas.config import Config, StorePath, json_object

HintStyle = Literal["prompt", "prefix"]


class PolicyConfig(Config):
    """Prompt and sampling settings of a policy, for training, `diva eval` and `diva label`. Each run stores its own.

    Example:
        >>> PolicyConfig(repetition_penalty=1.05).temperature
        1.0
    """

    system_prompt: str | None = Field(default=None, description="System message, if any.")
    instruction: str = Field(default="", description="Added after each question.")
    hint_style: HintStyle = Field(
        default="prompt", description="Think steps stand in the question, or open the answer (prefix)."
    )
    hint_opening: str = Field(default="", description="Text before think steps that open the answer.")
    chat_template: str | None = Field(
        default=None, description="Digest of the chat template; NULL of a model without one."
    )
    chat_template_kwargs: dict[str, Any] = Field(default={}, description="Arguments of the chat template.")
    temperature: float = Field(
        default=1.0, ge=0, description="Sampling temperature; 0 takes the likeliest token."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Probability of the tokens that are sampled from."
    )
    top_k: int = Field(default=0, ge=0, description="Number of tokens that are sampled from; 0: all.")
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Least probability of a token, relative to the likeliest."
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0, description="Above 1, penalizes tokens that came before."
    )
    generation_kwargs: dict[str, Any] = Field(default={}, description="Further arguments of the generation.")
    max_new_tokens: int = Field(default=512, ge=1, description="Longest answer, in tokens.")
    min_pixels: int | None = Field(default=None, ge=1, description="Images with a smaller area are enlarged.")
    max_pixels: int | None = Field(
        default=None, ge=1, description="Images with a larger area are made smaller."
    )

    @classmethod
    def from_kept(cls, kept: dict[str, Any]) -> PolicyConfig:
        """Read the settings that a run has stored. Unknown fields, which another version wrote, are ignored."""
        return cls.model_validate({name: value for name, value in kept.items() if name in cls.model_fields})

    def asked_with(self, options: PolicyOptions) -> PolicyConfig:
        """A copy of these settings in which the options that are not None replace the fields of the same name."""
        given = {name: getattr(options, name) for name in PolicyOptions.model_fields}
        return self.model_copy(update={name: value for name, value in given.items() if value is not None})

    def differences(self, trained: PolicyConfig) -> str:
        """The fields that differ from the settings of a training, in one line of text; empty if none differ."""
        pairs = {name: (getattr(self, name), getattr(trained, name)) for name in type(self).model_fields}
        shown = [
            f"{name} {json.dumps(own, ensure_ascii=False)} instead of {json.dumps(other, ensure_ascii=False)}"
            for name, (own, other) in pairs.items()
            if own != other
        ]
        return ", ".join(shown)


class PolicyOptions(Config):
    """A user's prompt and sampling settings of a policy.

    None uses the setting of the policy's training, or the default of `PolicyConfig` if that is unknown.
    """

    temperature: float | None = Field(
        default=None,
        ge=0,
        description="0 takes the likeliest token.  [default: training's, or 1; 0 for one answer of a benchmark]",
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="Longest answer.  [default: training's, or 512; 4096 for a benchmark]"
    )
    system_prompt: str | None = Field(default=None, description="System message.  [default: training's]")
    instruction: str | None = Field(
        default=None, description="Added after each question.  [default: training's; a benchmark's own]"
    )
    hint_style: HintStyle | None = Field(
        default=None, description="Where think steps stand.  [default: training's, or prompt]"
    )
    hint_opening: str | None = Field(
        default=None, description="Text before think steps that open the answer.  [default: training's]"
    )
    chat_template_kwargs: Annotated[dict[str, Any] | None, BeforeValidator(json_object)] = Field(
        default=None,
        description="Arguments of the chat template as JSON, such as "
        """'{"enable_thinking": false}'.  [default: training's]""",
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Probability of the tokens that are sampled from.  [default: training's, or 1]",
    )
    top_k: int | None = Field(
        default=None,
        ge=0,
        description="Number of tokens that are sampled from; 0: all.  [default: training's, or 0]",
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least probability of a token, relative to the likeliest.  [default: training's]",
    )
    repetition_penalty: float | None = Field(
        default=None,
        gt=0,
        description="Above 1, penalizes tokens that came before.  [default: training's, or 1, whatever the model's "
        "generation_config says]",
    )
    max_pixels: int | None = Field(
        default=None,
        ge=1,
        description="Images with a larger area are made smaller.  [default: training's, or the processor's own bound]",
    )


class EvaluateConfig(PolicyOptions):
    """Settings of an evaluation: the model, the problems of a split or a benchmark, and the sampling."""

    store: StorePath = Field(description="Folder of the store.")
    model: str = Field(description="Model folder, checkpoint or hub name.")
    split: str = Field(default="test", description="Split of the problems.")
    problem_filter: str | None = Field(default=None, description="SQL condition on `problems`.")
    benchmark: str | None = Field(
        default=None, description="mathvista, mathverse, mathvision, olympiadbench, wemath or mmk12."
    )
    source: str | None = Field(
        default=None,
        description="File or hub name to read the benchmark from.  [default: its own on the hub]",
    )
    kinds: str = Field(
        default="", description="Also on accepted variants of these kinds, such as reword,image, or all."
    )
    limit: int | None = Field(default=None, ge=1, description="Only the first N problems, by id.")
    samples: int = Field(default=1, ge=1, description="Answers to each problem.")
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Answers generated at once.  [default: 256; 16 for a vision-language model]",
    )
    seed: int = Field(default=0, description="Seed of the samples.")

    @model_validator(mode="after")
    def _source_of_a_benchmark(self) -> Self:
        if self.source and not self.benchmark:
            raise ValueError("--source goes with --benchmark; `diva ingest` reads other problems")
        return self
