"""What a store has published it misses: lost, foreign and unlisted parts are named, by the doctor and elsewhere."""

from __future__ import annotations

import shutil
import time
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store import store as store_module
from diva_grpo.pipeline.store.doctor import Fault
from diva_grpo.pipeline.store.files import published
from diva_grpo.pipeline.store.files.places import LISTS
from diva_grpo.pipeline.store.views import view_statements
from diva_grpo.schemas.records import Call, Problem, Variant
from tests.conftest import Diva
from tests.support.store_records import variant


@pytest.fixture(autouse=True)
def _say_again() -> None:
    store_module._warn.cache_clear()


@pytest.fixture
def three(store: VariantStore) -> VariantStore:
    """A store with three parts of variants, by two writers."""
    store.append([variant(1)])
    store.append([variant(2)])
    VariantStore(store.root).append([variant(3)])
    return store


def _parts(store: VariantStore, table: str = "variants") -> list[Path]:
    return sorted(path for path in (store.root / table).glob("*.parquet") if "empty" not in path.name)


def _found(store: VariantStore, *, repair: bool = False) -> list[tuple[Fault, str]]:
    return [(finding.fault, finding.path) for finding in VariantStore(store.root).examine(repair=repair)]


def test_each_lost_part_is_named_and_said_once(three: VariantStore, caplog: pytest.LogCaptureFixture) -> None:
    assert _found(three) == []
    for path in [*_parts(three), *_parts(three, "problems")]:
        kept, name = path.read_bytes(), f"{path.parent.name}/{path.name}"
        path.unlink()
        caplog.clear()
        assert _found(three) == [(Fault.MISSING, name)]
        [line] = [record.message for record in caplog.records]
        assert name in line
        assert "lacks 1 of its parts" in line
        path.write_bytes(kept)
    assert _found(three) == []


def test_a_lost_merged_part_is_named_by_what_it_was_made_of(three: VariantStore) -> None:
    origins = [f"variants/{path.name}" for path in _parts(three)]
    three.compact(grace_s=0)
    three.compact(grace_s=0)
    assert _found(three) == []
    [merged] = _parts(three)
    merged.unlink()
    assert _found(three) == [(Fault.MISSING, name) for name in origins]


def test_what_is_given_up_is_not_asked_for_again(three: VariantStore) -> None:
    path = _parts(three)[1]
    kept = path.read_bytes()
    path.unlink()
    assert _found(three, repair=True) == [(Fault.MISSING, f"variants/{path.name}")]
    assert _found(three) == []
    path.write_bytes(kept)
    assert _found(three) == []
    path.write_bytes(kept[:-9])
    assert _found(three, repair=True) == [(Fault.DAMAGED, f"variants/{path.name}")]
    assert _found(three) == []


def test_a_part_of_another_table_or_store_is_named(three: VariantStore, tmp_path: Path) -> None:
    [problems] = _parts(three, "problems")
    shutil.copy(problems, three.root / "variants")
    assert _found(three) == [(Fault.DAMAGED, f"variants/{problems.name}")]
    _found(three, repair=True)
    other = VariantStore(tmp_path / "other", create=True)
    other.append([variant(7)])
    [foreign] = _parts(other)
    shutil.copy(foreign, three.root / "variants")
    assert _found(three) == [(Fault.SUSPECT, f"variants/{foreign.name}")]
    assert _found(three, repair=True) == [(Fault.SUSPECT, f"variants/{foreign.name}")]
    assert _found(three) == []


def test_a_copy_without_some_tables_or_without_the_lists(three: VariantStore, tmp_path: Path) -> None:
    copy = shutil.copytree(three.root, tmp_path / "a", ignore=shutil.ignore_patterns("variants"))
    assert [fault for fault, _ in _found(VariantStore(copy))] == [Fault.MISSING] * 3
    copy = shutil.copytree(three.root, tmp_path / "b", ignore=shutil.ignore_patterns(LISTS))
    assert _found(VariantStore(copy)) == [(Fault.MISSING, LISTS)]
    assert _found(VariantStore(copy), repair=True) == [(Fault.MISSING, LISTS)]
    assert _found(VariantStore(copy)) == []


def test_a_store_of_before_has_no_findings(tmp_path: Path) -> None:
    old = shutil.copytree(Path(__file__).parents[1] / "stores" / "v1", tmp_path / "old")
    assert [f for f in VariantStore(old).examine() if f.path == LISTS or f.fault == Fault.SUSPECT] == []


def test_lists_are_folded_and_a_cut_line_is_no_part(three: VariantStore) -> None:
    lists = three.root / LISTS
    assert len(list(lists.iterdir())) == 3
    with next(lists.iterdir()).open("a") as file:
        file.write("+variants/half of a na")
    published.fold(three.place, 2**63)
    assert len(list(lists.iterdir())) == 1
    assert _found(three) == []
    _parts(three)[0].unlink()
    assert len(_found(three)) == 1


def test_the_commands_say_it_in_one_line(
    three: VariantStore, diva: Diva, caplog: pytest.LogCaptureFixture
) -> None:
    _parts(three, "problems")[0].unlink()
    for arguments in (["status"], ["sql", "FROM variants"]):
        store_module._warn.cache_clear()
        caplog.clear()
        outcome = diva(*arguments, "--store", three.root)
        assert outcome.code == 0
        # The process of a query writes the warning to standard error, which the command passes on.
        [line] = [record.message for record in caplog.records] or outcome.err.splitlines()
        assert "lacks 1 of its parts, with 5 rows" in line
        assert "\n" not in line
    outcome = diva("doctor", "--store", three.root)
    assert outcome.code == 1
    assert "missing: problems/" in outcome.out


# --- clocks


@pytest.fixture
def ahead(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> VariantStore:
    """A store that a machine an hour ahead has written to."""
    now = time.time_ns
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)
        store.append([variant(1, status="failed", reason="timeout")])
    return VariantStore(store.root)


def test_what_is_written_in_answer_to_a_part_from_the_future_holds(
    ahead: VariantStore, caplog: pytest.LogCaptureFixture
) -> None:
    ahead.append([variant(1, status="candidate")])
    ahead.append([variant(1, status="accepted")])
    other = VariantStore(ahead.root)
    assert [v.status for v in other.read(Variant)] == ["accepted"]
    other.append_columns(Variant, [{k: [v] for k, v in variant(1, status="rejected").model_dump().items()}])
    assert [v.status for v in VariantStore(ahead.root).read(Variant)] == ["rejected"]
    other.compact()
    other.append([variant(1, status="candidate")])
    assert [v.status for v in VariantStore(ahead.root).read(Variant)] == ["candidate"]
    assert ["dated in the future" in record.message for record in caplog.records] == [True]
    assert [(f.fault, f.path) for f in ahead.examine()] == [(Fault.SUSPECT, "variants")]


def test_two_machines_whose_clocks_are_a_minute_apart_answer_each_other(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns
    statuses = ("candidate", "failed", "candidate", "rejected", "candidate", "accepted")
    for turn, status in enumerate(statuses):
        with monkeypatch.context() as patched:
            patched.setattr(time, "time_ns", lambda behind=turn % 2: now() - behind * 60 * 10**9)
            machine = VariantStore(store.root)
            assert [v.status for v in machine.read(Variant)] == list(statuses[:turn][-1:])
            machine.append([variant(1, status=status)])
            if turn in (2, 3):
                machine.compact(grace_s=0)
            assert [v.status for v in machine.read(Variant)] == [status]


@pytest.mark.parametrize("first", ["ok", "timeout"])
def test_an_answer_holds_over_a_failure_whatever_the_clocks_say(first: str, store: VariantStore) -> None:
    for hour, outcome in enumerate([first, "timeout" if first == "ok" else "ok"]):
        call = Call(request_hash="c0ffee", purpose="solve", endpoint="e", model="m", problem_id="w/0", latency_s=0.5,
                    attempts=1, outcome=outcome, output_mode="text")  # fmt: skip
        store.append([call], recorded_at=datetime(2026, 1, 1, hour))
    assert [call.outcome for call in store.read(Call)] == ["ok"]
    [(_, live)] = [(name, sql) for name, sql in view_statements(str(store.root)).items() if name == "calls"]
    with duckdb.connect() as connection:
        connection.execute(live)
        assert connection.execute("SELECT outcome FROM calls").fetchall() == [("ok",)]


def test_clocks_that_agree_are_not_spoken_of(store: VariantStore, caplog: pytest.LogCaptureFixture) -> None:
    store.append([variant(1)])
    assert store.read(Problem)
    store.append([variant(1, status="rejected", reason="leak: 3")])
    assert caplog.records == []
    assert store.examine() == []
