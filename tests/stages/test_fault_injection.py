"""The whole pipeline against a teacher that plants faults (tests/bench/fault_injection.py runs it at full size)."""

from __future__ import annotations

from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.bench.fault_injection import run
from tests.support.faulty_teacher import SOLUTION_FAULTS, SOUND, TEXT_FAULTS


@pytest.mark.slow
def test_no_accepted_variant_has_another_answer(tmp_path: Path, real_data: Path) -> None:
    found = run(
        tmp_path / "store", real_data, gsm8k=24, mathvision=12, accepted=2, tries=3, solver_samples=3, seed=1
    )
    assert found.written.keys() == {SOUND, *TEXT_FAULTS, *SOLUTION_FAULTS}
    assert found.differs == []
    # A solution that states its answer early loses only the hints that do.
    assert found.accepted.keys() <= {SOUND, "early answer"}
    assert found.accepted[SOUND] >= 2 * found.problems
    store = VariantStore(tmp_path / "store")
    assert store.query("SELECT count(*) FROM variants WHERE status = 'candidate'") == [(0,)]
    [(short,)] = store.query("SELECT count(*) FROM shortages WHERE accepted < wanted AND reason IS NOT NULL")
    assert short == len(found.supplied.shortages)
    assert found.labels == found.problems + found.accepted.total()
