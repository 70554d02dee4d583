"""SQL for people: the page of queries, documented columns, the command, and the file of views."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from diva_grpo.flows.cli import cli, main
from diva_grpo.pipeline.store import VariantStore, run_select
from diva_grpo.pipeline.store.catalog import describe_views, write_views
from diva_grpo.pipeline.store.engine import checksums
from diva_grpo.pipeline.store.queries import answer, queries
from diva_grpo.schemas.records import (
    Problem,
)
from tests.conftest import Diva


def invoke(*arguments: str, text: str | None = None) -> str:
    result = CliRunner().invoke(cli, list(arguments), input=text, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# --- the page of queries, and what columns mean


def test_named_queries_have_titles_and_end() -> None:
    assert list(queries())[:4] == ["problems", "rejects", "variants", "reasons"]
    assert len(queries()) >= 30
    assert all(query.title and query.sql.endswith(";") for query in queries().values())


@pytest.mark.parametrize("name", queries())
def test_each_named_query_finds_rows(full_store: VariantStore, name: str) -> None:
    assert answer(full_store, name)


def test_a_few_answers_of_named_queries(full_store: VariantStore) -> None:
    first = {name: answer(full_store, name)[0] for name in queries()}
    assert first["problems"] == {"source": "s", "split": "train", "problems": 3, "with_variants": 1}
    assert first["checks"]["pass_rate"] == 0.0
    assert (first["offsets"]["designed"], first["offsets"]["measured"]) == (-2.0, pytest.approx(-2.6))
    assert first["calls"]["dollars"] == 0.01
    assert (first["accuracy"]["originals"], first["accuracy"]["variants"]) == (0.0, 1.0)
    assert first["silent"]["silent"] == 1.0
    assert (first["scores"]["accuracy"], first["scores"]["problems"]) == (0.25, 3)
    assert first["unsupplied"]["problem_id"] == "s/1"
    assert first["single_check"] == {"check_name": "leak", "variants": 1, "example": "s/0:reword:0"}
    ladder = first["ladders"]
    assert (ladder["steps_given"], ladder["pass_rate"], ladder["without_hint"]) == (1, 0.5, 0.5)
    latest = first["latest"]
    assert (latest["kind"], latest["scored_step"], latest["accuracy"]) == ("train", 1, 0.25)
    assert (first["costs"]["kind"], first["costs"]["calls"], first["costs"]["usd"]) == ("generate", 1, 0.01)
    steps = first["silent_steps"]
    assert (steps["silent"], steps["all_right"], steps["all_wrong"]) == (1.0, 1, 1)
    training = first["training"]
    assert (training["prompt"], training["groups"], training["accuracy"]) == ("hinted", 1, 1.0)
    assert first["gradients"]["entropy"] == 0.25
    assert first["reward_functions"] == {
        "run_id": "r", "function": "accuracy_reward", "groups": 2, "differing": 0, "least": 0.0, "most": 1.0
    }  # fmt: skip
    assert first["unknown_problems"] == {"run_id": "r2", "problem_id": "elsewhere/0", "rollouts": 1}
    spectrum = first["spectrum"]
    assert (spectrum["correct"], spectrum["problems"], spectrum["one_step_left"], spectrum["hints_help"]) == (
        1,
        1,
        1,
        1,
    )
    transfer = first["transfer"]
    assert (transfer["kind"], transfer["in_training"], transfer["by_label"]) == ("think_step", 1.0, 0.5)


def test_an_example_is_run_by_name_or_number(full_store: VariantStore) -> None:
    by_name, by_number = (
        invoke("sql", "--example", which, "--store", str(full_store.root)) for which in ("problems", "1")
    )
    assert by_name == by_number
    assert "with_variants" in by_name


def test_every_column_has_a_type_and_a_description(full_store: VariantStore) -> None:
    for view in describe_views(full_store):
        assert view.description, view.name
        assert view.columns, view.name
        for column in view.columns:
            assert column.type, f"{view.name}.{column.name}"
            assert column.description not in ("", "None"), f"{view.name}.{column.name} has no description"


def test_schema_shows_every_column(full_store: VariantStore) -> None:
    root = str(full_store.root)
    shown = invoke("sql", "--schema", "--store", root)
    rows = json.loads(invoke("sql", "--schema", "--store", root, "--format", "json"))
    assert len(rows) == sum(len(view.columns) for view in describe_views(full_store)) > 100
    for row in rows:
        assert f"{row['type']}" in shown
        assert row["description"] in shown


# --- the command


def test_examples_need_no_store() -> None:
    assert invoke("sql", "--examples").count("-- ") == len(queries())


def test_queries_of_a_file_and_of_a_pipe(full_store: VariantStore, tmp_path: Path) -> None:
    text = "SELECT 1 AS a; -- the first\nSELECT ';' AS b"
    (tmp_path / "q.sql").write_text(text)
    options = ("--store", str(full_store.root), "--format", "csv")
    assert invoke("sql", "--file", str(tmp_path / "q.sql"), *options) == "a\n1\nb\n;\n"
    assert invoke("sql", *options, text="SELECT ';' AS b") == "b\n;\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SELECT 1", "--schema"), "give one of"),
        (("SELECT 1", "no store"), "give --store"),
        (("--example", "41"), "there are 1 to 40"),
        (("--file", "{notes}"), "not a text of queries"),
        (("SELECT 1", "--format", "parquet"), "--output FILE"),
        (("--file", "{two}", "--output", "x"), "there are several"),
        (
            ("SELECT count(*) FROM range(1000000000) a, range(1000000000)", "--timeout", "0.2"),
            "longer than 0.2 s",
        ),
    ],
)
def test_mistakes_are_one_line(
    full_store: VariantStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "notes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "two").write_text("SELECT 1; SELECT 2")
    filled = [a.format(notes=tmp_path / "notes", two=tmp_path / "two") for a in arguments]
    store = [] if "no store" in filled else ["--store", str(full_store.root)]
    monkeypatch.setattr(sys, "argv", ["diva", "sql", *(a for a in filled if a != "no store"), *store])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code in (1, 2)
    assert message in shown.err
    assert shown.out == ""


# --- the report


def test_the_report_has_every_table(full_store: VariantStore) -> None:
    shown = invoke("report", "--store", str(full_store.root))
    assert all(query.title in shown for query in queries().values())


def test_the_report_of_an_empty_store_says_so(tmp_path: Path) -> None:
    VariantStore(tmp_path / "store", create=True)
    assert "The store is empty" in invoke("report", "--store", str(tmp_path / "store"))


# --- the file of views


def test_init_makes_a_store_that_opens_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "it's new"
    invoke("init", "--store", str(root))
    store = VariantStore(root)
    store.append([Problem(problem_id="s/0", source="s", split="train", text="?", answer="1")])
    with duckdb.connect(str(root / "store.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT problem_id FROM problems").fetchall() == [("s/0",)]
        described = connection.execute(
            "SELECT count(*) FROM duckdb_columns() WHERE comment IS NOT NULL AND NOT internal"
        )
        assert described.fetchall() == [(sum(len(view.columns) for view in describe_views(store)),)]
    with duckdb.connect() as connection:
        connection.execute((root / "views.sql").read_text("utf-8"))
        assert connection.execute("SELECT count(*) FROM variants").fetchall() == [(0,)]
    with duckdb.connect() as connection:
        path = str(root / "store.duckdb").replace("'", "''")
        connection.execute(f"ATTACH '{path}' AS s (READ_ONLY)")
        assert connection.execute("SELECT count(*) FROM s.live_difficulty").fetchall() == [(0,)]


def test_shells_of_duckdb_1_can_open_it(full_store: VariantStore, tmp_path: Path) -> None:
    database, _ = write_views(VariantStore(shutil.copytree(full_store.root, tmp_path / "store")))
    header = database.read_bytes()[:20]
    # The file's header: a checksum of 8 bytes, DUCK, and the storage version; DuckDB 1.0 reads up to 64.
    assert header[8:12] == b"DUCK"
    assert int.from_bytes(header[12:20], "little") == 64


def test_views_are_renewed_when_the_store_moved_or_they_are_gone(
    full_store: VariantStore, tmp_path: Path
) -> None:
    old = VariantStore(shutil.copytree(full_store.root, tmp_path / "old"))
    write_views(old)
    moved = VariantStore(shutil.move(old.root, tmp_path / "moved"))
    database = moved.root / "store.duckdb"
    with duckdb.connect(str(database), read_only=True) as connection, pytest.raises(duckdb.IOException):
        connection.execute("SELECT count(*) FROM problems")
    for _ in range(2):
        write_views(moved)
        with duckdb.connect(str(database), read_only=True) as connection:
            assert checksums(connection) == moved.checksums()
        database.unlink()
    write_views(moved)
    assert sorted(path.name for path in moved.root.iterdir() if path.is_file()) == [
        "store.duckdb",
        "views.sql",
    ]


def test_a_shell_that_is_open_does_not_stand_in_the_way(full_store: VariantStore, tmp_path: Path) -> None:
    store = VariantStore(shutil.copytree(full_store.root, tmp_path / "store"))
    database, _ = write_views(store)
    other = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", other, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"open\n"
        write_views(store)
        shell.communicate()
    with duckdb.connect(str(database), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM problems").fetchall() == [(3,)]


def test_the_text_of_a_result_is_made_within_the_limits(store: VariantStore, diva: Diva) -> None:
    query = "SELECT range, range + 1, range + 2 FROM range(5_000_000)"
    outcome = diva("sql", query, "--store", store.root, "--timeout", "3")
    assert outcome.code == 1
    assert "the query took longer than 3 s" in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("output_format", ["table", "csv", "json"])
def test_no_control_character_reaches_a_terminal(
    output_format: str, store: VariantStore, diva: Diva, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = (
        "sql",
        "SELECT chr(27) || '[2J' || chr(155) || chr(8238) || chr(8232) AS x",
        "--store",
        store.root,
        "--format",
        output_format,
    )
    assert ("\x9b" in diva(*query).out) == (output_format != "table")  # a file gets what is there
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = diva(*query).out
    assert not set(shown) & set("\x1b\x9b\u202e\u2028")


def test_an_error_that_quotes_a_text_has_no_control_character(store: VariantStore, diva: Diva) -> None:
    store.append(
        [Problem(problem_id="e/1", source="e", split="train", text="\x1b[2J\x9bm\u202e", answer="2")]
    )
    outcome = diva("sql", "SELECT text::INT FROM problems WHERE source = 'e'", "--store", store.root)
    assert outcome.code == 1
    assert "␛[2J" in outcome.err
    assert not set(outcome.err) & set("\x1b\x9b\u202e")


def test_the_present_moment_is_utc(store: VariantStore) -> None:
    ahead = "epoch(now()::TIMESTAMP - now() AT TIME ZONE 'UTC')"
    query = f"SELECT current_setting('TimeZone')[-3:] AS zone, {ahead} AS ahead"
    assert store.query(query) == [("UTC", 0.0)]
    assert run_select(store, query).to_pylist() == [{"zone": "UTC", "ahead": 0.0}]
