"""A comparison that is not decided yet: True, False, a pair of formulas, or `all` / `any` of such trees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

Tree = bool | tuple[Any, ...]
"""True or False; `("pair", a, b)` or `("near", a, b)`, two formulas that computer algebra must compare; or
`("all", trees)` or `("any", trees)`."""


def pair_count(tree: Tree) -> int:
    """Number of pairs of formulas that computer algebra must compare."""
    if isinstance(tree, bool):
        return 0
    return 1 if tree[0] in ("pair", "near") else sum(map(pair_count, tree[1]))


def any_of(parts: Iterable[Tree]) -> Tree:
    """Whether at least one of several comparisons holds."""
    return _joined("any", parts, decisive=True)


def all_of(parts: Iterable[Tree]) -> Tree:
    """Whether all of several comparisons hold."""
    return _joined("all", parts, decisive=False)


def _joined(kind: Literal["any", "all"], parts: Iterable[Tree], *, decisive: bool) -> Tree:
    """Combine parts into one tree.

    Args:
        kind: how the parts are combined.
        parts: trees of comparisons.
        decisive: the value that decides the whole if one part has it: False for `all`, True for `any`.

    Returns:
        True or False if the parts decide it, else a tree of the distinct undecided parts.
    """
    open_parts: list[Tree] = []
    for part in parts:
        if part is decisive:
            return decisive
        if not isinstance(part, bool) and part not in open_parts:
            open_parts.append(part)
    if not open_parts:
        return not decisive
    return open_parts[0] if len(open_parts) == 1 else (kind, tuple(open_parts))
