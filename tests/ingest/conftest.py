"""A store without problems, and a folder for the sources of each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore


@pytest.fixture
def store(tmp_path: Path) -> VariantStore:
    return VariantStore(tmp_path / "store", create=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"
