"""Planted faults in sound variants of real problems: caught by their check, while the sound ones pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.planted_faults import TARGETS, run


@pytest.mark.slow
def test_planted_faults_are_caught_and_sound_variants_pass(tmp_path: Path, real_data: Path) -> None:
    shares, rejected = run(real_data, tmp_path, n=100, sound=500, seed=1)
    assert {what: share for what, share in shares.items() if what in TARGETS and share < 0.95} == {}
    assert rejected <= 0.02
