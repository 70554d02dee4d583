"""Merged parts whose current rows come first: the views show what they show without this knowledge."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random

import duckdb
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.compaction import compact
from diva_grpo.pipeline.store.files.parts import Part
from diva_grpo.pipeline.store.removal import remove_run, restore_run
from diva_grpo.pipeline.store.sources import NO_PLACE, source, superseded
from diva_grpo.pipeline.store.views import create_views
from diva_grpo.schemas.records import Attempt, Call, Record, Rollout, utc_now
from tests.support.store_records import event, label, rollout, variant

_NAMED = ("calls rollouts difficulty_events variants delta", "calls rollouts difficulty_events variants")
"""What prepares the views, with the measured offsets and without."""


def _call(number: int, outcome: str) -> Call:
    return Call(
        request_hash=f"{number:02d}",
        problem_id="w/0",
        purpose="solve",
        endpoint="e",
        model="m",
        outcome=outcome,
        latency_s=1.0,
        attempts=1,
        output_mode="text",
        completion_tokens=number,
    )


def _records(random: Random) -> Iterator[list[Record]]:
    """A few records of each table, of which many have the key of an earlier one."""
    some = range(random.randint(1, 6))
    yield [
        variant(random.randrange(12), status=random.choice(["candidate", "accepted", "rejected"]))
        for _ in some
    ]
    yield [label(random.choice(["w/0", f"w/0:reword:{n:02d}"]), random.randrange(5), 4) for n in some]
    yield [_call(random.randrange(8), random.choice(["ok", "http_500"])) for _ in some]
    first, run_id = random.randrange(4), random.choice("rs")
    yield [
        rollout(step, random.randrange(2), run_id) for step in range(first, first + random.randrange(1, 4))
    ]
    yield [event(step, random.randrange(2), random.uniform(1, 9)) for step in range(first, first + 2)]


def _rows(connection: duckdb.DuckDBPyConnection) -> list[object]:
    return [
        sorted(connection.execute(f"SELECT v::VARCHAR FROM {view} v").fetchall())
        for view in ("variants", "calls", "rollouts", "difficulty_events")
    ]


def _rows_of_all_files(store: VariantStore) -> list[object]:
    """Rows of views that read every file, and know nothing of what is current in it."""
    with duckdb.connect() as connection:
        for statement in create_views(store.root):
            connection.execute(statement)
        return _rows(connection)


@pytest.mark.parametrize("seed", range(3))
def test_views_are_those_of_all_files(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    store = VariantStore(tmp_path / "store", create=True)
    store.put_setting("label_model", "policy")
    forms = set()
    for turn in range(8):
        for records in _records(random):
            # Clocks differ, so that a later part need not have later records.
            store.append(records, recorded_at=utc_now() + timedelta(seconds=random.randint(-60, 60)))
        if turn == 3:
            store.append([Attempt(run_id="r", attempt=1, resumed_step=2)])
        if turn in (2, 6):
            remove_run(store, "s")
        if turn == 4:
            restore_run(store, "s")
        if turn % 2:
            # Small parts are merged anew with what follows, larger ones stay.
            compact(store.place, store.catalogue, grace_s=0, merged_bytes=random.choice([1, 15_000, 10**6]))
        for table in ("variants", "rollouts", "calls"):
            parts = [part for part in store.catalogue.live(table) if not part.is_empty]
            settled = [part for part in parts if store.catalogue.current(table, part) is not None]
            forms.add((table, min(len(settled), 2), len(settled) < len(parts)))
        with store.connect(query=_NAMED[turn % 2]) as connection:
            assert _rows(connection) == _rows_of_all_files(store)
    assert {settled for _, settled, _ in forms} >= {0, 1}


def test_current_rows_come_first(store: VariantStore) -> None:
    store.append([variant(number, status="candidate") for number in range(3)])
    store.append([variant(number) for number in (2, 0)])
    store.append([rollout(step, 0) for step in range(3)])
    store.append([rollout(3, 0)])
    store.append([event(1, 0)])
    store.append([event(1, 1)])
    store.compact(grace_s=0)
    for table, rows, current in (("variants", 5, 3), ("rollouts", 4, 4), ("difficulty_events", 2, None)):
        [part] = [part for part in store.catalogue.live(table) if not part.is_empty]
        assert (part.rows, store.catalogue.current(table, part)) == (rows, current), table
    by_status = "SELECT status, count(*) FROM variants GROUP BY ALL ORDER BY ALL"
    assert store.query(by_status) == [("accepted", 2), ("candidate", 1)]


def _merged_apart(store: VariantStore, tmp_path: Path, *of_parts: tuple[int, int]) -> list[Part]:
    """Make a merged part of each two steps. The reward of their rollouts is the first of these."""
    folder, aside = store.root / "rollouts", tmp_path / "aside"
    aside.mkdir()
    for steps in of_parts:
        for step in steps:
            store.append([rollout(step, 0).model_copy(update={"reward": float(steps[0])})])
        store.compact(grace_s=0)
        store.compact(grace_s=0)
        for part in store.catalogue.live("rollouts"):
            if not part.is_empty:  # so that it is not merged again
                (folder / part.name).rename(aside / part.name)
    for path in aside.iterdir():
        path.rename(folder / path.name)
    return [part for part in store.catalogue.live("rollouts") if not part.is_empty]


def test_a_key_may_be_in_several_merged_parts(store: VariantStore, tmp_path: Path) -> None:
    parts = _merged_apart(store, tmp_path, (0, 1), (1, 2))
    assert [store.catalogue.current("rollouts", part) for part in parts] == [2, 2]
    assert store.query("SELECT step, reward FROM rollouts ORDER BY ALL") == [(0, 0.0), (1, 1.0), (2, 1.0)]


def test_only_steps_that_several_merged_parts_may_have_are_compared(
    store: VariantStore, tmp_path: Path
) -> None:
    parts = _merged_apart(store, tmp_path, (0, 1), (2, 5), (3, 7), (6, 9))
    assert [store.catalogue.steps("rollouts", part) for part in parts[:2]] == [{"r": (0, 1)}, {"r": (2, 5)}]
    two, four = (source(store.catalogue, str(store.root), "rollouts", some) for some in (parts[:2], parts))
    assert superseded(two, Rollout, None) == NO_PLACE
    assert four.shared == [f"run_id = 'r' AND step BETWEEN {steps}" for steps in ("3 AND 5", "6 AND 7")]


def test_an_old_snapshot_reads_the_rows_that_were_current_then(store: VariantStore) -> None:
    store.append([variant(1), variant(2)])
    then = store.snapshot()
    store.append([variant(1, status="rejected")])
    store.compact(grace_s=0)
    store.compact(grace_s=0)
    assert store.snapshot().variant_count == 1
    assert store.snapshot(then.parts).variant_count == 2
