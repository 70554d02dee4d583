"""The objects of before a training are left out of its garbage collections, and searched again after it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from diva_grpo.trainer.heap import settled_heap


@pytest.fixture
def thawed() -> Iterator[None]:
    """A heap of which nothing is frozen; that of the tests may be."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if frozen:
        gc.freeze()


def _freeze_count_inside() -> int:
    with settled_heap():
        return gc.get_freeze_count()


def _fail_inside() -> None:
    with settled_heap():
        raise KeyError


@pytest.mark.usefixtures("thawed")
def test_the_heap_is_frozen_inside_and_as_before_afterwards() -> None:
    assert _freeze_count_inside() > 1_000
    assert gc.get_freeze_count() == 0
    with pytest.raises(KeyError):
        _fail_inside()
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("thawed")
def test_a_heap_that_was_frozen_before_stays_frozen() -> None:
    gc.freeze()
    assert _freeze_count_inside() > 1_000
    assert gc.get_freeze_count() > 1_000
