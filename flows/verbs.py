"""The options of each verb: which fields of which configurations they set.

The command line makes its options from these tables, and a failed run uses them to name the command that continues.
This module does not import the command line, so that a Prefect worker can load a flow without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from diva_grpo.schemas.command import diva
from diva_grpo.schemas.config import (
    CurateConfig,
    ExportConfig,
    GenerateConfig,
    LabelConfig,
    TeacherConfig,
    TopUpConfig,
    VerifyConfig,
)
from diva_grpo.schemas.policy import EvaluateConfig, PolicyOptions


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a configuration that are options of a verb.

    Attributes:
        title: heading of these options in the verb's help.
        model: the configuration.
        skip: fields of the configuration that are not options of the verb.
        first: fields that `--help` shows; the others appear only in `--help-all`. Empty: `--help` shows all.
    """

    title: str
    model: type[BaseModel]
    skip: tuple[str, ...] = ()
    first: tuple[str, ...] = ()

    def items(self) -> Iterator[tuple[str, FieldInfo]]:
        """Yield the name and the field of each option, in the order of the configuration."""
        for name, field in self.model.model_fields.items():
            if name not in self.skip:
                yield name, field


@dataclass(frozen=True, slots=True)
class Verb:
    """The options of a verb.

    Attributes:
        fields: the options that are fields of configurations.
        own: names of the verb's other options that correspond to settings of a flow's configuration, such as `store`.
    """

    fields: tuple[Fields, ...]
    own: tuple[str, ...] = ("store",)

    def __contains__(self, name: str) -> bool:
        return name in self.own or any(name == field for fields in self.fields for field, _ in fields.items())


TEACHER = Fields(
    "Endpoint",
    TeacherConfig,
    skip=("routes", "retry_failed"),
    first=("model", "base_url", "key_env", "concurrency", "max_tokens"),
)
_GENERATE = Fields(
    "Variants", GenerateConfig, first=("kinds", "rewordings", "harder", "accepted", "retry_failed")
)
_CHECKS = ("checks", "solver_samples", "evaluation_sets", "retry_failed")
_VERIFY = Fields("Checks", VerifyConfig, first=_CHECKS)
_LABEL = Fields("Labels", LabelConfig)
# The endpoint's options for temperature, longest answer and image area also set the policy's fields in `skip`.
_POLICY = Fields(
    "With --policy or --as-policy",
    PolicyOptions,
    skip=("temperature", "max_new_tokens", "max_pixels"),
    first=("system_prompt", "hint_style"),
)
# In a verb with several stages, the first stage's option `retry_failed` is used for all of them.
_VERIFY_TOO = Fields("Checks", VerifyConfig, skip=("retry_failed",), first=_CHECKS)
_LABEL_TOO = Fields("Labels", LabelConfig, skip=("retry_failed",))
_LIMITS = ("max_cost", "batch", "batch_size")
_PARTS = ("store", "teacher", "generate", "verify", "label")

VERBS: dict[str, Verb] = {
    "check": Verb((TEACHER,), own=("store", "teacher_config")),
    "generate": Verb(
        (TEACHER, _GENERATE, _VERIFY_TOO),
        own=("store", "teacher_config", "problem_filter", "limit", *_LIMITS),
    ),
    "verify": Verb((TEACHER, _VERIFY), own=("store", "teacher_config", "problem_filter", *_LIMITS)),
    "label": Verb(
        (TEACHER, _LABEL, _POLICY), own=("store", "teacher_config", "problem_filter", "limit", *_LIMITS)
    ),
    "export": Verb((Fields("Output", ExportConfig, first=("format", "what", "preset", "where")),)),
    "curate": Verb(
        (
            TEACHER,
            _GENERATE,
            _VERIFY_TOO,
            _LABEL_TOO,
            Fields(
                "Run",
                CurateConfig,
                skip=_PARTS,
                first=("problem_filter", "limit", "workers", "max_cost", "batch"),
            ),
        ),
        own=("store", "teacher_config", "no_labels"),
    ),
    "top-up": Verb(
        (
            TEACHER,
            Fields(
                "Run",
                TopUpConfig,
                skip=(*_PARTS, "solver"),
                first=(
                    "run",
                    "problem_filter",
                    "variants",
                    "max_problems",
                    "max_variants",
                    "max_cost",
                    "batch",
                ),
            ),
            Fields(
                "Variants",
                GenerateConfig,
                skip=("kinds", "accepted", "rewordings", "harder"),
                first=("retry_failed",),
            ),
            _VERIFY_TOO,
            _LABEL_TOO,
        ),
        own=("store", "teacher_config", "solver_config", "kinds", "no_labels"),
    ),
    "eval": Verb(
        (
            Fields(
                "Evaluation",
                EvaluateConfig,
                skip=("store", *PolicyOptions.model_fields),
                first=(
                    "model",
                    "split",
                    "problem_filter",
                    "benchmark",
                    "kinds",
                    "limit",
                    "samples",
                ),
            ),
            Fields("How it is asked", PolicyOptions, first=("temperature", "max_new_tokens")),
        )
    ),
}
"""The verbs that have options from configurations, by name."""

VERB_OF_FLOW = {"top_up": "top-up", "evaluate": "eval"}
"""The verb of each flow whose name differs from its verb's."""


def command_line(verb: str, config: BaseModel) -> str:
    """The command that runs a verb with a configuration.

    It leaves out options with their default value, and fields that are not options of the verb. For settings that only
    a file can give (the routes of a teacher, a second teacher), the command has `FILE` in place of the file's name.
    """
    words = [verb]
    for name, value in dict(_options_of(config)).items():
        if name in VERBS[verb]:
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is None else [flag, value]
    return diva(*words)


def _options_of(config: BaseModel, usual: BaseModel | None = None) -> Iterator[tuple[str, str | None]]:
    """Yield names and values of the options that differ from their defaults. The value of a flag is None.

    Args:
        config: the configuration.
        usual: the configuration whose values are the defaults; None: the defaults of the fields.
    """
    values = config.model_dump(mode="json")  # URLs without secrets
    for name, field in type(config).model_fields.items():
        value, inner = values[name], getattr(config, name)
        default = getattr(usual, name) if usual else field.default
        if inner == default:
            continue
        if name == "routes":
            yield "teacher_config", "FILE"
        elif isinstance(inner, TeacherConfig) and name != "teacher":
            yield f"{name}_config", "FILE"
        elif isinstance(inner, BaseModel):
            yield from _options_of(inner, default if isinstance(default, BaseModel) else None)
        elif value is None and isinstance(default, BaseModel):
            yield f"no_{name}s", None  # the stage is disabled
        elif isinstance(value, bool):
            yield name, None
        elif isinstance(value, list):
            yield name, ",".join(map(str, value))
        elif isinstance(value, dict):
            is_json = name in ("request_fields", "chat_template_kwargs")
            yield (
                name,
                json.dumps(value) if is_json else ",".join(f"{key}={count}" for key, count in value.items()),
            )
        else:
            yield name, str(value)
