"""The result of a check, and how texts are normalised before they are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `passed` is None if the check could not decide."""

    passed: bool | None
    detail: str | None = None


PASSED = Finding(True)


def failed(detail: str) -> Finding:
    """The check found a fault."""
    return Finding(False, detail)


def normalised(text: str) -> str:
    """The text for a comparison that ignores case, white space, and punctuation and quotes at both ends."""
    return " ".join(text.casefold().split()).strip(" .?!:;*_\"'“”")


def words(text: str) -> list[str]:
    """Words, numbers and single mathematical symbols, in order. Other punctuation and case are ignored."""
    plain = re.sub(r"\*\*+|__+", " ", text.casefold())  # emphasis in Markdown
    return re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[-+*/=<>^%−×÷]", plain)
