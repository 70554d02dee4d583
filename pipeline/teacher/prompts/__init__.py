"""The prompts: files with a version, which is stored in every record that was made with the prompt."""

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
"""A mark: a line of a prompt before or after an inserted text, such as `<problem>` or `</problem>`."""

_ALIKE = str.maketrans("аеорсхіѕгԝοριντα∕⁄⧸╱‹〈⟨❮", "aeopcxisrwopivta////<<<<")
"""Characters of other alphabets that look like those of a mark."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file.

    Attributes:
        version: changes with every change of the wording, so that records show which wording was used.
        system: the system message; it has no placeholders.
        user: the user message, with placeholders of the form `$name`.
    """

    version: str
    system: str
    user: str

    def fill(self, **values: object) -> str:
        """The user message with every `$name` replaced by its value.

        If a value contains text that looks like a mark (`</problem>`), all marks of the message get a suffix that
        occurs in no value, so that a value cannot end its own section. The same values always give the same message.

        Raises:
            KeyError: a value is missing.
        """
        texts = {name: str(value) for name, value in values.items()}
        names = {name for _, name in _MARK.findall(self.user)}
        user = self.user
        shown = [_shown(text) for text in texts.values()]
        if any(f"<{name}" in text or f"/{name}" in text for name in names for text in shown):
            user = _MARK.sub(rf"\1\2-{_suffix(texts.values())}>", user)
        return Template(user).substitute(texts)


def _shown(text: str) -> str:
    """A text as a model may read the marks in it: without case, width, accents and spaces. Empty if it has no marks."""
    if text.isascii() and "<" not in text and "/" not in text:
        return ""
    return "".join(
        character
        for character in unicodedata.normalize("NFKD", text).casefold().translate(_ALIKE)
        if not character.isspace() and unicodedata.category(character) not in ("Cf", "Mn")
    )


def _suffix(texts: Iterable[str]) -> str:
    """Eight hexadecimal digits that are computed from the texts and do not occur in them.

    They depend on the texts, so the author of a text cannot know them in advance.
    """
    joined = "\0".join(texts)
    digest = hashlib.sha256(joined.encode()).hexdigest()
    while digest[:8] in joined.casefold():
        digest = hashlib.sha256(digest.encode()).hexdigest()
    return digest[:8]


@cache
def load_prompt(name: str) -> Prompt:
    """Load a prompt by its name (one of `NAMES`)."""
    return Prompt(
        **yaml.safe_load(
            files("diva_grpo.pipeline.teacher.prompts").joinpath(f"{name}.yaml").read_text("utf-8")
        )
    )
