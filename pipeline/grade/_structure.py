r"""Split lists, sets, intervals, matrices and cases in the text of an answer into their entries."""

from __future__ import annotations

import re
from typing import NamedTuple

SEPARATOR = re.compile(
    r"[,;]|\s(?:and|or)\s|\\(?:lor|land|vee|wedge|quad|qquad)(?![A-Za-z])|\\\\|(?<=[\w)}])\s*&\s*(?=\S)"
)
_ENVIRONMENT = re.compile(
    r"(?P<open>\\\{|[\[({|])?\s*\\begin\s*\{(?P<name>[A-Za-z]+)\*?\}(?:\s*\{[lcr|\s]*\})?(?P<body>.*?)"
    r"\\end\s*\{(?P=name)\*?\}\s*(?P<close>\\\}|[\])}|])?\s*(?P<turned>\^\s*\{?\s*(?:T|\\top|\\mathsf\s*T)\s*\}?)?",
    re.DOTALL,
)
_MATRIX_NAMES = frozenset("matrix pmatrix bmatrix Bmatrix smallmatrix psmallmatrix bsmallmatrix".split())
_CASES_NAMES = frozenset("cases dcases rcases aligned align gathered split".split())
_PLAIN_ROW = re.compile(r"\[([^\[\]]*)\]")
_CONDITION = re.compile(r"^(?:if|for|when|where|当|若|,)\s*|[,.;，]$", re.IGNORECASE)


class Table(NamedTuple):
    """A matrix or a `cases` environment.

    Attributes:
        kind: `matrix`, `determinant`, or `cases`.
        rows: the entries of each row, as text.
    """

    kind: str
    rows: list[list[str]]


def read_table(bare: str) -> Table | None:
    r"""Read a text that is one matrix (also as `[[1, 2], [3, 4]]`) or one `cases` environment; None for other texts."""
    if "\\begin" not in bare:
        return _plain_matrix(bare)
    found = _ENVIRONMENT.fullmatch(bare)
    if found is None or "\\begin" in found["body"]:
        return None
    name, opened, closed = found["name"], found["open"], found["close"]
    rows = [
        [entry.strip().rstrip(",;") for entry in row.split("&")]
        for row in found["body"].split(r"\\")
        if row.strip()
    ]
    if not rows:
        return None
    if name in _CASES_NAMES or (name == "array" and opened in ("{", r"\{") and not closed):
        return Table("cases", [[_condition(entry) for entry in row if entry] for row in rows])
    if name == "vmatrix" or (opened == closed == "|"):
        return Table("determinant", rows)
    if name not in _MATRIX_NAMES and name != "array":
        return None
    return Table("matrix", _transposed(rows) if found["turned"] else rows)


def _condition(entry: str) -> str:
    for _ in range(3):
        entry = _CONDITION.sub("", entry).strip()
    return entry


def _transposed(rows: list[list[str]]) -> list[list[str]]:
    width = max(map(len, rows))
    return [[row[j] if j < len(row) else "" for row in rows] for j in range(width)]


def _plain_matrix(text: str) -> Table | None:
    if not text.startswith("[[") or not text.endswith("]]"):
        return None
    inside = text[1:-1]
    rows = _PLAIN_ROW.findall(inside)
    if re.sub(r"[\s,;]", "", _PLAIN_ROW.sub("", inside)):
        return None
    return Table("matrix", [[entry.strip() for entry in re.split(r"[,\s]+", row.strip())] for row in rows])


def split_list(bare: str) -> tuple[str, list[str]]:
    """Split a list into its brackets and items, such as `(1, 2]`, `\\{1, 2\\}`, `1, 2` or `1 and 2`.

    Returns:
        The outer brackets as two characters ("(]", "{}"; "" if there are none), and the items. A text that is not a
        list is one item.
    """
    text, brackets = bare.replace(r"\{", "{").replace(r"\}", "}"), ""
    if text[:1] in ("(", "[", "{") and text[-1:] in (")", "]", "}") and one_bracket(text):
        brackets, text = text[0] + text[-1], text[1:-1]
    return brackets, split_items(text)


def split_items(text: str) -> list[str]:
    """Split a text at separators (comma, semicolon, `and`, `or`, ...) that are outside of brackets."""
    if "\\begin" in text:
        return [text.strip()]
    items, depth, start = [], 0, 0
    breaks = {m.start(): m.end() for m in SEPARATOR.finditer(text)}
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and i in breaks and i >= start:
            items.append(text[start:i].strip())
            start = breaks[i]
    items.append(text[start:].strip())
    return [
        item
        for item in (re.sub(r"^(?:(?:and|or|equivalently|simply)\s+)+", "", item) for item in items)
        if item
    ]


def split_outside(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Split a text at the matches of a pattern that are outside of brackets and LaTeX environments."""
    if "\\begin" in text:
        at = text.index("\\begin")
        parts = pattern.split(text[:at])
        return [part.strip() for part in [*parts[:-1], parts[-1] + text[at:]]]
    depth, start, parts = 0, 0, []
    depths = []
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        depths.append(depth)
    for found in pattern.finditer(text):
        if depths[found.start()] == 0 and found.start() >= start:
            parts.append(text[start : found.start()])
            start = found.end()
    return [part.strip() for part in [*parts, text[start:]]]


def one_bracket(text: str) -> bool:
    """Whether the last character closes the bracket that is the first one: yes in `(1,2]`, no in `(1,2)+(3,4)`."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False


def without_parentheses(text: str) -> str:
    """Remove the parentheses of `(5)`. A list such as `(1, 2)` keeps them."""
    if text[:1] == "(" and text[-1:] == ")" and one_bracket(text) and not SEPARATOR.search(text):
        return text[1:-1].strip()
    return text
