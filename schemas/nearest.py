"""Suggest known names for an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The error message for an unknown name, with the most similar known names.

    Args:
        what: what the name stands for, such as `setting`.
        name: the unknown name.
        known: all known names.

    >>> unknown("setting", "tempreature", ["temperature", "model"])
    "there is no setting 'tempreature': did you mean 'temperature'?"
    """
    nearest = " or ".join(map(repr, get_close_matches(name, known)))
    return f"there is no {what} {name!r}" + (f": did you mean {nearest}?" if nearest else "")
