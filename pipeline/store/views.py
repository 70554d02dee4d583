"""SQL of the views: the public columns of `contract.md`, derived from the records.

A view shows the latest record of each key. `variants`, `rollouts`, `difficulty_events`, `train_steps` and
`live_difficulty` say more than their parts; their rules stand beside them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.difficulty.scale import LEVELS
from diva_grpo.pipeline.store.files.parts import Part
from diva_grpo.pipeline.store.label_model import BY_LABEL_MODEL
from diva_grpo.schemas.migrations import migrated
from diva_grpo.schemas.records import RECORDS, DifficultyEvent, JsonText, Record, Rollout, TrainStep, Variant

# Quantile of the standard normal for a two-sided interval of 90 %.
_Z90 = 1.6448536269514722

_OF_A_RUN = (Rollout, DifficultyEvent, TrainStep)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def source(url: str, table: str, parts: Sequence[Part], origins: Collection[str] | None = None) -> str:
    """A FROM clause over rows of a table, as this version has them.

    Args:
        url: where the store lies.
        table: its name.
        parts: to read.
        origins: only rows that were first written in these parts; None is all.
    """
    groups: dict[tuple[int, bool], list[str]] = {}
    for part in parts:
        some_only = part.merged and origins is not None
        groups.setdefault((part.version, some_only), []).append(_quoted(f"{url}/{table}/{part.name}"))
    selects = []
    for (version, some_only), files in sorted(groups.items()):
        rows = f"read_parquet([{', '.join(files)}], union_by_name = true)"
        if some_only and origins is not None:
            rows = f"(SELECT * FROM {rows} WHERE part IN ({', '.join(map(_quoted, sorted(origins)))}))"
        columns = migrated(table, version, f"SELECT * FROM {rows}")
        selects.append(rows if columns == f"SELECT * FROM {rows}" else f"({columns})")
    if len(selects) == 1:
        return selects[0]
    return "(" + " UNION ALL BY NAME ".join(f"SELECT * FROM {select}" for select in selects) + ")"


def every_file(url: str, table: str) -> str:
    """A FROM clause over all that a table's folder holds, now and later: for other programs than this.

    Rows that compaction has copied are there twice until it removes the first; the views show a key once.
    """
    return f"read_parquet({_quoted(f'{url}/{table}/*.parquet')}, union_by_name = true)"


def _column_list(record: type[Record]) -> str:
    def column(name: str) -> str:
        field = record.model_fields[name]
        is_json = any(isinstance(m, JsonText) for m in field.metadata) or "JsonText" in str(field.annotation)
        value = f'"{name}"::JSON' if is_json else f'"{name}"'
        if isinstance(field.default, str | int | float | list):
            # NULL in parts that are older than the column.
            value = f"coalesce({value}, {_literal(field.default)})"
        return f'{value} AS "{name}"'

    return ", ".join(column(name) for name in record.model_fields)


def _literal(value: str | int | float | list[Any]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return _quoted(value) if isinstance(value, str) else str(value)


def _latest(rows: str, record: type[Record], where: str = "true") -> str:
    key = ", ".join(f'"{name}"' for name in record.key)
    return (
        f"SELECT {_column_list(record)} FROM {rows} t WHERE {where} "
        f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY recorded_at DESC, record_no DESC) = 1"
    )


def _of_current_attempts(rows: str, record: type[Record]) -> str:
    """Rows of a training run without those that a later attempt, resumed before them, has superseded."""
    superseded = (
        "SELECT 1 FROM attempts a WHERE a.run_id = t.run_id AND a.attempt > t.attempt "
        "AND t.step >= a.resumed_step"
    )
    # Before the latest of a key is taken: else a superseded row that was written late would hide its successor.
    return _latest(rows, record, f"NOT EXISTS ({superseded})")


# The measured delta with its variance, from both Beta posteriors on the scale of difficulty, and the delta in
# use, where the design counts as a measurement with a standard deviation of 2 levels.
# beta_var is the variance of Beta(c + 1, s - c + 1).
_VARIANTS = """
WITH label AS (
    SELECT subject_id, difficulty,
           {square} * (correct + 1) * (samples - correct + 1) / ((samples + 2) ** 2 * (samples + 3)) AS variance
    FROM labels
    WHERE {by_label_model}
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


def create_views(root: str | Path) -> list[str]:
    """CREATE VIEW statements over all files of a store, in an order in which each finds what it reads."""
    return list(view_statements(str(root)).values())


def view_statements(url: str, sources: Mapping[str, str] | None = None) -> dict[str, str]:
    """The CREATE VIEW statement of each view of a store, in an order in which each finds what it reads.

    Args:
        url: where the store lies.
        sources: FROM clauses by table, see `source`; by default all files that are there, see `every_file`.
    """
    bodies = {}
    for record in sorted(RECORDS, key=lambda record: record in (Variant, *_OF_A_RUN)):
        rows = sources[record.table] if sources else every_file(url, record.table)
        if record is Variant:
            bodies[record.table] = _VARIANTS.format(
                latest=_latest(rows, record), z=_Z90, by_label_model=BY_LABEL_MODEL, square=f"{LEVELS**2:g}"
            )
        elif record in _OF_A_RUN:
            bodies[record.table] = _of_current_attempts(rows, record)
        else:
            bodies[record.table] = _latest(rows, record)
    bodies[LIVE_DIFFICULTY] = _LIVE_DIFFICULTY
    return {name: f"CREATE OR REPLACE VIEW {name} AS {body}" for name, body in bodies.items()}


def named_views(text: str) -> list[str]:
    """The views that a query names, and those that they read in turn, in the order of `view_statements`.

    To make a view, DuckDB opens every part of its table: a query should not pay for those that it leaves out.
    """
    statements = view_statements("", {record.table: "parts" for record in RECORDS})
    found: set[str] = set()
    texts = [text]
    while texts:
        words = set(re.findall(r"\w+", texts.pop().lower()))
        new = (words & statements.keys()) - found
        found |= new
        texts += [statements[name] for name in new]
    return [name for name in statements if name in found]
