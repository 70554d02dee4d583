"""The model that `diva train` is to load: which one its arguments name, and whether it can be loaded at all.

This module imports neither torch nor transformers, so that a wrong path is known within a second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import constants, try_to_load_from_cache

from diva_grpo.schemas.exceptions import ConfigError, first_line
from diva_grpo.trainer.arguments import config_file, settings_of

SETTING = "model_name_or_path"
"""TRL's name of the setting."""

_HUB_TIMEOUT_S = 10
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ABBREVIATION = "--model_n"
"""The shortest abbreviation of the option that is not also one of another option."""


def check_model(arguments: Sequence[str]) -> None:
    """Check that a command line of `diva train` names a model, and that this model exists.

    Raises:
        ConfigError: no model is named, or there is no such model.
    """
    if {"-h", "--help"} & set(arguments):
        return
    named = named_model(arguments)
    if named is None:
        raise ConfigError(f"no model: give --{SETTING}")
    check_path(named)


def named_model(arguments: Sequence[str]) -> str | None:
    """Return the model that flags or else a YAML file (`--config`) name; None if they name none.

    A YAML file that cannot be read names none; the parser reports it.
    """
    file = config_file(arguments)
    in_file = settings_of(file).get(SETTING) if file else None
    named = None if in_file is None or file is None else beside(file, str(in_file))
    for argument, following in pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        spelt = flag.replace("-", "_").replace("__", "--", 1)
        if spelt.startswith(_ABBREVIATION) and f"--{SETTING}".startswith(spelt):
            named = value if equals else following
    return named


def beside(file: Path, model: str) -> str:
    """Return the model that a YAML file names: a folder relative to the file if there is one, else the name itself."""
    return str(file.parent / model) if (file.parent / model).is_dir() else model


def check_path(path: str) -> None:
    """Check at once whether a model can be loaded; offline, the hub's client would retry for a minute.

    Raises:
        ConfigError: it is neither a folder, nor a model in the hub's cache, nor a name that the hub can be asked for.
    """
    if Path(path).exists():
        return
    if not _HUB_NAME.fullmatch(path):
        raise ConfigError(f"model {path}: there is no such folder, and a name of the hub is owner/name")
    try:
        kept = [try_to_load_from_cache(path, name) for name in ("config.json", "adapter_config.json")]
    except ValueError as error:  # an invalid name, such as `a..b`
        raise ConfigError(f"model {path}: {first_line(error)}") from error
    if any(isinstance(file, str) for file in kept):
        return
    unreachable = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else hub_error()
    if unreachable:
        raise ConfigError(
            f"model {path}: there is no such folder, and the hub cannot be asked for that name: {unreachable}"
        )


@cache
def hub_error() -> str:
    """Return why the hub cannot be reached; empty if it can."""
    request = Request(constants.ENDPOINT, method="HEAD")
    try:
        urlopen(request, timeout=_HUB_TIMEOUT_S).close()
    except HTTPError:  # the hub answered
        return ""
    except OSError as error:
        return f"{constants.ENDPOINT}: {getattr(error, 'reason', error)}"
    return ""
