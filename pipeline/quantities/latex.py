r"""LaTeX in a text: whether a `$` encloses mathematics or means dollars, and whether brackets and commands match."""

from __future__ import annotations

import re
from collections import Counter

_DOLLARS = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$")
_COMMAND = re.compile(r"\\(?:mathrm|text|textbf|textit|operatorname|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")
_PROSE = re.compile(r"[a-z]{3,}|[a-z]{2,} [a-z]{2,}")
_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([^{}]*)\}")
_BRACE = re.compile(r"(?<!\\)(?:\\\\)*([{}])")


def is_mathematics(between: str) -> bool:
    """Whether the text between two `$` is mathematics, and not the words between two prices in dollars."""
    if not between.strip() or _PROSE.search(_COMMAND.sub(" ", between)):
        return False
    # "$5, $10" and "$5-$10" are two prices.
    return between.strip()[-1] not in "-/+(" and not (between[-1] == " " and between[0] != " ")


def without_math_signs(text: str) -> str:
    """Remove each `$` that encloses mathematics. The `$` of a price is kept."""
    return _DOLLARS.sub(lambda m: f" {m[1]} " if is_mathematics(m[1]) else m[0], text)


def has_math_dollars(text: str) -> bool:
    """Whether `$` encloses mathematics somewhere in the text."""
    return any(is_mathematics(found[1]) for found in _DOLLARS.finditer(text))


def imbalance(text: str, *, dollars: bool) -> str | None:
    """Describe the first bracket, brace, environment or `$` that is opened but not closed, or closed but not opened.

    Args:
        text: the text.
        dollars: whether `$` encloses mathematics in this text. If False, `$` is not checked.

    Returns:
        One phrase such as "braces do not match"; None if everything matches.
    """
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        # `\\[2pt]` is a line break with extra space and opens no mathematics.
        places = re.findall(rf"(?<!\\)(?:{re.escape(opening)}|{re.escape(closing)})", text)
        if _unbalanced([place == opening for place in places]):
            return f"{opening} and {closing} do not match"
    if _unbalanced([brace == "{" for brace in _BRACE.findall(text)]):
        return "braces do not match"
    environments = Counter[str]()
    for which, name in _ENVIRONMENT.findall(text):
        environments[name] += 1 if which == "begin" else -1
    if any(environments.values()):
        return "\\begin and \\end do not match"
    if dollars and len(re.findall(r"(?<!\\)\$", text)) % 2:
        return "an unclosed $"
    return None


def _unbalanced(openings: list[bool]) -> bool:
    depth = 0
    for opens in openings:
        depth += 1 if opens else -1
        if depth < 0:
            return True
    return depth != 0
