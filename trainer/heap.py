"""Garbage collections during training that do not search what was there before it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled_heap() -> Iterator[None]:
    """Leave all present objects out of Python's garbage collections inside the context.

    A full collection searches every object of torch, transformers and the data set, which takes longer than to choose
    the prompts of a batch. If the heap is frozen already, it stays as it is.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
