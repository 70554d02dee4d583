"""What a check says, and how texts are made alike before they are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `passed` is None where it could not decide."""

    passed: bool | None
    detail: str | None = None


PASSED = Finding(True)


def failed(detail: str) -> Finding:
    """The check found a fault."""
    return Finding(False, detail)


def normalised(text: str) -> str:
    """Text for comparison: case, white space, and punctuation and quotes at the ends do not count."""
    return " ".join(text.casefold().split()).strip(" .?!:;*_\"'“”")


def words(text: str) -> list[str]:
    """Words, numbers and single signs of mathematics, in order; other punctuation and case do not count."""
    plain = re.sub(r"\*\*+|__+", " ", text.casefold())  # emphasis in Markdown
    return re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[-+*/=<>^%−×÷]", plain)
