"""The store: round trips, the latest record of a key, views by formula, snapshots, many processes at once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import typing
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.label import difficulty_of
from pipeline.store import VariantStore
from schemas.exceptions import ConfigError, StoreError
from schemas.records import (
    RECORDS,
    Attempt,
    DifficultyEvent,
    JsonText,
    Label,
    Problem,
    Record,
    Rollout,
    Setting,
    Variant,
    Verdict,
)

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
    code = "import sys; from pipeline.store import VariantStore; VariantStore(sys.argv[1]).put_setting('x', 'other')"
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=True)
    assert _settings(store) == {"x": "other"}
    store.put_setting("x", "mine again")
    assert _settings(store) == {"x": "mine again"}


def test_time_of_the_append_decides_and_not_the_name_of_the_part(store: VariantStore) -> None:
    now = datetime(2026, 1, 1)
    store.append([Setting(name="x", value="late")], recorded_at=now + timedelta(seconds=1))
    store.append([Setting(name="x", value="early")], recorded_at=now)
    assert _settings(store) == {"x": "late"}


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


# --- a training run's records


def _event(step: int, attempt: int, difficulty: float = 5.0) -> DifficultyEvent:
    return DifficultyEvent(
        run_id="r",
        step=step,
        problem_id="w/0",
        old_difficulty=5.0,
        new_difficulty=difficulty,
        accuracy=0.5,
        rollouts=4,
        rule="paper",
        attempt=attempt,
    )


def _rollout(step: int, attempt: int, run_id: str = "r") -> Rollout:
    return Rollout(
        run_id=run_id,
        step=step,
        problem_id="w/0",
        slot=0,
        sample=0,
        variant_id="original",
        reward=1.0,
        accuracy=1.0,
        advantage=0.0,
        completion_tokens=3,
        attempt=attempt,
    )


def test_rows_of_an_earlier_attempt_beyond_the_resumed_step_are_superseded(store: VariantStore) -> None:
    store.append(
        [Attempt(run_id="r", attempt=0, resumed_step=0), Attempt(run_id="q", attempt=0, resumed_step=0)]
    )
    store.append([_rollout(step, 0) for step in range(6)] + [_rollout(5, 0, "q")])
    store.append([_event(step, 0) for step in range(6)])
    store.append([Attempt(run_id="r", attempt=1, resumed_step=3)])
    store.append([_rollout(3, 1)])
    store.append([_event(3, 1)])
    assert store.query("SELECT run_id, step, attempt FROM rollouts ORDER BY ALL") == [
        ("q", 5, 0),
        *(("r", step, 0) for step in range(3)),
        ("r", 3, 1),
    ]
    rows = store.query("SELECT step, attempt FROM difficulty_events ORDER BY ALL")
    assert rows == [(0, 0), (1, 0), (2, 0), (3, 1)]


def test_superseded_row_that_comes_late_does_not_hide_its_successor(store: VariantStore) -> None:
    store.append([Attempt(run_id="r", attempt=1, resumed_step=3)])
    store.append([_rollout(3, 1)])
    store.append([_rollout(3, 0)])
    assert store.query("SELECT step, attempt FROM rollouts") == [(3, 1)]


def test_live_difficulty_is_the_last_event_of_the_current_attempt(store: VariantStore) -> None:
    store.append([_event(1, 0, 6.0), _event(2, 0, 7.0), _event(3, 0, 8.0)])
    store.append([Attempt(run_id="r", attempt=1, resumed_step=2)])
    store.append([_event(2, 1, 4.0)])
    rows = store.query("SELECT run_id, problem_id, difficulty, step FROM live_difficulty")
    assert rows == [("r", "w/0", 4.0, 2)]


# --- deltas


def _variant(number: int, problem_id: str = "w/0", **values: Any) -> Variant:
    defaults: dict[str, Any] = {
        "variant_id": f"{problem_id}:reword:{number:02d}",
        "problem_id": problem_id,
        "kind": "reword",
        "text": f"wording {number}",
        "delta_designed": 0.0,
        "status": "accepted",
        "generator_model": "m",
        "prompt_version": "reword-1",
    }
    return Variant.model_validate(defaults | values)


def _label(subject_id: str, correct: int, samples: int, model: str = "policy") -> Label:
    difficulty, low, high = difficulty_of(correct, samples)
    return Label(
        subject_id=subject_id,
        solver_model=model,
        subject_kind="any",
        samples=samples,
        correct=correct,
        pass_rate=correct / samples,
        difficulty=difficulty,
        difficulty_low=low,
        difficulty_high=high,
    )


def _variance(correct: int, samples: int) -> float:
    """Of Beta(c + 1, s - c + 1), in levels squared."""
    a, b = correct + 1, samples - correct + 1
    return 64 * a * b / ((a + b) ** 2 * (a + b + 1))


_COUNTS = [(0, 4), (4, 4), (2, 4), (1, 8), (7, 8), (30, 64)]
_DESIGNS = [0.0, 2.0, -2.0, -8.0]


def test_deltas_follow_the_formulas_of_the_contract(store: VariantStore) -> None:
    cases = [(counts, design) for counts in _COUNTS for design in _DESIGNS]
    store.append([_variant(i, delta_designed=design) for i, (_, design) in enumerate(cases)])
    store.append([_label(f"w/0:reword:{i:02d}", *counts) for i, (counts, _) in enumerate(cases)])
    store.append([_label("w/0", 3, 8)])
    store.put_setting("label_model", "policy")
    rows = store.query(
        "SELECT delta_measured, delta_low, delta_high, delta FROM variants ORDER BY variant_id"
    )
    for ((correct, samples), design), (measured, low, high, delta) in zip(cases, rows, strict=True):
        wanted = (9 - 8 * (correct + 1) / (samples + 2)) - (9 - 8 * 4 / 10)
        variance = _variance(correct, samples) + _variance(3, 8)
        assert measured == pytest.approx(wanted, abs=1e-12)
        assert (low + high) / 2 == pytest.approx(wanted, abs=1e-9)
        assert high - low == pytest.approx(2 * 1.644853627 * variance**0.5, rel=1e-9)
        assert delta == pytest.approx((wanted / variance + design / 4) / (1 / variance + 1 / 4), abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "label_model"),
    [
        ([], None),
        ([("w/0", "policy"), ("w/0:reword:01", "policy")], None),
        ([("w/0", "policy"), ("w/0:reword:01", "policy")], "another"),
        ([("w/0:reword:01", "policy")], "policy"),
        ([("w/0", "policy")], "policy"),
        ([("w/0", "policy"), ("w/0:reword:01", "another")], "policy"),
    ],
    ids=[
        "no labels",
        "no label model",
        "of another model",
        "original missing",
        "variant missing",
        "two models",
    ],
)
def test_designed_delta_is_in_use_without_labels_of_the_label_model(
    store: VariantStore, labels: list[tuple[str, str]], label_model: str | None
) -> None:
    store.append([_variant(1, delta_designed=2.0)])
    store.append([_label(subject, 1, 4, model) for subject, model in labels])
    if label_model:
        store.put_setting("label_model", label_model)
    rows = store.query("SELECT delta_measured, delta_low, delta_high, delta FROM variants")
    assert rows == [(None, None, None, 2.0)]


def test_measured_delta_is_in_use_where_nothing_is_designed(store: VariantStore) -> None:
    store.append([_variant(1, delta_designed=None)])
    store.append([_label("w/0", 2, 4), _label("w/0:reword:01", 0, 4)])
    store.put_setting("label_model", "policy")
    [(measured, delta)] = store.query("SELECT delta_measured, delta FROM variants")
    assert measured == delta == pytest.approx(8 * 2 / 6)


# --- snapshots


def test_snapshot_has_the_accepted_variants_in_order(store: VariantStore) -> None:
    store.append([_variant(2), _variant(1), _variant(3, status="rejected"), _variant(1, "w/1")])
    snapshot = store.snapshot()
    found = snapshot.candidates(["w/1", "w/0", "w/2", "unknown"])
    assert [v.variant_id for v in found["w/0"]] == ["w/0:reword:01", "w/0:reword:02"]
    assert [v.variant_id for v in found["w/1"]] == ["w/1:reword:01"]
    assert found["w/2"] == found["unknown"] == []
    assert (snapshot.problem_count, snapshot.variant_count) == (2, 3)


def test_snapshot_carries_delta_kind_and_pass_rate(store: VariantStore) -> None:
    store.append([_variant(1, delta_designed=2.0, kind="harder"), _variant(2)])
    store.append(
        [_label("w/0:reword:01", 1, 4), _label("w/0:reword:02", 1, 4, "another"), _label("w/0", 4, 4)]
    )
    store.put_setting("label_model", "policy")
    snapshot = store.snapshot()
    first, second = snapshot.candidates(["w/0"])["w/0"]
    [(delta,)] = store.query("SELECT delta FROM variants WHERE variant_id = 'w/0:reword:01'")
    assert (first.kind, first.delta, first.pass_rate) == ("harder", delta, 0.25)
    assert (second.delta, second.pass_rate) == (0.0, None)
    assert snapshot.labels() == {"w/0": pytest.approx(9 - 8 * 5 / 6)}


def test_snapshot_gives_texts_by_number(store: VariantStore) -> None:
    store.append(
        [_variant(1), _variant(2, hint=["a", "b"], hint_steps=2), _variant(3, text=None, recipe='{"o": 1}')]
    )
    snapshot = store.snapshot()
    candidates = snapshot.candidates(["w/0"])["w/0"]
    texts = snapshot.texts([candidates[2].number, candidates[1].number, candidates[1].number])
    assert texts[candidates[1].number].text == "wording 2"
    assert texts[candidates[1].number].hint == ("a", "b")
    assert texts[candidates[2].number].recipe == '{"o": 1}'
    assert len(texts) == 2


def test_snapshot_of_an_empty_store_has_no_candidates(store: VariantStore) -> None:
    assert store.snapshot().candidates(["w/0"]) == {"w/0": []}


def test_snapshot_of_named_parts_shows_what_was_seen_then(store: VariantStore) -> None:
    store.append([_variant(1)])
    earlier = store.snapshot()
    store.append([_variant(1, status="rejected"), _variant(2)])
    again = store.snapshot(earlier.parts)
    assert [v.variant_id for v in again.candidates(["w/0"])["w/0"]] == ["w/0:reword:01"]
    assert [v.variant_id for v in store.snapshot().candidates(["w/0"])["w/0"]] == ["w/0:reword:02"]


def test_snapshot_of_a_missing_part_is_one_line(store: VariantStore) -> None:
    with pytest.raises(StoreError, match="cannot be read") as caught:
        store.snapshot(["00000000000000000001-gone.parquet"])
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
    with pytest.raises(StoreError, match="problems cannot be written: Not a directory"):
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


# --- many processes

_MAKE = """
import sys
from pipeline.store import VariantStore
VariantStore(sys.argv[1], create=True).put_setting(sys.argv[2], "here")
"""

_WRITE = """
import sys
from pipeline.store import VariantStore
from schemas.records import Verdict
store, writer = VariantStore(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    rows = [Verdict(variant_id=f"{writer}-{i}", check_name="c", sample=n, passed=True) for n in range(3)]
    store.append(rows)
"""


def _start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_may_make_the_same_store_at_once(tmp_path: Path) -> None:
    makers = [_start(_MAKE, tmp_path / "store", name) for name in "ab"]
    for maker in makers:
        assert maker.communicate()[1] == ""
    assert sorted(_settings(VariantStore(tmp_path / "store"))) == ["a", "b"]


@pytest.mark.slow
def test_reader_beside_two_writers_sees_whole_appends_and_no_error(store: VariantStore) -> None:
    writers = [_start(_WRITE, store.root, name, 100) for name in "ab"]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        [(rows, appends)] = store.query("SELECT count(*), count(DISTINCT variant_id) FROM verdicts")
        assert rows == 3 * appends, "half an append was seen"
        assert rows >= seen, "rows have vanished"
        seen = rows
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    found = store.query("SELECT variant_id, sample, count(*) FROM verdicts GROUP BY ALL")
    assert sorted(found) == sorted((f"{w}-{i}", n, 1) for w in "ab" for i in range(100) for n in range(3))


def test_killed_writer_leaves_a_store_that_reads_and_writes(store: VariantStore) -> None:
    writer = _start(_WRITE, store.root, "a", 100_000)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    time.sleep(0.1 + random.random() / 5)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    [(rows, appends)] = store.query("SELECT count(*), count(DISTINCT variant_id) FROM verdicts")
    assert rows == 3 * appends
    store.append([Verdict(variant_id="after", check_name="c", passed=True)])
    assert store.query("SELECT count(*) FROM verdicts") == [(rows + 1,)]
