"""Prompts are files with a version, which becomes part of every record made with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template

import yaml

NAMES = ("reword", "harder", "think_step", "solve", "judge")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file.

    Attributes:
        version: changes with any change of wording, so that records and journal keys tell them apart.
        system: the system message, as it is.
        user: the user message, with `$name` where a value goes.
    """

    version: str
    system: str
    user: str

    def fill(self, **values: object) -> str:
        """The user message with every `$name` filled in.

        Raises:
            KeyError: a value is missing.
        """
        return Template(self.user).substitute({name: str(value) for name, value in values.items()})


@cache
def load_prompt(name: str) -> Prompt:
    """The prompt of that name (one of `NAMES`)."""
    return Prompt(
        **yaml.safe_load(
            files("diva_grpo.pipeline.teacher.prompts").joinpath(f"{name}.yaml").read_text("utf-8")
        )
    )
