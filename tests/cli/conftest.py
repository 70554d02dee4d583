"""Fixtures that several tests of commands share."""

from __future__ import annotations

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.support import full_store as planted


@pytest.fixture(scope="module")
def full_store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """A store with rows for every view that the queries read."""
    return planted.full_store(tmp_path_factory.mktemp("full") / "store")
