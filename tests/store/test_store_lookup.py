"""A store narrowed to some problems says of these what the whole store says, and reads little else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files import compaction
from diva_grpo.schemas.records import Attempt, Label, Problem, Record, Rollout, Variant, Verdict
from tests.support.sized import VARIANTS_EACH, problem_id, sized_store, variant_id
from tests.support.store_records import rollout, variant


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    store = sized_store(tmp_path_factory.mktemp("sized") / "store", 500)
    store.append([variant(1, problem_id(3), variant_id=variant_id(15), status="rejected")])
    return store


@pytest.mark.parametrize("record", [Problem, Variant, Rollout])
@pytest.mark.parametrize("compacted", [False, True], ids=["as it is", "compacted"])
def test_records_of_problems(sized: VariantStore, record: type[Record], compacted: bool) -> None:
    if compacted:
        sized.compact()
    ids = [problem_id(3), problem_id(77), "it's unknown"]
    expected = sized.read(record, "problem_id IN (SELECT unnest(?))", [ids])
    assert expected
    assert sized.of_problems(ids).read(record) == expected


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    store = sized_store(tmp_path_factory.mktemp("compacted") / "store", 10_000)
    store.append([variant(1, problem_id(3))])
    store.append([Verdict(variant_id=variant_id(15), check_name="leak", passed=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "_GROUP_ROWS", 2_048)  # what DuckDB gives at once
        patch.setattr(compaction, "_BATCH_ROWS", 2_048)
        store.compact(grace_s=0)
    return store


@pytest.mark.parametrize(
    ("record", "column", "of_problem"),
    [
        (Variant, "problem_id", problem_id),
        (Rollout, "problem_id", problem_id),
        (Verdict, "variant_id", lambda number: variant_id(number * VARIANTS_EACH)),
        (Label, "subject_id", problem_id),
    ],
)
def test_compacted_rows_of_a_problem_are_in_one_place(
    compacted: VariantStore, record: type[Record], column: str, of_problem: Callable[[int], str]
) -> None:
    """A lookup reads a row group or two of a part: the statistics of the others exclude it."""
    [part] = [part for part in compacted.catalogue.live(record.table) if not part.is_empty]
    footer = pq.read_metadata(compacted.root / record.table / part.name)
    place = footer.schema.names.index(column)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    current = compacted.catalogue.current(record.table, part)
    before = accumulate((group.num_rows for group in groups), initial=0)
    statistics = [
        group.column(place).statistics
        for group, rows in zip(groups, before, strict=False)
        if rows < (current or 0)
    ]
    assert len(statistics) >= 4
    for number in (0, 3, 77, 1_999):
        assert 1 <= sum(s.min <= of_problem(number) <= s.max for s in statistics) <= 2


def test_verdicts_labels_and_deltas_of_problems(sized: VariantStore) -> None:
    narrow = sized.of_problems([problem_id(3)])
    variants = [variant_id(number) for number in range(15, 20)]
    ours = "variant_id IN (SELECT unnest(?))"
    assert narrow.read(Verdict) == sized.read(Verdict, ours, [variants])
    subjects = [problem_id(3), *variants]
    assert narrow.read(Label) == sized.read(Label, "subject_id IN (SELECT unnest(?))", [subjects])
    deltas = "SELECT variant_id, delta, delta_measured, delta_low, status FROM variants {} ORDER BY 1"
    found = narrow.query(deltas.format(""))
    assert found == sized.query(deltas.format(f"WHERE {ours}"), [variants])
    assert any(measured is not None for _, _, measured, _, _ in found)
    assert [row[-1] for row in found if row[0] == variant_id(15)] == ["rejected"]


def test_no_problem_is_an_empty_store(sized: VariantStore) -> None:
    narrow = sized.of_problems([])
    assert not any(narrow.read(record) for record in (Variant, Problem, Verdict))


def test_superseded_attempts_are_left_out(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    store.append([rollout(1, 0), rollout(5, 0)])
    store.append([Attempt(run_id="r", attempt=1, resumed_step=3)])
    assert [found.step for found in store.of_problems(["w/0"]).read(Rollout)] == [1]
