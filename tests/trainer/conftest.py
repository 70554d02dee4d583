"""Fixtures of the tests of the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.support.tiny_text_model import planted_store


@pytest.fixture
def sums(tmp_path: Path) -> VariantStore:
    """A store of eight sums with accepted variants."""
    return planted_store(tmp_path / "store")
