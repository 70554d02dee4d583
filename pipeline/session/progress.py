"""A bar of progress on a terminal, for work that has no meter."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(total: int | None, unit: str) -> Any:
    """A progress bar on standard error, or a count where no total is known; yields what to tell of work done."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", disable=None) as bar:
        yield bar.update
