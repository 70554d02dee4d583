"""A user's own SQL: results in every format, limits and errors (hostile queries: test_sql_hostile.py)."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diva_grpo.pipeline.store import VariantStore, render, run_select
from diva_grpo.pipeline.store import sql as sql_module
from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.exceptions import QueryError
from diva_grpo.schemas.records import Problem


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """A store that no test may change."""
    made = VariantStore(tmp_path_factory.mktemp("sql") / "it's a store", create=True)
    texts = ["plain", 'with, "quotes"', "two\nlines", "½ ≤ 漢字"]
    made.append(
        [
            Problem(
                problem_id=f"s/{i}", source="s", split="train", text=text, answer=str(i), options=["a", text]
            )
            for i, text in enumerate(texts)
        ]
    )
    return made


_ALL = "SELECT problem_id, text, options, human_level, answer::INTEGER AS answer FROM problems ORDER BY problem_id"


@pytest.fixture(scope="module")
def rows(store: VariantStore) -> list[dict[str, object]]:
    return [
        {
            "problem_id": p.problem_id,
            "text": p.text,
            "options": p.options,
            "human_level": None,
            "answer": int(p.answer),
        }
        for p in store.problems()
    ]


# --- results


def test_json_round_trip(store: VariantStore, rows: list[dict[str, object]]) -> None:
    text = render(run_select(store, _ALL), "json")
    assert text is not None
    assert json.loads(text) == rows


def test_csv_round_trip(store: VariantStore, rows: list[dict[str, object]]) -> None:
    text = render(run_select(store, _ALL), "csv")
    assert text is not None
    found = list(csv.DictReader(io.StringIO(text)))
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert [json.loads(row["options"]) for row in found] == [row["options"] for row in rows]
    assert {row["human_level"] for row in found} == {""}


def test_parquet_round_trip(store: VariantStore, rows: list[dict[str, object]], tmp_path: Path) -> None:
    assert render(run_select(store, _ALL), "parquet", tmp_path / "out.parquet") is None
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == rows


def test_table_has_a_line_for_each_row(store: VariantStore) -> None:
    text = render(run_select(store, "SELECT problem_id, human_level FROM problems ORDER BY ALL"), "table")
    assert text is not None
    assert text.splitlines()[0].split() == ["problem_id", "human_level"]
    assert [line.strip() for line in text.splitlines()[2:]] == ["s/0", "s/1", "s/2", "s/3"]


@pytest.mark.parametrize("output_format", ["csv", "json", "table"])
def test_output_goes_to_a_file(store: VariantStore, tmp_path: Path, output_format: str) -> None:
    table = run_select(store, _ALL)
    assert render(table, output_format, tmp_path / "out") is None
    assert (tmp_path / "out").read_text("utf-8") == f"{render(table, output_format)}\n"


def test_columns_of_the_same_name_are_all_there(store: VariantStore) -> None:
    assert render(run_select(store, "SELECT 1 AS a, 2 AS a"), "csv") == "a,a_1\n1,2"


def test_json_has_numbers_as_numbers_and_no_nan(store: VariantStore) -> None:
    query = "SELECT sum(2) s, 1.5::DECIMAL(4, 2) d, 'nan'::DOUBLE n, ['inf'::DOUBLE] l, {'x': 1} o, DATE '2026-01-02' t"
    text = render(run_select(store, query), "json")
    assert text is not None
    assert json.loads(text, parse_constant=pytest.fail) == [
        {"s": 2, "d": 1.5, "n": None, "l": [None], "o": {"x": 1}, "t": "2026-01-02"}
    ]


def test_order_of_the_query_is_kept(store: VariantStore) -> None:
    table = run_select(store, "SELECT i FROM range(300000) t(i) ORDER BY hash(i)")
    expected = run_select(store, "SELECT i FROM range(300000) t(i) ORDER BY hash(i) LIMIT 1000")
    assert table["i"].slice(0, 1000).to_pylist() == expected["i"].to_pylist()
    assert table.num_rows == 300_000


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("FROM problems", 4),
        ("VALUES (1), (2)", 2),
        ("WITH p AS (FROM problems) SELECT * FROM p", 4),
        ("(SELECT 1) UNION ALL (SELECT 2);", 2),
        ("SELECT 1 -- a comment", 1),
        ("SELECT '½;' -- ; one\n ; -- another; \n;", 1),
        ("SELECT 1; /* the end; */", 1),
        ("DESCRIBE problems", 10),
        ("SHOW TABLES", len(view_names())),
        ("SUMMARIZE problems", 10),
    ],
)
def test_every_form_of_a_select_is_admitted(store: VariantStore, query: str, count: int) -> None:
    assert run_select(store, query).num_rows == count


def test_empty_result_keeps_its_columns(store: VariantStore) -> None:
    assert render(run_select(store, "SELECT text, answer FROM problems WHERE false"), "csv") == "text,answer"


# --- limits and errors


def _refusal(store: VariantStore, query: str, timeout_s: float = 20.0) -> str:
    with pytest.raises(QueryError) as caught:
        run_select(store, query, timeout_s=timeout_s)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "query",
    [
        "WITH RECURSIVE r AS (SELECT 1 i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
        "SELECT count(*) FROM range(10000000000) a, range(1000000000) b",
        "SELECT sum(hash(i)) FROM range(100000000000) t(i)",
    ],
)
def test_endless_query_is_ended_by_the_time_limit(store: VariantStore, query: str) -> None:
    started = time.monotonic()
    assert "longer than 0.3 s" in _refusal(store, query, timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_time_limit_that_is_over_before_the_query_begins_still_ends_it(store: VariantStore) -> None:
    query = "SELECT count(*) FROM range(10000000000) a, range(1000000000) b"
    assert "longer than" in _refusal(store, query, timeout_s=0.0001)


def test_endless_result_is_ended_by_its_size(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_module, "MAX_RESULT_BYTES", 2**20)
    assert "larger than 1 MiB" in _refusal(store, "SELECT * FROM range(100000000000)")


def test_after_a_refusal_the_next_query_is_answered(store: VariantStore) -> None:
    _refusal(store, "SELECT nope")
    assert run_select(store, "SELECT count(*) n FROM problems")["n"].to_pylist() == [4]


@pytest.mark.parametrize("output_format", ["csv", "json", "table"])
def test_value_beyond_python_is_one_line(store: VariantStore, output_format: str) -> None:
    table = run_select(store, "SELECT 'infinity'::TIMESTAMP AS t")
    with pytest.raises(QueryError, match="column 't' has values beyond") as caught:
        render(table, output_format)
    assert "\n" not in str(caught.value)


def test_parquet_without_a_file_is_one_line() -> None:
    with pytest.raises(QueryError, match="--output"):
        render(pa.table({"a": [1]}), "parquet")


@pytest.mark.parametrize("output_format", ["csv", "json", "table", "parquet"])
def test_file_that_cannot_be_written_is_one_line(tmp_path: Path, output_format: str) -> None:
    with pytest.raises(QueryError, match="cannot be written") as caught:
        render(pa.table({"a": [1]}), output_format, tmp_path / "no" / "folder")
    assert "\n" not in str(caught.value)
