"""Options that are made from the fields of configurations, and configurations that are made from options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import click
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from diva_grpo.flows.cli.options import dry_run_option
from diva_grpo.flows.verbs import TEACHER, VERBS
from diva_grpo.schemas.config import BATCH_SIZE, Config, TeacherConfig
from diva_grpo.schemas.exceptions import ConfigError

if TYPE_CHECKING:
    from diva_grpo.pipeline.session.spending import Spending

C = TypeVar("C", bound=BaseModel)
Command = Callable[..., Any]

_teacher_file = click.option(
    "--teacher-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file with these settings; options win.",
)


def spending_options(command: Command) -> Command:
    """Decorate a command with --dry-run, --max-cost, --batch and --batch-size."""
    max_cost = click.option(
        "--max-cost",
        metavar="DOLLARS",
        type=click.FloatRange(min=0, min_open=True),
        help="Stop when this run has spent so much; what is in flight then is still paid for and kept.",
    )
    batch = click.option(
        "--batch",
        is_flag=True,
        help="Use OpenAI's Batch API: half the price, answers within a day. A run that was ended finds them again.",
    )
    batch_size = click.option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(1, 50_000),
        default=BATCH_SIZE,
        show_default=True,
        help="With --batch: requests that wait in memory at once; fewer where images are large.",
    )
    return dry_run_option(max_cost(batch(batch_size(command))))


def _click_type(field: FieldInfo) -> Any:
    """The click type of an option's value. Lists are given as text with commas, which `made` splits."""
    annotation = field.annotation
    choices = [arg for arg in get_args(annotation) if arg is not type(None)]
    if get_origin(annotation) is tuple:
        return str
    if get_origin(annotation) is Literal:
        return click.Choice([str(choice) for choice in get_args(annotation)])
    if len(choices) > 1:
        return str  # a value of one of several types: the configuration parses it
    simple = choices[0] if choices else annotation
    if get_origin(simple) is Literal:  # `Literal[...] | None`
        return click.Choice([str(choice) for choice in get_args(simple)])
    if get_origin(simple) is dict:
        return str
    return click.Path(path_type=Path) if simple is Path else simple


def _shown_default(field: FieldInfo) -> Any:
    """The default as the help shows it; None if the help shows no default, as for a flag or an empty value."""
    if isinstance(field.default, tuple):
        return ",".join(map(str, field.default)) or None
    absent = field.default is False or field.default in (None, "", PydanticUndefined, {})
    return None if absent else field.default


def verb_options(verb: str) -> Callable[[Command], Command]:
    """Decorate a command with one option for each field of its verb's configurations (see `flows.verbs`).

    The field's description is the help. An option that is not given is None, so that the file's value or the
    configuration's default is used. Verbs that use a teacher also get `--teacher-config`, a file with its settings.
    """

    def decorate(command: Command) -> Command:
        for fields in reversed(VERBS[verb].fields):
            if fields is TEACHER:
                command = _teacher_file(command)
            for name, field in reversed([*fields.items()]):
                command = _option(name, field)(command)
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    default = _shown_default(field)
    help_text = f"{field.description}" + (f"  [default: {default}]" if default is not None else "")
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return click.option(flag, name, is_flag=True, default=None, help=help_text)
    return click.option(flag, name, type=_click_type(field), help=help_text)


def made(model: type[C], values: dict[str, Any], file: Path | None = None) -> C:
    """Make a configuration from a YAML file and from options. Options override the file.

    Args:
        model: the class of the configuration.
        values: the options by field name; None: not given.
        file: the YAML file, if any.

    Raises:
        ConfigError: the file cannot be read, or a value is missing or invalid; the message is one line.
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in given.items():
        if get_origin(model.model_fields[name].annotation) is tuple and isinstance(value, str):
            given[name] = tuple(part.strip() for part in value.split(",") if part.strip())
    from_file = _settings(file) if file else {}
    try:
        return model.model_validate({**from_file, **given})
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            raise ConfigError(": ".join(map(str, [file, *first["loc"], first["msg"]]))) from error
        if not first["loc"]:  # an error about a combination of values
            raise ConfigError(first["msg"].removeprefix("Value error, ")) from error
        name = str(first["loc"][0]).replace("_", "-")
        typed = values.get(str(first["loc"][0])) or first["input"]
        hint = f"--{name} {typed}: {first['msg'].removeprefix('Input ')}"
        raise ConfigError(f"give --{name}" if first["type"] == "missing" else hint) from error


def _settings(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(file.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{file} holds no settings: write one `name: value` a line")
    return settings


def take(values: dict[str, Any], model: type[Config], but: Sequence[str] = ()) -> dict[str, Any]:
    """Remove the fields of a configuration from a command's values, and return them.

    Args:
        values: the command's values by name.
        model: the class of the configuration.
        but: fields that stay in `values`.
    """
    return {name: values.pop(name) for name in model.model_fields if name in values and name not in but}


def teacher_of(values: dict[str, Any], *, retry_failed: bool = False) -> TeacherConfig:
    """Remove the settings of the endpoint from a command's values, and return them as a configuration.

    Args:
        values: the command's values by name.
        retry_failed: `retry_failed` of the verb's configuration. True overrides the value in the endpoint's file.
    """
    file = values.pop("teacher_config")
    return made(TeacherConfig, take(values, TeacherConfig) | {"retry_failed": retry_failed or None}, file)


def spending_of(values: dict[str, Any]) -> Spending:
    """Remove `max_cost`, `batch` and `batch_size` from a command's values, and return them as `Spending`."""
    from diva_grpo.pipeline.session.spending import Spending

    return Spending(values.pop("max_cost"), values.pop("batch"), values.pop("batch_size"))
