"""The progress of work on the files of a store."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], None]
"""Called with the number of units that were done since the previous call."""


def ignore(done: int) -> None:
    """Show no progress."""
