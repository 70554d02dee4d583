"""A request to a teacher: everything that determines the answer, and the form that a certain endpoint needs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal, Self

from diva_grpo.pipeline.teacher import delimited
from diva_grpo.pipeline.teacher.journal import request_hash
from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_name, speaks_openai
from diva_grpo.pipeline.teacher.wire.refusal import names_mode, names_role, too_long
from diva_grpo.schemas.config import OutputMode, TeacherConfig
from diva_grpo.schemas.replies import Reply

WireMode = Literal["json_schema", "json_object", "text", "delimited"]
"""How a structured answer is asked for: as JSON of a schema that the endpoint enforces, as any JSON that it enforces,
as JSON that only the prompt asks for, or as plain text between marks (see `delimited`)."""

_SIMPLER: Mapping[WireMode, WireMode] = {"json_schema": "json_object", "json_object": "text"}
"""By output mode, the one that is tried where an endpoint refuses it or ignores it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The dialect of a model at an endpoint: the form that a request must have. It is not part of the journal's key.

    Attributes:
        output_mode: how structured answers are asked for.
        limit: name of the parameter for the largest number of completion tokens. OpenAI's models need
            `max_completion_tokens`. Many other servers know only `max_tokens` and ignore unknown parameters.
        limit_changed: whether `limit` was changed after a refusal.
        omitted: optional parameters that the endpoint refuses and that are left out. `system` means that the system
            message is put at the beginning of the user message.
    """

    output_mode: WireMode = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_completion_tokens"
    limit_changed: bool = False
    omitted: frozenset[str] = frozenset()

    @classmethod
    def first(cls, config: TeacherConfig, output_mode: WireMode) -> Self:
        """The dialect in which a model is asked before anything is known about its endpoint."""
        return cls(output_mode, "max_completion_tokens" if speaks_openai(config) else "max_tokens")

    def after_refusal(self, cause: str, *, may_change_mode: bool) -> Self | None:
        """The dialect to try after an endpoint has refused a request; None if no other dialect would help.

        The error codes differ between endpoints, but all endpoints name the parameter. Each parameter is changed at
        most once, so that the number of attempts is small if the refusal has another reason.

        Args:
            cause: the parameter that the endpoint named, or else its message.
            may_change_mode: whether the output mode may be changed, because the user did not set it.
        """
        if too_long(cause):
            return None
        if may_change_mode and names_mode(cause):
            return self.simpler()
        if "system" not in self.omitted and names_role(cause):
            return replace(self, omitted=self.omitted | {"system"})
        if self.limit in cause and not self.limit_changed:
            newer = self.limit == "max_tokens"
            return replace(self, limit="max_completion_tokens" if newer else "max_tokens", limit_changed=True)
        for name in ("reasoning_effort", "temperature", "seed"):
            if name not in self.omitted and re.search(rf"\b{name}\b", cause):
                return replace(self, omitted=self.omitted | {name})
        return None

    def simpler(self) -> Self | None:
        """The dialect with the next simpler output mode; None if the present mode is the simplest."""
        mode = _SIMPLER.get(self.output_mode)
        return replace(self, output_mode=mode) if mode else None

    def to_json(self) -> str:
        """The dialect as JSON text, in which form the journal stores it."""
        return json.dumps(asdict(self) | {"omitted": sorted(self.omitted)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The dialect from its JSON text, see `to_json`."""
        values = json.loads(text)
        return cls(**values | {"omitted": frozenset(values["omitted"])})


@dataclass(frozen=True)
class Request:
    """A request: everything that determines the answer.

    Attributes:
        endpoint: name of the endpoint.
        model: name of the model.
        system: the system message; empty for none.
        content: the user message: a text, or a list of texts and images in the format of the API.
        shape: pydantic model of a structured answer; None for plain text.
        output_mode: the configured output mode. `auto` is part of the key as such, whatever mode is used then.
        temperature: sampling temperature.
        max_tokens: largest number of completion tokens.
        sample: number of the sample; sent as the seed. Requests that differ only in it get independent answers.
        reasoning_effort: the configured effort; None to send none.
        more: further fields of the body.
    """

    endpoint: str
    model: str
    system: str
    content: str | list[dict[str, Any]]
    shape: type[Reply] | None
    output_mode: OutputMode
    temperature: float
    max_tokens: int
    sample: int
    reasoning_effort: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: TeacherConfig,
        system: str,
        content: str | list[dict[str, Any]],
        shape: type[Reply] | None,
        sample: int = 0,
    ) -> Self:
        """A request with the settings of an endpoint."""
        return cls(
            endpoint=endpoint_name(config),
            model=config.model,
            system=system,
            content=content,
            shape=shape,
            output_mode=config.output_mode,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            sample=sample,
            reasoning_effort=config.reasoning_effort,
            more=config.request_fields,
        )

    @cached_property
    def key(self) -> str:
        """The key of the request in the journal. It does not depend on the dialect."""
        mode: WireMode = "json_schema" if self.output_mode == "auto" else self.output_mode
        identity = self._body(Dialect(output_mode=mode), _schema)
        if self.shape and self.output_mode == "auto":
            identity["response_format"]["type"] = "auto"
        return request_hash({"endpoint": self.endpoint, "sample": self.sample, **identity})

    def parameters(self, dialect: Dialect) -> dict[str, Any]:
        """The body of the chat completion request in a dialect."""
        return self._body(dialect, flat_schema)

    def _body(self, dialect: Dialect, schema: Callable[[type[Reply]], dict[str, Any]]) -> dict[str, Any]:
        content = self.content
        if self.shape and dialect.output_mode != "json_schema":
            content = _with_text(content, f"\n\n{_in_words(self.shape, dialect.output_mode)}")
        system = self.system
        if "system" in dialect.omitted and system:
            content, system = _after_text(f"{system}\n\n", content), ""
        parameters: dict[str, Any] = {
            "model": self.model,
            "messages": [
                *([{"role": "system", "content": system}] if system else []),
                {"role": "user", "content": content},
            ],
            "temperature": self.temperature,
            dialect.limit: self.max_tokens,
            "seed": self.sample,
            **({"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}),
            **self.more,
        }
        for name in dialect.omitted:
            parameters.pop(name, None)
        if self.shape and dialect.output_mode == "json_schema":
            wanted = {"name": self.shape.__name__, "schema": schema(self.shape), "strict": True}
            parameters["response_format"] = {"type": "json_schema", "json_schema": wanted}
        elif self.shape and dialect.output_mode == "json_object":
            parameters["response_format"] = {"type": "json_object"}
        return parameters

    def repair(self, dialect: Dialect, content: str, fault: str) -> dict[str, Any]:
        """The body of a request that asks to correct an answer without the asked shape.

        It is the original request, followed by that answer and the error.

        Args:
            dialect: the dialect.
            content: text of the answer.
            fault: the error in the answer.
        """
        assert self.shape
        parameters = self.parameters(dialect)
        parameters["messages"] += [
            {"role": "assistant", "content": content},
            {
                "role": "user",
                "content": f"That answer cannot be read: {fault}\n\n{_in_words(self.shape, dialect.output_mode)}",
            },
        ]
        return parameters


def _with_text(content: str | list[dict[str, Any]], text: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content + text
    *before, last = content
    if last["type"] != "text":
        return [*content, {"type": "text", "text": text}]
    return [*before, {"type": "text", "text": last["text"] + text}]


def _after_text(text: str, content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    return text + content if isinstance(content, str) else [{"type": "text", "text": text}, *content]


@cache
def flat_schema(shape: type[Reply]) -> dict[str, Any]:
    """The JSON schema of a shape with all references replaced, because not all servers support references."""
    schema = _schema(shape)
    flat = _flat(schema, schema.get("$defs", {}))
    assert isinstance(flat, dict)
    return {name: value for name, value in flat.items() if name != "$defs"}


def _flat(value: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_flat(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    own = {name: _flat(inner, definitions) for name, inner in value.items() if name not in ("$ref", "$defs")}
    if "$ref" in value:
        return _flat(definitions[value["$ref"].rpartition("/")[2]], definitions) | own
    return own


@cache
def _schema(shape: type[Reply]) -> dict[str, Any]:
    return shape.model_json_schema()


def _in_words(shape: type[Reply], mode: WireMode) -> str:
    if mode == "delimited":
        return delimited.in_words(shape)
    schema = json.dumps(_schema(shape))
    return f"Answer with one JSON object of this schema and nothing else:\n{schema}"
