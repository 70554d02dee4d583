"""The store: round trips, the latest record of a key, runs, images, faults."""

from __future__ import annotations

import json
import subprocess
import sys
import typing
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError, StoreError
from diva_grpo.schemas.records import RECORDS, JsonText, Problem, Record, Setting, Variant, Verdict

# --- round trips by Hypothesis

_JSON = st.dictionaries(st.text("abc", min_size=1), st.integers() | st.text() | st.none()).map(json.dumps)
_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    int: st.integers(-(2**31), 2**31 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    datetime: st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
}


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may hold."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    arguments = typing.get_args(annotation)
    if JsonText in map(type, getattr(annotation, "__metadata__", ())):
        return _JSON
    if typing.get_origin(annotation) is list:
        return st.lists(_values(arguments[0]), max_size=3)
    if arguments:  # X | None
        return st.none() | _values(arguments[0])
    if issubclass(annotation, StrEnum):
        return st.sampled_from(annotation)
    assert issubclass(annotation, BaseModel)
    return _models(annotation)


def _models(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(model, include_extras=True)
    return st.builds(model, **{name: _values(hints[name]) for name in model.model_fields})


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in record.key)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.table)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_appended_is_read_back(
    record: type[Record], data: st.DataObject, store: VariantStore
) -> None:
    records = data.draw(st.lists(_models(record), unique_by=_key, min_size=1, max_size=8))
    store.append(records)
    found = {_key(r): r for r in store.read(record)}  # with those of earlier examples
    assert {_key(r): found[_key(r)] for r in records} == {_key(r): r for r in records}


# --- the latest record of a key


def _settings(store: VariantStore) -> dict[str, str]:
    return {setting.name: setting.value for setting in store.read(Setting)}


def test_later_append_of_a_key_wins(store: VariantStore) -> None:
    for value in "abc":
        store.put_setting("x", value)
    assert _settings(store) == {"x": "c"}


def test_later_record_of_a_key_wins_within_one_append(store: VariantStore) -> None:
    store.append([Setting(name="x", value=value) for value in "abcab"])
    assert _settings(store) == {"x": "b"}


def test_later_record_of_a_key_wins_across_processes(store: VariantStore) -> None:
    store.put_setting("x", "mine")
    code = (
        "import sys; from diva_grpo.pipeline.store import VariantStore\n"
        "VariantStore(sys.argv[1]).put_setting('x', 'other')"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=True)
    assert _settings(store) == {"x": "other"}
    store.put_setting("x", "mine again")
    assert _settings(store) == {"x": "mine again"}


def test_time_of_the_append_decides_and_not_the_name_of_the_part(store: VariantStore) -> None:
    now = datetime(2026, 1, 1)
    store.append([Setting(name="x", value="late")], recorded_at=now + timedelta(seconds=1))
    store.append([Setting(name="x", value="early")], recorded_at=now)
    assert _settings(store) == {"x": "late"}


def test_records_of_two_types_are_refused_together(store: VariantStore) -> None:
    problem = Problem(problem_id="p", source="s", split="train", text="1 + 1?", answer="2")
    with pytest.raises(TypeError, match="one type at a time, not Problem and Setting together"):
        store.append([problem, Setting(name="a", value="b")])
    assert store.query("SELECT count(*) FROM problems WHERE problem_id = 'p'") == [(0,)]


def test_accepted_variants_without_an_offset_are_named(store: VariantStore) -> None:
    """A trainer would make advantages of them that are not numbers."""
    plain: dict[str, Any] = {
        "problem_id": "p",
        "kind": "reword",
        "text": "One and one?",
        "generator_model": "m",
    }
    plain |= {"prompt_version": "1", "status": "accepted"}
    store.append([Problem(problem_id="p", source="s", split="train", text="1 + 1?", answer="2")])
    store.append([Variant(variant_id="v1", delta_designed=0.0, **plain), Variant(variant_id="v2", **plain)])
    with pytest.raises(StoreError, match="1 accepted variants have no difficulty offset, v2 for one"):
        store.snapshot()


def test_append_of_nothing_writes_nothing(store: VariantStore) -> None:
    before = list((store.root / "settings").iterdir())
    store.append([])
    assert list((store.root / "settings").iterdir()) == before


def test_reading_limits_and_filters(store: VariantStore) -> None:
    assert [p.problem_id for p in store.problems(limit=2)] == ["w/0", "w/1"]
    assert [p.problem_id for p in store.problems(["w/3", "w/1", "none"])] == ["w/1", "w/3"]
    assert [p.problem_id for p in store.problems(where="answer = '30' OR answer = '5'", limit=1)] == ["w/1"]
    assert len(store.read(Problem, limit=3)) == 3


def test_filter_that_is_no_sql_is_one_line(store: VariantStore) -> None:
    with pytest.raises(ConfigError, match=r"problem filter 'nope = 1': .*nope") as caught:
        store.problems(where="nope = 1")
    assert "\n" not in str(caught.value)


# --- runs and images


def test_run_is_recorded_with_its_outcome(store: VariantStore) -> None:
    with store.run("label", '{"samples": 4}', "m") as run_id:
        [during] = store.query("SELECT outcome, ended_at FROM runs")
    assert during == ("running", None)
    rows = store.query(
        "SELECT run_id, kind, model, config->>'samples', versions->>'duckdb', outcome FROM runs"
    )
    assert rows == [(run_id, "label", "m", "4", store.query("SELECT version()")[0][0].lstrip("v"), "ok")]


@pytest.mark.parametrize(
    ("error", "outcome"), [(ValueError, "failed"), (StoreError, "failed"), (KeyboardInterrupt, "interrupted")]
)
def test_run_that_ends_badly_is_recorded(
    store: VariantStore, error: type[BaseException], outcome: str
) -> None:
    with pytest.raises(error), store.run("label", "{}"):
        raise error
    assert store.query("SELECT outcome, ended_at IS NOT NULL FROM runs") == [(outcome, True)]


def test_image_is_kept_once_by_its_hash(store: VariantStore) -> None:
    digest = store.put_image(b"png bytes", "PNG")
    assert store.put_image(b"png bytes", "PNG") == digest
    assert store.image_path(digest).read_bytes() == b"png bytes"
    assert store.image_path(digest).suffix == ".png"
    assert len([path for path in (store.root / "images").rglob("*") if path.is_file()]) == 1


def test_missing_image_is_one_line(store: VariantStore) -> None:
    with pytest.raises(StoreError, match="ingest its source again"):
        store.image_path("0" * 64)


# --- faults


def test_no_store_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*: make one with `diva ingest") as caught:
        VariantStore(tmp_path)
    assert "\n" not in str(caught.value)


def test_store_in_a_place_that_cannot_be_one_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is a file: a store is a folder"):
        VariantStore(tmp_path / "file", create=True)


@pytest.mark.parametrize("content", [b"", b"PAR1 but not for long", b"x" * 1000])
def test_damaged_part_is_one_line(store: VariantStore, content: bytes) -> None:
    (store.root / "settings" / "1-broken.parquet").write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read") as caught:
        store.setting("x")
    assert "\n" not in str(caught.value)


def test_append_that_cannot_be_written_is_one_line_and_leaves_nothing(store: VariantStore) -> None:
    (store.root / "verdicts").rename(store.root / "elsewhere")
    (store.root / "verdicts").write_text("a file in the folder's place")
    before = sorted(store.root.rglob("*"))
    with pytest.raises(StoreError, match="verdicts cannot be written") as caught:
        store.append([Verdict(variant_id="v", check_name="leak", passed=True)])
    assert "\n" not in str(caught.value)
    assert sorted(store.root.rglob("*")) == before


def test_leftover_temporary_file_is_ignored(store: VariantStore) -> None:
    (store.root / "settings" / ".1-half.parquet.1234.tmp").write_bytes(b"half a file")
    store.put_setting("x", "1")
    assert _settings(store) == {"x": "1"}


def test_part_of_an_older_version_reads_with_the_new_column_null(store: VariantStore) -> None:
    import pyarrow.parquet as pq

    store.append([Verdict(variant_id="v", check_name="leak", passed=True, detail="new")])
    [part] = [p for p in (store.root / "verdicts").glob("*.parquet") if "empty" not in p.name]
    table = pq.read_table(part)
    pq.write_table(table.drop_columns("detail"), part)
    assert store.query("SELECT variant_id, detail FROM verdicts") == [("v", None)]


def test_no_progress_bar_is_written_to_standard_output(store: VariantStore) -> None:
    """DuckDB shows one there after two seconds, also in a pipe."""
    asked = "SELECT current_setting('enable_progress_bar')"
    assert store.query(asked) == [(False,)]
    with store.connect() as connection:
        assert connection.execute(asked).fetchall() == [(False,)]
