"""A progress bar on a terminal, for work that has no `Meter`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(total: int | None, unit: str) -> Any:
    """Show a progress bar on standard error while the context is open. It is hidden if that is not a terminal.

    Args:
        total: number of units of the whole work. If None, only a count is shown.
        unit: name of a unit, in the plural.

    Yields:
        A function to call with the number of units that were newly done.
    """
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", disable=None) as bar:
        yield bar.update
