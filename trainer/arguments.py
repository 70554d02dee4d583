"""The arguments of `diva train`, read from the source of their dataclasses.

To import TRL's takes 9 seconds. So a misspelt name is found, and the help shown, before torch is loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import yaml

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.nearest import unknown

OWN = (("diva_grpo.trainer.train", "TrainArguments"), ("diva_grpo.trainer.config", "DivaGRPOConfig"))
"""Modules and dataclasses of this project."""

HOSTS = (
    ("trl.trainer.grpo_config", "GRPOConfig"),
    ("trl.trainer.base_config", "_BaseConfig"),
    ("trl.trainer.model_config", "ModelConfig"),
    ("transformers.training_args", "TrainingArguments"),
)
"""Those of TRL and transformers; of two fields with one name the first holds."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A field of a dataclass, as its source declares it.

    Attributes:
        name: of the field.
        default: its default as source text; None where the source does not state it as a literal.
        help: the help in its metadata.
    """

    name: str
    default: str | None
    help: str


def declared(module: str, name: str) -> list[Argument]:
    """The fields that a dataclass declares itself (those of its bases are not among them).

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
    """The field that a statement of a dataclass declares; None where it declares none that can be given."""
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
    """All arguments by name, ours first."""
    found: dict[str, Argument] = {}
    for module, name in (*OWN, *HOSTS):
        for argument in declared(module, name):
            found.setdefault(argument.name, argument)
    return found


def check_names(arguments: Sequence[str]) -> None:
    """Find what is misspelt in a command line of `diva train` and in its YAML file.

    Raises:
        ConfigError: there is no such argument; with the nearest that there are.
    """
    names = known()
    options = {spelt for name in names for spelt in _spellings(name)} | {"config", "help"}
    for flag in _flags(arguments):
        # An abbreviation is for the parser, which also says where it stands for several.
        if not any(option.startswith(flag) for option in options):
            flags = [f"--{name}" for name in names]
            raise ConfigError(f"{unknown('option', f'--{flag}', flags)} (`diva train --help`)")
    for file in _config_files(arguments):
        for key in _keys(file):
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


def _config_files(arguments: Sequence[str]) -> Iterator[Path]:
    for argument, value in pairwise(arguments):
        if argument == "--config":
            yield Path(value)


def _keys(file: Path) -> list[str]:
    """The keys of a YAML file; none of one that cannot be read, which is for the parser to say."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    return [str(key) for key in content] if isinstance(content, dict) else []
