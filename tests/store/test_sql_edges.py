"""What a user's SQL may meet: misspelt names, a damaged or newer store, a compaction at work."""

from __future__ import annotations

import pytest

from diva_grpo.pipeline.store import VariantStore, run_apart, run_select
from diva_grpo.pipeline.store.sql import locked, select
from diva_grpo.schemas.exceptions import QueryError, StoreError
from diva_grpo.schemas.records import Problem, Rollout


@pytest.fixture
def filled(store: VariantStore) -> VariantStore:
    store.append(
        [Problem(problem_id=f"s/{i}", source="s", split="train", text="?", answer="1") for i in range(9)]
    )
    return store


def _refusal(store: VariantStore, query: str) -> str:
    with pytest.raises(QueryError) as caught:
        run_select(store, query)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("query", "suggestion"),
    [
        ("SELECT * FROM problms", "; did you mean problems or prompts? `diva sql --schema` shows the views"),
        ("SELECT * FROM difficulty_event", "; did you mean difficulty_events"),
        ("SELECT anwser FROM problems", "; did you mean answer?"),
        ("SELECT p.Problem FROM problems p", "; did you mean problem_id?"),
        ("SELECT pass_rat FROM problems JOIN labels ON subject_id = problem_id", "; did you mean pass_rate?"),
    ],
)
def test_near_names_are_suggested(filled: VariantStore, query: str, suggestion: str) -> None:
    assert suggestion in _refusal(filled, query)


def test_name_that_is_near_to_none_gets_no_suggestion(filled: VariantStore) -> None:
    assert "did you mean" not in _refusal(filled, "SELECT zzz FROM problems")
    assert _refusal(filled, "SELECT * FROM zzz").endswith("exist; `diva sql --schema` shows the views")


def _damage_pages(store: VariantStore) -> None:
    """Alter the content of the latest part of `problems` and leave its footer whole."""
    part = max((store.root / "problems").iterdir())
    content = bytearray(part.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    content[4 : len(content) - 8 - length] = bytes(len(content) - 12 - length)
    part.write_bytes(content)


@pytest.mark.parametrize("apart", [False, True], ids=["in this process", "apart"])
def test_damaged_part_is_one_line_that_names_the_doctor(filled: VariantStore, apart: bool) -> None:
    _damage_pages(filled)
    with pytest.raises(
        StoreError, match=r"problems/.* is damaged: `diva doctor --store .* --repair`"
    ) as caught:
        (run_apart if apart else run_select)(filled, "SELECT text, source FROM problems")
    assert "\n" not in str(caught.value)


def test_part_that_a_compaction_removes_during_a_query_is_one_line(filled: VariantStore) -> None:
    with locked(filled, "FROM problems") as connection:
        for part in (filled.root / "problems").iterdir():
            part.unlink()
        with pytest.raises(StoreError, match="cannot be read") as caught:
            select(filled, connection, "FROM problems")
    assert "\n" not in str(caught.value)


def test_store_of_a_newer_version_is_one_line(filled: VariantStore) -> None:
    part = max((filled.root / "problems").iterdir())
    part.rename(part.with_name(part.name.replace("-v2-", "-v99-")))
    with pytest.raises(StoreError, match=r"written by a newer diva-grpo \(schema 99") as caught:
        run_apart(filled, "FROM problems")
    assert "\n" not in str(caught.value)


def test_one_value_stands_for_all_rows_of_its_column(store: VariantStore) -> None:
    row = {"run_id": "r", "slot": 0, "problem_id": "s/0", "variant_id": "original", "attempt": 0}
    figures = {
        "step": [1, 2],
        "sample": 0,
        "reward": None,
        "accuracy": 1.0,
        "advantage": 0.5,
        "completion_tokens": 3,
    }
    store.append_columns(Rollout, [{**row, **figures}])
    assert store.query("SELECT step, reward, accuracy, advantage FROM rollouts ORDER BY step") == [
        (1, None, 1.0, 0.5),
        (2, None, 1.0, 0.5),
    ]
    store.append_columns(Rollout, [{**row, **figures, "step": 3}])
    assert store.query("SELECT count(*) FROM rollouts") == [(3,)]
