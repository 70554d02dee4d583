"""The result of a check, and the normalisation of texts that checks compare."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check.

    Attributes:
        passed: whether the variant passed; None if the check could not decide.
        detail: the reason, if there is one to report.
    """

    passed: bool | None
    detail: str | None = None


PASSED = Finding(True)


def failed(detail: str) -> Finding:
    """Return the result of a check that the variant did not pass, with the reason."""
    return Finding(False, detail)


def normalised(text: str) -> str:
    """Return a text for comparison: case, extra white space, and punctuation and quotes at both ends are removed."""
    return " ".join(text.casefold().split()).strip(" .?!:;*_\"'“”")


def words(text: str) -> list[str]:
    """Return the words, numbers and mathematical symbols of a text in order, in lower case, without punctuation."""
    plain = re.sub(r"\*\*+|__+", " ", text.casefold())  # emphasis in Markdown
    return re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[-+*/=<>^%−×÷]", plain)
