"""Options shared by commands, made from the fields of the configuration models."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from diva_grpo.schemas.config import Config, TeacherConfig
from diva_grpo.schemas.exceptions import ConfigError

C = TypeVar("C", bound=BaseModel)
Command = Callable[..., Any]

store_option = click.option(
    "--store", "store_dir", required=True, type=click.Path(path_type=Path), help="Folder of the store."
)
limit_option = click.option("--limit", type=click.IntRange(min=1), help="Only the first problems, by id.")


def _click_type(field: FieldInfo) -> Any:
    """The type of an option's value; lists are given with commas, and split by `made`."""
    annotation = field.annotation
    choices = [arg for arg in get_args(annotation) if arg is not type(None)]
    if get_origin(annotation) is tuple:
        return str
    if get_origin(annotation) is Literal:
        return click.Choice([str(choice) for choice in get_args(annotation)])
    if len(choices) > 1:
        return str  # of several forms: the model reads it
    simple = choices[0] if choices else annotation
    if get_origin(simple) is Literal:  # of an option that may be left out
        return click.Choice([str(choice) for choice in get_args(simple)])
    return click.Path(path_type=Path) if simple is Path else simple


def _shown_default(field: FieldInfo) -> Any:
    if isinstance(field.default, tuple):
        return ",".join(map(str, field.default))
    return field.default if field.default not in (None, PydanticUndefined) else None


def config_options(model: type[BaseModel], *skip: str) -> Callable[[Command], Command]:
    """One option for each field of a configuration, with the field's description as its help.

    An option that is not given is None, so that a file's value or the model's default holds.
    """

    def decorate(command: Command) -> Command:
        for name, field in reversed(model.model_fields.items()):
            if name in skip:
                continue
            default = _shown_default(field)
            help_text = f"{field.description}" + (f"  [default: {default}]" if default is not None else "")
            flag = f"--{name.replace('_', '-')}"
            if field.annotation is bool:
                command = click.option(flag, name, is_flag=True, default=None, help=help_text)(command)
            else:
                command = click.option(flag, name, type=_click_type(field), help=help_text)(command)
        return command

    return decorate


def made(model: type[C], values: dict[str, Any], file: Path | None = None) -> C:
    """A configuration from a YAML file and from options, which win.

    Raises:
        ConfigError: a value that does not fit, named in one line.
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
        if not first["loc"]:  # of several values together
            raise ConfigError(first["msg"].removeprefix("Value error, ")) from error
        name = str(first["loc"][0]).replace("_", "-")
        if first["type"] == "extra_forbidden":  # its value may be a secret
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{file}: there is no setting {where!r}; --help names them all") from error
        typed = values.get(str(first["loc"][0])) or first["input"]
        hint = f"--{name} {typed}: {first['msg'].removeprefix('Input ')}"
        raise ConfigError(f"give --{name}" if first["type"] == "missing" else hint) from error


def command_line(command: click.Command, config: BaseModel) -> str:
    """What to type for a configuration, without options that have their default or that the command has not.

    What only a file can give (a teacher's routes, a second teacher) has a place for the file.
    """
    flags = {flag for parameter in command.params for flag in parameter.opts}
    words = ["diva", str(command.name)]
    for name, value in dict(_options_of(config)).items():
        flag = f"--{name.replace('_', '-')}"
        if flag in flags:
            words += [flag] if value is None else [flag, value]
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """A word for a shell; a text in SQL, with quotes of its own, stays readable."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _options_of(config: BaseModel, usual: BaseModel | None = None) -> Iterator[tuple[str, str | None]]:
    """Names and values of the options that differ from what is usual; a switch has no value."""
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
            yield f"no_{name}s", None  # a stage that is left out
        elif isinstance(value, bool):
            yield name, None
        elif isinstance(value, list):
            yield name, ",".join(map(str, value))
        elif isinstance(value, dict):
            yield name, ",".join(f"{key}={count}" for key, count in value.items())
        else:
            yield name, str(value)


def _settings(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(file.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{file} holds no settings: write one `name: value` a line")
    return settings


def teacher_options(command: Command) -> Command:
    """The endpoint's options, and `--teacher-config` for a file with them."""
    file_option = click.option(
        "--teacher-config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="YAML file with these settings; options win.",
    )
    return config_options(TeacherConfig, "routes", "retry_failed")(file_option(command))


def take(values: dict[str, Any], model: type[Config]) -> dict[str, Any]:
    """The values of a command that belong to a configuration, removed from `values`."""
    return {name: values.pop(name) for name in model.model_fields if name in values}


def teacher_of(values: dict[str, Any], *, retry_failed: bool = False) -> TeacherConfig:
    """The endpoint of a command's options, removed from `values`.

    Args:
        values: the command's.
        retry_failed: of the verb's own configuration; True wins over a file.
    """
    file = values.pop("teacher_config")
    return made(TeacherConfig, take(values, TeacherConfig) | {"retry_failed": retry_failed or None}, file)
