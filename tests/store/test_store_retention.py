"""Rows of training runs that a store gives up: removed runs, and rollouts that are kept no longer."""

from __future__ import annotations

from datetime import timedelta

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.compaction import compact
from diva_grpo.pipeline.store.files.liveness import run_lock
from diva_grpo.pipeline.store.removal import remove_run
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Evaluation, Run, utc_now
from tests.support.store_records import event, rollout

RUNS = "SELECT DISTINCT run_id FROM {} ORDER BY 1"


def diva(store: VariantStore, *arguments: str) -> str:
    result = CliRunner().invoke(cli, [*arguments, "--store", str(store.root)])
    return f"{result.exit_code} {result.output}{result.exception or ''}"


def runs_of(store: VariantStore, table: str = "rollouts") -> list[str]:
    return [run for (run,) in store.query(RUNS.format(table))]


@pytest.fixture
def trained(store: VariantStore) -> VariantStore:
    """Two training runs: `old` ended 40 days ago, `new` an hour ago."""
    for run_id, ago in (("old", timedelta(days=40)), ("new", timedelta(hours=1))):
        ended = utc_now() - ago
        store.append([Run(run_id=run_id, kind="train", started_at=ended, ended_at=ended, outcome="ok")])
        store.append([rollout(step, 0, run_id) for step in range(3)])
        store.append([event(1, 0).model_copy(update={"run_id": run_id})])
        store.append(
            [Evaluation(run_id=run_id, step=1, split="test", problem_id="w/0", samples=4, correct=2)]
        )
    return store


def test_a_removed_run_is_not_shown_and_comes_back(trained: VariantStore) -> None:
    before = trained.checksums()
    said = diva(trained, "remove", "old")
    assert said.startswith("0 old removed: 3 rollouts, 1 difficulty_events, 1 evaluations")
    for table in ("rollouts", "difficulty_events", "evaluations", "groups", "live_difficulty"):
        assert runs_of(trained, table) == ["new"], table
    assert runs_of(trained, "runs") == ["new", "old"]
    assert "0 old is back: 3 rollouts" in diva(trained, "remove", "old", "--undo")
    after = trained.checksums()
    assert {view for view in before if before[view] != after[view]} == {"settings"}


def test_compaction_drops_the_rows_of_a_removed_run_for_good(trained: VariantStore) -> None:
    diva(trained, "remove", "old")
    assert "5 rows of training runs dropped" in diva(trained, "compact", "--grace", "0")
    trained.compact(grace_s=0)
    [part] = [part for part in trained.catalogue.live("rollouts") if not part.is_empty]
    assert pq.read_table(trained.root / "rollouts" / part.name)["run_id"].unique().to_pylist() == ["new"]
    assert "a compaction has dropped its rows" in diva(trained, "remove", "old", "--undo")
    assert runs_of(trained) == ["new"]


def test_a_part_of_any_size_that_holds_a_removed_run_is_rewritten(trained: VariantStore) -> None:
    trained.compact(grace_s=0)
    remove_run(trained, "old")
    everything_is_large = compact(
        trained.place, trained.catalogue, merged_bytes=1, without={"rollouts": {"old"}}
    )
    assert (everything_is_large.made, everything_is_large.dropped) == (1, 3)
    assert trained.compact(grace_s=0).dropped == 2  # of the other tables


def test_only_the_rollouts_that_are_kept_stay(trained: VariantStore) -> None:
    assert "3 rows of training runs dropped" in diva(trained, "compact", "--keep-rollouts", "30d")
    assert runs_of(trained) == ["new"]
    assert runs_of(trained, "difficulty_events") == ["new", "old"], "only rollouts are dropped"
    trained.append([rollout(1, 0, "third")])
    assert trained.compact(keep_rollouts=["third"]).dropped == 3
    assert runs_of(trained) == ["third"]
    assert trained.compact(keep_rollouts=[timedelta(0)]).dropped == 0, "nobody knows how old its run is"


def test_a_run_at_work_is_neither_removed_nor_dropped(trained: VariantStore) -> None:
    with run_lock(trained.root, "old"):
        assert trained.compact(keep_rollouts=["new"]).dropped == 0
        with pytest.raises(ConfigError, match="is at work"):
            remove_run(trained, "old")
    assert trained.compact(keep_rollouts=["new"]).dropped == 3


def test_mistakes_are_one_line(trained: VariantStore) -> None:
    assert "no rows of a run 'nwe'" in diva(trained, "remove", "nwe")
    assert "run 'new' was not removed" in diva(trained, "remove", "new", "--undo")
    said = diva(trained, "compact", "--keep-rollouts", "nwe")
    assert "no run 'nwe' has rollouts; those that have: new, old" in said
    assert not said.startswith("0 ")
    assert runs_of(trained) == ["new", "old"]
