"""The arguments of `diva train`, read from the source code of their dataclasses without importing it.

An import of TRL's dataclasses takes 9 seconds. With this module, `diva train` can show its help and report a misspelled
argument before torch is loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.nearest import unknown
from diva_grpo.trainer.presets import DEFAULT_PRESET, METHOD, TRAINING_PRESETS

OWN = (("diva_grpo.trainer.train", "TrainArguments"), ("diva_grpo.trainer.config", "DivaGRPOConfig"))
"""Modules and names of this project's dataclasses."""

HOSTS = (
    ("trl.trainer.grpo_config", "GRPOConfig"),
    ("trl.trainer.base_config", "_BaseConfig"),
    ("trl.trainer.model_config", "ModelConfig"),
    ("transformers.training_args", "TrainingArguments"),
)
"""Modules and names of the dataclasses of TRL and transformers. If several have a field, that of the first is used."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A field of a dataclass, as its source code declares it.

    Attributes:
        name: name of the field.
        default: its default value as source code; None if there is none, or if it is not a literal.
        help: help text in its metadata; empty if there is none.
    """

    name: str
    default: str | None
    help: str


def declared(module: str, name: str) -> list[Argument]:
    """Return the fields that a dataclass declares itself, without those of its base classes.

    Raises:
        ModuleNotFoundError: the package of the module is not installed.
    """
    package, *inner = module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package}", name=package)
    if package == "diva_grpo":
        path = Path(__file__).with_name(f"{inner[-1]}.py")
    else:
        path = Path(spec.submodule_search_locations[0], *inner).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return [argument for node in body if (argument := _argument(node))]


def _argument(node: ast.stmt) -> Argument | None:
    """Return the field that a statement of a dataclass declares.

    None if it declares no field, or one that cannot be set (`ClassVar`, `init=False`).
    """
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
        return None
    if "ClassVar" in ast.unparse(node.annotation):
        return None
    keywords = {}
    if isinstance(node.value, ast.Call):
        keywords = {keyword.arg: keyword.value for keyword in node.value.keywords if keyword.arg}
    if "init" in keywords and not _literal(keywords["init"]):
        return None
    default = keywords.get("default", None if isinstance(node.value, ast.Call) else node.value)
    stated = None if default is None or _literal(default) is None else ast.unparse(default)
    metadata = keywords.get("metadata")
    text = ""
    if isinstance(metadata, ast.Dict):
        entries = zip(metadata.keys, metadata.values, strict=True)
        text = next(
            (str(_literal(value) or "") for key, value in entries if key and _literal(key) == "help"), ""
        )
    return Argument(node.target.id, stated, " ".join(text.split()))


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def known() -> dict[str, Argument]:
    """Return all arguments of `diva train` by name, those of this project first."""
    found: dict[str, Argument] = {}
    for module, name in (*OWN, *HOSTS):
        for argument in declared(module, name):
            found.setdefault(argument.name, argument)
    return found


def check_names(arguments: Sequence[str]) -> None:
    """Check the names of arguments in a command line of `diva train` and in its YAML files.

    Raises:
        ConfigError: there is no argument of this name. The message suggests similar names.
    """
    names = known()
    options = {spelt for name in names for spelt in _spellings(name)} | {"config", "help"}
    for flag in _flags(arguments):
        # Abbreviations are accepted here. The parser handles them, and reports ambiguous ones.
        if not any(option.startswith(flag) for option in options):
            flags = [f"--{name}" for name in names]
            raise ConfigError(f"{unknown('option', f'--{flag}', flags)} (`diva train --help`)")
    if file := config_file(arguments):
        for key in settings_of(file):
            if key not in names and key != "env":
                raise ConfigError(f"{file}: {unknown('setting', key, names)}")


def _spellings(name: str) -> Iterator[str]:
    for spelt in (name, f"no_{name}"):
        yield spelt
        yield spelt.replace("_", "-")


def _flags(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        if argument.startswith("--") and argument != "--":
            yield argument.removeprefix("--").partition("=")[0]


def config_file(arguments: Sequence[str]) -> Path | None:
    """Return the YAML file that a command line of `diva train` names; None if it names none."""
    named = next(_values(arguments, "config"), None)
    return Path(named) if named else None


def _values(arguments: Sequence[str], name: str) -> Iterator[str]:
    """Yield the values that a command line gives to an option, as `--name value` or `--name=value`."""
    for argument, after in pairwise([*arguments, ""]):
        flag, sign, value = argument.partition("=")
        if flag == f"--{name}":
            yield value if sign else after


def preset_of(arguments: Sequence[str]) -> tuple[str | None, list[str], Mapping[str, Any]]:
    """Find the preset of a command line of `diva train`, or else of its YAML file.

    Returns:
        Its name; its settings as flags if it is on the command line, where it overrides the file; and its settings as
        defaults if it is in the file, whose other settings override it. If none is named, it is `DEFAULT_PRESET`, or
        None where an option of the method is set.

    Raises:
        ConfigError: there is no such preset.
    """
    by_flag = next(_values(arguments, "preset"), None)
    file = config_file(arguments)
    in_file = settings_of(file) if file else {}
    name = by_flag if by_flag is not None else in_file.get("preset")
    if name is None:
        given = {flag.replace("-", "_") for flag in _flags(arguments)} | in_file.keys()
        if given & set(METHOD):
            return None, [], {}
        name = DEFAULT_PRESET
    if name not in TRAINING_PRESETS:
        raise ConfigError(f"preset={name!r}: choose one of {', '.join(TRAINING_PRESETS)}")
    settings = TRAINING_PRESETS[name]
    if by_flag is not None:
        return name, [f"--{key}={value}" for key, value in settings.items()], {}
    return name, [], {"preset": name, **settings}


def settings_of(file: Path) -> dict[str, Any]:
    """Return the settings of a YAML file; none if it cannot be read, which the parser reports later."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
