"""Rows given as columns: each value is kept as it is, or refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from diva_grpo.schemas.arrow import columns_to_table
from diva_grpo.schemas.records import Rollout

ROWS: dict[str, Any] = dict.fromkeys(Rollout.model_fields) | {
    "run_id": "r", "step": 1, "problem_id": "p", "slot": 0, "sample": [0, 1], "variant_id": "original",
    "reward": [1.0, 0.0], "accuracy": 1.0, "advantage": 0.0, "completion_tokens": 3, "attempt": 0,
}  # fmt: skip


def _column(name: str, value: object) -> list[Any]:
    found: list[Any] = columns_to_table(Rollout, [ROWS | {name: value}], datetime(2026, 1, 1))[
        name
    ].to_pylist()
    return found


def test_one_value_is_that_of_all_rows() -> None:
    assert _column("reward", 0.5) == [0.5, 0.5]
    assert _column("completion_tokens", 3.0) == [3, 3]
    assert _column("completion_tokens", [4.0, None]) == [4, None]


@pytest.mark.parametrize("value", [3.5, [3.0, 2.5], "x", [1, 2, 3]])
def test_no_value_is_altered_to_fit(value: object) -> None:
    with pytest.raises(pa.ArrowInvalid):
        _column("completion_tokens", value)


def test_a_column_that_is_missing_has_its_default_or_is_refused() -> None:
    rows = {name: value for name, value in ROWS.items() if name not in ("completion", "reward")}
    with pytest.raises(KeyError, match="reward"):
        columns_to_table(Rollout, [rows], datetime(2026, 1, 1))
    made = columns_to_table(Rollout, [rows | {"reward": 1.0}], datetime(2026, 1, 1))
    assert made["completion"].to_pylist() == [None, None]


def test_columns_that_are_none_and_keys_without_a_value_are_refused() -> None:
    with pytest.raises(KeyError, match="no column rewards"):
        columns_to_table(Rollout, [ROWS | {"rewards": [1, 2]}], datetime(2026, 1, 1))
    with pytest.raises(pa.ArrowInvalid, match="run_id is part of the key"):
        columns_to_table(Rollout, [ROWS | {"run_id": [None, "r"]}], datetime(2026, 1, 1))
