"""Prompts are files with a version, which becomes part of every record made with them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template

import yaml

NAMES = ("reword", "harder", "think_step", "solve", "judge")

_MARK = re.compile(r"^(</?)(\w+)>$", re.MULTILINE)
"""A line of a prompt that begins or ends a text, such as `<problem>`."""


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

        A value stays between its marks (`<problem>` and `</problem>`): where one holds what looks like a mark, all
        marks of the message get a suffix that no value holds. The same values always give the same message.

        Raises:
            KeyError: a value is missing.
        """
        texts = {name: str(value) for name, value in values.items()}
        names = {name for _, name in _MARK.findall(self.user)}
        user = self.user
        if any(_looks_like(name, text) for name in names for text in texts.values()):
            user = _MARK.sub(rf"\1\2-{_suffix(texts.values())}>", user)
        return Template(user).substitute(texts)


def _looks_like(mark: str, text: str) -> bool:
    """Whether a reader may take a part of a text for a mark: in any case, width or spacing."""
    shown = "".join(
        character
        for character in unicodedata.normalize("NFKC", text).casefold()
        if not character.isspace() and unicodedata.category(character) != "Cf"
    )
    return f"<{mark}" in shown or f"/{mark}" in shown


def _suffix(texts: Iterable[str]) -> str:
    """Eight hexadecimal digits that the texts determine and do not hold: nobody can write a text around them."""
    joined = "\0".join(texts)
    digest = hashlib.sha256(joined.encode()).hexdigest()
    while digest[:8] in joined.casefold():
        digest = hashlib.sha256(digest.encode()).hexdigest()
    return digest[:8]


@cache
def load_prompt(name: str) -> Prompt:
    """The prompt of that name (one of `NAMES`)."""
    return Prompt(
        **yaml.safe_load(
            files("diva_grpo.pipeline.teacher.prompts").joinpath(f"{name}.yaml").read_text("utf-8")
        )
    )
