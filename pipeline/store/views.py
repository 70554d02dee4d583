"""SQL of the views: the public columns of `contract.md`, derived from the records.

A view shows the latest record of each key. `variants`, `rollouts`, `difficulty_events` and
`live_difficulty` say more than their parts; their rules stand beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from schemas.exceptions import StoreError
from schemas.records import RECORDS, DifficultyEvent, JsonText, Record, Rollout, Variant

# Quantile of the standard normal for a two-sided interval of 90 %.
_Z90 = 1.6448536269514722


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _source(root: Path, table: str, parts: Sequence[str] | None) -> str:
    """A FROM clause over a table's parts: all that are there, or the named ones."""
    folder = root / table
    if parts is None:
        files = _quoted(f"{folder}/*.parquet")
    else:
        files = "[" + ", ".join(_quoted(f"{folder}/{part}") for part in parts) + "]"
    return f"read_parquet({files}, union_by_name = true)"


def _column_list(record: type[Record]) -> str:
    def column(name: str) -> str:
        metadata = record.model_fields[name].metadata
        annotated = str(record.model_fields[name].annotation)
        is_json = any(isinstance(m, JsonText) for m in metadata) or "JsonText" in annotated
        return f'"{name}"::JSON AS "{name}"' if is_json else f'"{name}"'

    return ", ".join(column(name) for name in record.model_fields)


def _latest(root: Path, record: type[Record], parts: Sequence[str] | None, where: str = "true") -> str:
    key = ", ".join(f'"{name}"' for name in record.key)
    return (
        f"SELECT {_column_list(record)} FROM {_source(root, record.table, parts)} t WHERE {where} "
        f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY recorded_at DESC, record_no DESC) = 1"
    )


def _of_current_attempts(root: Path, record: type[Record]) -> str:
    """Rows of a training run without those that a later attempt, resumed before them, has superseded."""
    superseded = (
        "SELECT 1 FROM attempts a WHERE a.run_id = t.run_id AND a.attempt > t.attempt "
        "AND t.step >= a.resumed_step"
    )
    # Before the latest of a key is taken: else a superseded row that was written late would hide its successor.
    return _latest(root, record, None, f"NOT EXISTS ({superseded})")


# contract.md, Difficulty: measured delta with its variance from both Beta posteriors (times 64), and
# the delta in use, where the design counts as a measurement with a standard deviation of 2 levels.
# beta_var is the variance of Beta(c + 1, s - c + 1).
_VARIANTS = """
WITH label AS (
    SELECT subject_id, difficulty,
           64 * (correct + 1) * (samples - correct + 1) / ((samples + 2) ** 2 * (samples + 3)) AS variance
    FROM labels
    WHERE solver_model = (SELECT value FROM settings WHERE name = 'label_model')
), measured AS (
    SELECT v.variant_id, mine.difficulty - original.difficulty AS delta,
           mine.variance + original.variance AS variance
    FROM ({latest}) v
    JOIN label mine ON mine.subject_id = v.variant_id
    JOIN label original ON original.subject_id = v.problem_id
)
SELECT v.variant_id, v.problem_id, v.kind, v.text, v.hint_steps::INTEGER AS hint_steps, v.hint, v.recipe,
       v.delta_designed, m.delta AS delta_measured,
       m.delta - {z} * sqrt(m.variance) AS delta_low, m.delta + {z} * sqrt(m.variance) AS delta_high,
       coalesce((m.delta / m.variance + v.delta_designed / 4) / (1 / m.variance + 1.0 / 4),
                v.delta_designed, m.delta) AS delta,
       v.status, v.reason, v.generator_model, v.prompt_version, v.created_at,
       v.hint_total::INTEGER AS hint_total, v.solution_answer, v.aspect, coalesce(v.sample, 0)::INTEGER AS sample
FROM ({latest}) v LEFT JOIN measured m USING (variant_id)
"""

_LIVE_DIFFICULTY = """
SELECT run_id, problem_id, new_difficulty AS difficulty, uncertainty, step FROM difficulty_events
QUALIFY row_number() OVER (PARTITION BY run_id, problem_id ORDER BY step DESC) = 1
"""

LIVE_DIFFICULTY = "live_difficulty"


def view_names() -> list[str]:
    """All views of a store, in the order of the loop."""
    names = [record.table for record in RECORDS]
    names.insert(names.index("evaluations"), LIVE_DIFFICULTY)
    return names


def create_views(
    root: Path, *, variant_parts: Sequence[str] | None = None, query: str | None = None
) -> list[str]:
    """The CREATE VIEW statements of a store, in an order in which each finds what it reads.

    Args:
        root: the store's folder.
        variant_parts: parts of `variants` to read instead of all, as a training snapshot names them.
        query: make only the views that this text names, and those that they read: to make a view, DuckDB
            opens every part of its table.
    """
    special: dict[type[Record], str] = {
        Variant: _VARIANTS.format(latest=_latest(root, Variant, variant_parts), z=_Z90),
        Rollout: _of_current_attempts(root, Rollout),
        DifficultyEvent: _of_current_attempts(root, DifficultyEvent),
    }
    plain = [record for record in RECORDS if record not in special]
    bodies = {record.table: _latest(root, record, None) for record in plain}
    bodies |= {record.table: body for record, body in special.items()}
    bodies[LIVE_DIFFICULTY] = _LIVE_DIFFICULTY
    wanted = set(bodies) if query is None else _named(query, bodies)
    return [f"CREATE OR REPLACE VIEW {name} AS {body}" for name, body in bodies.items() if name in wanted]


def _named(query: str, bodies: Mapping[str, str]) -> set[str]:
    """Views that a query names, and those that their bodies name in turn."""
    found: set[str] = set()
    texts = [query]
    while texts:
        words = set(re.findall(r"\w+", texts.pop().lower()))
        new = (words & bodies.keys()) - found
        found |= new
        texts += [bodies[name] for name in new]
    return found


def connect(
    root: Path,
    *,
    variant_parts: Sequence[str] | None = None,
    query: str | None = None,
    schema: str = "main",
) -> duckdb.DuckDBPyConnection:
    """An in-memory connection with a store's views in one of its schemas.

    Args:
        root: the store's folder.
        variant_parts: see `create_views`.
        query: see `create_views`.
        schema: where the views go.

    Raises:
        StoreError: a part file is damaged or missing.
    """
    connection = duckdb.connect()
    try:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; SET schema = '{schema}'")
        for statement in create_views(root, variant_parts=variant_parts, query=query):
            connection.execute(statement)
        connection.execute("SET schema = 'main'")
    except duckdb.Error as error:
        connection.close()
        raise StoreError(f"store {root} cannot be read: {str(error).strip().splitlines()[0]}") from error
    return connection
