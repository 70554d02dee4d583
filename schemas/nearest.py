"""What a name that nobody knows was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no such thing, with the nearest names that there are.

    >>> unknown("setting", "tempreature", ["temperature", "model"])
    "there is no setting 'tempreature': did you mean 'temperature'?"
    """
    nearest = " or ".join(map(repr, get_close_matches(name, known)))
    return f"there is no {what} {name!r}" + (f": did you mean {nearest}?" if nearest else "")
