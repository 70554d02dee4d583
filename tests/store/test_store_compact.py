"""Compaction: nothing changes but the number of files, whatever stands beside it or kills it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.compaction import _remove_replaced, compact
from diva_grpo.pipeline.store.files.parts import Catalogue, Merged, Part, publish_stream
from diva_grpo.pipeline.store.files.places import LocalPlace
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import RECORDS, Variant
from tests.support.store_records import fill, variant


def _files(store: VariantStore, table: str = "variants") -> list[str]:
    return [name for name in store.place.names(table) if "empty" not in name]


@pytest.fixture
def filled(store: VariantStore) -> VariantStore:
    """Rows in every table, some in several parts."""
    fill(store)
    for number in range(6):
        store.append([variant(number, "w/1")])
    return store


def test_views_say_the_same_before_and_after(filled: VariantStore) -> None:
    before = filled.checksums()
    done = filled.compact()
    assert done.merged > done.made > 3
    assert filled.checksums() == before
    filled.compact(grace_s=0)
    assert filled.checksums() == before
    for record in RECORDS:
        assert len(_files(filled, record.table)) <= 1, record.table


def test_merged_parts_stay_for_the_grace_and_readers_leave_them_out(filled: VariantStore) -> None:
    old = _files(filled)
    with filled.connect() as earlier:
        filled.compact()
        assert set(old) < set(_files(filled))
        [live] = [part for part in filled.catalogue.live("variants") if not part.is_empty]
        assert live.merged
        assert earlier.execute("SELECT count(*) FROM variants").fetchall() == [(8,)]
    again = filled.compact()
    assert (again.merged, again.removed) == (0, 0)
    assert again.waiting >= len(old)
    assert filled.compact(grace_s=0).removed >= len(old)
    assert _files(filled) == [live.name]
    assert filled.compact(grace_s=0).removed == 0


def test_parts_go_while_compactions_follow_each_other(store: VariantStore) -> None:
    """The merged part that is read now is always young; what it was made of was replaced long before."""
    for number in range(3):
        store.append([variant(number)])
        store.compact()
    third = store.catalogue.split("variants")
    hour = 3600 * 10**9
    times = sorted(part.written_ns or 0 for group in third for part in group if part.merged)
    assert _remove_replaced(store.place, store.catalogue, "variants", times[0] - 1).removed == 0
    done = _remove_replaced(store.place, store.catalogue, "variants", times[0])
    assert (done.removed, done.waiting) == (2, 2)  # the first two parts became the first merged one
    assert _remove_replaced(store.place, store.catalogue, "variants", times[1] + hour).removed == 2
    assert store.query("SELECT count(*) FROM variants") == [(3,)]


class _Removing(LocalPlace):
    """A place where another process removes files right behind a reader's first list of them."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        super().__init__(root)
        self._going = list(names)

    def names(self, folder: str) -> list[str]:
        found = super().names(folder)
        while folder == "variants" and self._going:
            self.remove(f"variants/{self._going.pop()}")
        return found


def test_replaced_part_that_goes_while_a_reader_lists_is_no_damage(store: VariantStore) -> None:
    for number in range(3):
        store.append([variant(number)])
        store.compact()
    live, replaced = store.catalogue.split("variants")
    assert any(part.merged for part in replaced)
    reader = Catalogue(_Removing(store.root, [part.name for part in replaced]))
    assert reader.split("variants") == (live, [])


def test_part_that_is_listed_and_not_there_is_named(store: VariantStore) -> None:
    (store.root / "variants" / f"{'1' * 20}-v2-merged-1-{'0' * 16}.parquet").symlink_to("nowhere")
    with pytest.raises(StoreError, match=r"variants is damaged: `diva doctor"):
        store.query("SELECT count(*) FROM variants")


def test_order_of_the_records_of_a_key_is_kept(store: VariantStore) -> None:
    for value in "abc":
        store.put_setting("x", value)
    store.compact(grace_s=0)
    store.compact(grace_s=0)
    assert store.setting("x") == "c"
    [part] = _files(store, "settings")
    rows = pq.read_table(store.root / "settings" / part).to_pylist()
    # The current record of each key comes first, then the others.
    assert [(row["value"], row["record_no"]) for row in rows] == [("c", 0), ("a", 0), ("b", 0)]
    assert rows[1]["recorded_at"] < rows[2]["recorded_at"] < rows[0]["recorded_at"]
    store.put_setting("x", "d")
    store.compact()
    assert store.setting("x") == "d"


def test_what_a_checkpoint_names_is_read_after_any_number_of_compactions(store: VariantStore) -> None:
    store.append([variant(1), variant(2)])
    store.append([variant(3)])
    seen = store.snapshot()
    store.append([variant(1, status="rejected"), variant(4)])
    for _ in range(3):
        store.compact(grace_s=0)
        store.append([variant(2, status="rejected")])
    again = store.snapshot(seen.parts)
    assert [v.variant_id for v in again.candidates(["w/0"]).rows()] == [f"w/0:reword:0{i}" for i in (1, 2, 3)]
    assert [v.variant_id for v in store.snapshot().candidates(["w/0"]).rows()] == [
        "w/0:reword:03",
        "w/0:reword:04",
    ]


def test_snapshot_names_the_parts_as_they_were_written(store: VariantStore) -> None:
    store.append([variant(1)])
    before = store.variant_parts()
    store.append([variant(2)])
    store.compact(grace_s=0)
    after = store.variant_parts()
    assert set(before) < set(after)
    assert len(after) == len(before) + 1


def test_two_compactions_at_once_do_the_same_work_twice_and_no_harm(filled: VariantStore) -> None:
    """Each lists the parts before the other has published: the worst that can be."""
    before = filled.checksums()
    other = filled.root.parent / "other"
    shutil.copytree(filled.root, other)
    VariantStore(other).compact()
    filled.compact()
    for path in other.rglob("*-merged-*.parquet"):
        shutil.copy(path, filled.root / path.relative_to(other))
    assert sum("merged" in name for name in _files(filled)) == 2
    assert filled.checksums() == before
    filled.compact(grace_s=0)
    filled.compact(grace_s=0)
    assert filled.checksums() == before
    assert len(_files(filled)) == 1


def test_parts_merged_twice_in_different_company_give_each_row_once(store: VariantStore) -> None:
    catalogue, place = Catalogue(store.place), store.place
    for number in range(3):
        store.append([variant(number)])
    parts = [part for part in catalogue.live("variants") if not part.is_empty]
    tables = {part: pq.read_table(store.root / "variants" / part.name) for part in parts}
    for group in (parts[:2], parts[1:]):
        marked = [tables[p].append_column("part", [[p.name] * tables[p].num_rows]) for p in group]
        publish_stream(place, "variants", marked[0].schema, marked, Merged(frozenset(p.name for p in group)))
    assert store.query("SELECT count(*) FROM variants") == [(3,)]
    compact(place, catalogue, grace_s=0)
    compact(place, catalogue, grace_s=0)
    [merged] = _files(store)
    assert Part.named(merged).rows == 3
    assert store.query("SELECT count(*) FROM variants") == [(3,)]


def test_large_parts_are_left_as_they_are(store: VariantStore) -> None:
    for number in range(4):
        store.append([variant(number)])
    size = max((store.root / "variants" / name).stat().st_size for name in _files(store))
    done = compact(store.place, store.catalogue, merged_bytes=int(2.5 * size))
    assert (done.merged, done.made) == (4, 2)
    assert compact(store.place, store.catalogue, merged_bytes=size).merged == 0


def test_damaged_part_is_left_alone_and_named(store: VariantStore) -> None:
    store.append([variant(1)])
    store.append([variant(2)])
    store.append([variant(3)])
    name = _files(store)[1]
    path = store.root / "variants" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = store.compact()
    assert done.damaged == (f"variants/{name}",)
    assert (done.merged, done.made) == (2, 1)
    assert name in _files(store)


def test_parts_of_a_damaged_merged_one_are_not_removed_and_come_back(filled: VariantStore) -> None:
    before = filled.checksums()
    old = _files(filled)
    filled.compact()
    [merged] = [name for name in _files(filled) if "merged" in name]
    path = filled.root / "variants" / merged
    content = bytearray(path.read_bytes())
    content[10] ^= 255
    path.write_bytes(content)
    done = VariantStore(filled.root).compact(grace_s=0)
    assert f"variants/{merged}" in done.damaged
    assert set(old) <= set(_files(filled))
    again = VariantStore(filled.root)
    again.examine(repair=True)
    assert again.checksums() == before


def test_leftovers_of_crashed_writers_go_when_they_are_old(store: VariantStore) -> None:
    young, old = (store.root / "variants" / f".{name}.tmp" for name in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"half a part")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert store.compact().leftovers == 1
    assert young.exists()
    assert not old.exists()


def test_columns_of_a_program_with_more_of_them_survive(store: VariantStore) -> None:
    for number in (1, 2):
        rows = pq.read_table(store.root / "settings").slice(0, 0)
        row = {"name": f"n{number}", "value": "v", "recorded_at": None, "record_no": 0}
        table = rows.from_pylist([row], schema=rows.schema).append_column("colour", [["blue"]])
        publish_stream(store.place, "settings", table.schema, [table])
    store.compact(grace_s=0)
    store.compact(grace_s=0)
    [name] = _files(store, "settings")
    assert pq.read_table(store.root / "settings" / name)["colour"].to_pylist() == ["blue", "blue"]


def test_memory_is_bounded_by_the_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diva_grpo.pipeline.store.files.compaction._GROUP_ROWS", 2_048)
    monkeypatch.setattr("diva_grpo.pipeline.store.files.compaction._BATCH_ROWS", 2_048)
    store = VariantStore(tmp_path / "store", create=True)
    for number in range(4):
        store.append([variant(i, f"w/{number}") for i in range(1_000)])
    store.compact()
    [part] = [part for part in store.catalogue.live("variants") if part.merged]
    metadata = pq.read_metadata(store.root / "variants" / part.name)
    assert metadata.num_rows == 4_000
    assert metadata.num_row_groups == 2
    assert store.query("SELECT count(*), count(DISTINCT variant_id) FROM variants") == [(4_000, 4_000)]


def test_the_latest_of_a_key_is_found_among_merged_and_new_parts(store: VariantStore) -> None:
    store.append([variant(1, status="candidate")])
    store.append([variant(2, status="candidate")])
    store.compact()
    store.append([variant(1)])
    assert store.query("SELECT variant_id, status FROM variants ORDER BY ALL") == [
        ("w/0:reword:01", "accepted"),
        ("w/0:reword:02", "candidate"),
    ]
    assert [part.table for part in RECORDS].count(Variant.table) == 1
    assert LocalPlace(store.root).names("nowhere") == []
