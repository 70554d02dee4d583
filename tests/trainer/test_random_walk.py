"""A few seeds of the random walk over settings; `python -m tests.bench.random_walk` has more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.random_walk import walk_of
from tests.support.random_walk import drawn

SEEDS = (0, 2, 3, 5, 85, 212, 230)
"""85 anchors given steps. In 230 a process has prompts without images, beside one whose prompts have some."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_must_hold_under_any_settings(seed: int, tmp_path: Path) -> None:
    walk, faults = walk_of(seed, tmp_path)
    assert not faults, walk


def test_seeds_draw_all_of_the_settings() -> None:
    walks = [drawn(seed) for seed in range(40)]
    assert {walk.processes for walk in walks} == {1, 2}
    assert len({str(walk.options) for walk in walks}) == 40
    assert all(
        {getattr(walk, name) for walk in walks} == {False, True} for name in ("vision", "lora", "evaluates")
    )
    several = {name for name in walks[0].options if len({str(walk.options[name]) for walk in walks}) > 1}
    wanted = {
        "loss_type",
        "advantage",
        "refill_rounds",
        "opening_advantage",
        "opening_anchor",
        "sync_ref_model",
    }
    assert wanted <= several
