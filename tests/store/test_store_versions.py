"""Versions of the schema: the present one as a literal, a store of each, migrations, and what is newer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas import migrations
from diva_grpo.schemas.arrow import arrow_schema
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.migrations import MIGRATIONS, SCHEMA_VERSION, Migration, migrated
from diva_grpo.schemas.records import RECORDS, Label, Setting, Variant
from tests.support.store_records import fill, variant

STORES = Path(__file__).parents[1] / "stores"

# A column may be added here where it is optional or has a default: older parts then read as that. Any other
# change is a new version: a migration in schemas/migrations.py, and a store of the last version in tests/stores.
SCHEMA = {
    "problems": """
        problem_id:string source:string split:string text:string answer:string options:list<item:string>
        images:list<item:struct<hash:string,width:int64,height:int64>> solution_steps:list<item:string>
        human_level:double ingested_at:timestamp[us] recorded_at:timestamp[us] record_no:int32
    """,
    "rejects": """
        source:string row_number:int64 reason:string raw:string rejected_at:timestamp[us]
        recorded_at:timestamp[us] record_no:int32
    """,
    "variants": """
        variant_id:string problem_id:string kind:string text:string hint_steps:int64
        hint:list<item:string> hint_total:int64 solution_answer:string aspect:string recipe:string
        delta_designed:double status:string reason:string generator_model:string prompt_version:string
        sample:int64 created_at:timestamp[us] recorded_at:timestamp[us] record_no:int32
    """,
    "shortages": """
        problem_id:string kind:string wanted:int64 accepted:int64 tries:int64 reason:string
        generator_model:string created_at:timestamp[us] recorded_at:timestamp[us] record_no:int32
    """,
    "verdicts": """
        variant_id:string check_name:string model:string sample:int64 passed:bool detail:string
        created_at:timestamp[us] recorded_at:timestamp[us] record_no:int32
    """,
    "labels": """
        subject_id:string solver_model:string subject_kind:string samples:int64 correct:int64
        pass_rate:double difficulty:double difficulty_low:double difficulty_high:double
        created_at:timestamp[us] recorded_at:timestamp[us] record_no:int32
    """,
    "calls": """
        request_hash:string purpose:string endpoint:string model:string problem_id:string
        prompt_tokens:int64 completion_tokens:int64 reasoning_tokens:int64 cost_usd:double latency_s:double
        attempts:int64 outcome:string output_mode:string created_at:timestamp[us] recorded_at:timestamp[us]
        record_no:int32
    """,
    "runs": """
        run_id:string kind:string model:string config:string versions:string started_at:timestamp[us]
        ended_at:timestamp[us] outcome:string recorded_at:timestamp[us] record_no:int32
    """,
    "attempts": """
        run_id:string attempt:int64 resumed_step:int64 started_at:timestamp[us]
        recorded_at:timestamp[us] record_no:int32
    """,
    "rollouts": """
        run_id:string step:int64 problem_id:string slot:int64 sample:int64 variant_id:string
        reward:double accuracy:double advantage:double completion_tokens:int64 attempt:int64
        completion:string reward_parts:string finish:string graded_outcome:string graded_answer:string
        graded_how:string recorded_at:timestamp[us] record_no:int32
    """,
    "prompts": """
        run_id:string problem_id:string variant_id:string hint_style:string prompt:string opening:string
        recorded_at:timestamp[us] record_no:int32
    """,
    "difficulty_events": """
        run_id:string step:int64 problem_id:string old_difficulty:double new_difficulty:double
        accuracy:double rollouts:int64 rule:string uncertainty:double chosen:string attempt:int64
        recorded_at:timestamp[us] record_no:int32
    """,
    "train_steps": """
        run_id:string step:int64 seconds:double cpu_seconds:double rollouts:int64 groups:int64
        silent_groups:int64 problems:int64 silent_problems:int64 completion_tokens:int64 loss:double
        grad_norm:double grad_noise:double entropy:double attempt:int64 recorded_at:timestamp[us]
        record_no:int32
    """,
    "evaluations": """
        run_id:string step:int64 split:string problem_id:string samples:int64 correct:int64
        recorded_at:timestamp[us] record_no:int32
    """,
    "decisions": """
        flow_run_id:string problem_id:string wanted_delta:double nearest_delta:double
        kinds:list<item:string> requested:int64 made:int64 accepted:int64 created_at:timestamp[us]
        training_run:string outcome:string recorded_at:timestamp[us] record_no:int32
    """,
    "settings": """
        name:string value:string recorded_at:timestamp[us] record_no:int32
    """,
}


def test_schema_is_the_pinned_one() -> None:
    found = {
        r.table: " ".join(f"{f.name}:{f.type}".replace(" ", "") for f in arrow_schema(r)) for r in RECORDS
    }
    assert {table: columns.split() for table, columns in found.items()} == {
        table: columns.split() for table, columns in SCHEMA.items()
    }


def test_there_is_a_store_of_each_version_and_a_step_to_each() -> None:
    assert sorted(path.name for path in STORES.iterdir()) == [f"v{n}" for n in range(1, SCHEMA_VERSION + 1)]
    assert [step.version for step in MIGRATIONS] == list(range(2, SCHEMA_VERSION + 1))
    assert len({step.name for step in MIGRATIONS}) == len(MIGRATIONS)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
@pytest.mark.parametrize("compacted", [False, True], ids=["as it is", "compacted"])
def test_store_of_every_version_reads_like_one_of_today(
    version: int, compacted: bool, tmp_path: Path
) -> None:
    store = VariantStore(shutil.copytree(STORES / f"v{version}", tmp_path / "old"))
    if compacted:
        store.compact()
        for record in RECORDS:
            live = [part for part in store.catalogue.live(record.table) if not part.is_empty]
            assert all(part.version == SCHEMA_VERSION for part in live)
    today = VariantStore(tmp_path / "today", create=True)
    fill(today)
    assert store.checksums() == today.checksums()
    for record in RECORDS:
        assert store.read(record) == today.read(record)
    store.append([variant(7)])
    assert len(store.read(Variant)) == 3


def test_every_part_tells_its_version(store: VariantStore) -> None:
    store.append([variant(1)])
    store.append([variant(2)])
    store.compact()
    for part in store.catalogue.parts("variants"):
        if not part.is_empty:
            about = pq.read_metadata(store.root / "variants" / part.name).metadata[b"diva"]
            assert b'"schema_version": 2' in about
            assert part.version == 2


def test_newer_store_is_refused_in_one_line(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diva_grpo.pipeline.store.files.parts.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    store.put_setting("x", "y")
    monkeypatch.undo()
    line = (
        rf"was written by a newer diva-grpo \(schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}\)"
    )
    for act in (lambda: VariantStore(store.root), lambda: store.setting("x"), store.compact, store.examine):
        with pytest.raises(StoreError, match=line) as caught:
            act()
        assert "\n" not in str(caught.value)


# --- migrations: steps that a later version might need, on rows that were written before them

_STEPS = (
    *MIGRATIONS,
    Migration(3, "settings are called options", {"settings": {"value": "upper(value)"}}),
    Migration(
        4,
        "pass rates in per cent, models by their last name",
        {
            "labels": {"pass_rate": "pass_rate * 100", "solver_model": "split_part(solver_model, '/', -1)"},
            "settings": {"value": "value || '!'"},
        },
        {"labels": ("correct",)},
    ),
)


def test_steps_apply_in_order_and_from_the_version_of_the_rows() -> None:
    import duckdb

    rows = "SELECT 'label_model' AS name, 'abc' AS value"
    for version, wanted in ((1, "ABC!"), (2, "ABC!"), (3, "abc!"), (4, "abc")):
        sql = migrated("settings", version, rows, _STEPS)
        assert duckdb.execute(f"SELECT value FROM ({sql})").fetchall() == [(wanted,)]
    sql = migrated(
        "labels", 2, "SELECT 'a/b' AS solver_model, 1 AS correct, 8 AS samples, 0.5 AS pass_rate", _STEPS
    )
    found = duckdb.execute(sql)
    assert [column[0] for column in found.description or ()] == ["samples", "pass_rate", "solver_model"]
    assert found.fetchall() == [(8, 50.0, "b")]
    assert migrated("verdicts", 1, "SELECT 1", _STEPS) == "SELECT 1"


def test_migrations_hold_on_read_and_are_made_permanent_by_compaction(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    store.put_setting("x", "old")
    old_rate = {label.subject_id: label.pass_rate for label in store.read(Label)}
    steps = (*_STEPS[:-1], Migration(4, "per cent", {"labels": {"pass_rate": "pass_rate * 100"}}))
    for name in (
        "diva_grpo.schemas.migrations",
        "diva_grpo.pipeline.store.files.parts",
        "diva_grpo.pipeline.store.files.compaction",
    ):
        monkeypatch.setattr(f"{name}.SCHEMA_VERSION", 4)
    monkeypatch.setattr(migrations.migrated, "__defaults__", (steps,))
    newer = VariantStore(store.root)
    newer.put_setting("y", "new")
    for _ in range(3):  # on read, then beside compacted parts, then from these alone
        assert {s.name: s.value for s in newer.read(Setting)} == {
            "x": "OLD",
            "y": "new",
            "label_model": "POLICY",
        }
        assert {label.subject_id: label.pass_rate / 100 for label in newer.read(Label)} == old_rate
        newer.compact(grace_s=0)
    live = [part for part in newer.catalogue.parts("labels") if not part.is_empty]
    assert {part.version for part in live} == {4}
    assert sorted(pq.read_table(newer.root / "labels" / live[0].name)["pass_rate"].to_pylist()) == [
        37.5,
        75.0,
    ]


def test_parts_without_a_later_column_read_as_its_default(store: VariantStore) -> None:
    store.append([variant(1, hint=["a"])])
    [path] = [p for p in (store.root / "variants").glob("*.parquet") if "empty" not in p.name]
    table = pq.read_table(path).drop_columns(["hint", "status", "recipe"])
    path.unlink()
    pq.write_table(table, path.with_name("1.parquet"))
    [found] = store.read(Variant)
    assert (found.hint, found.status, found.recipe) == ([], "candidate", None)


def test_store_of_before_a_column_shows_it_as_null(store: VariantStore) -> None:
    """Also where no part has it: the part without rows is of the present schema."""
    folder = store.root / "verdicts"
    [empty] = folder.iterdir()
    table = pq.read_table(empty)
    empty.unlink()
    older = table.drop_columns("detail").schema
    pq.write_table(pa.table({n: [] for n in older.names}, schema=older), folder / f"{'0' * 20}-empty.parquet")
    with pytest.raises(Exception, match="detail"):
        store.query("SELECT detail FROM verdicts")
    assert VariantStore(store.root).query("SELECT detail FROM verdicts") == []
