"""SQL of the views: the public columns of `contract.md`, derived from the records.

A view shows the latest record of each key. The views `variants` and `runs` have computed columns, and the views of
tables with a `run_id` leave out some rows; comments in this module give the rules. Derived views
(`pipeline.store.derived`) are computed from other views.

Each view has two forms, which show the same rows. A *prepared* view (see `prepared`) reads tables that a connection
computes once: the superseded rows, and the measured offsets. A query on it is then a plain scan with joins. A *live*
view (see `view_statements`) computes this again in each query. It therefore shows new files without this program, and
is meant for other programs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diva_grpo.pipeline.difficulty.design import DESIGN_SD
from diva_grpo.pipeline.difficulty.scale import LEVELS
from diva_grpo.pipeline.store.derived import DERIVED_SQL, SCORES
from diva_grpo.pipeline.store.files.database import literal, parquet, parquet_glob, quoted
from diva_grpo.pipeline.store.files.parts import Part
from diva_grpo.pipeline.store.label_model import JOIN_LABEL_MODEL
from diva_grpo.schemas.migrations import migrated
from diva_grpo.schemas.records import (
    OF_RUNS,
    RECORDS,
    REMOVED_SETTING,
    Attempt,
    DifficultyEvent,
    Evaluation,
    JsonText,
    Label,
    Record,
    Rollout,
    Run,
    Setting,
    TrainStep,
    Variant,
)
from diva_grpo.schemas.views import DERIVED, LiveDifficulty

# The 95 % quantile of the standard normal distribution, for a two-sided 90 % interval.
_Z90 = 1.6448536269514722
_DESIGN = 1 / DESIGN_SD**2

_OF_A_RUN = (Rollout, DifficultyEvent, TrainStep)

# A column that identifies a row of a source: the number of its file in the high bits, and the number of the row within
# the file in the low bits.
_PLACE, _ROW_BITS = "diva_place", 40

_READS: Mapping[str, Sequence[str]] = MappingProxyType(
    {Variant.table: [Label.table, Setting.table], Run.table: [Evaluation.table]}
    | {record.table: [Setting.table] for record in OF_RUNS}
    | {record.table: [Attempt.table, Setting.table] for record in _OF_A_RUN}
    | {view.view: list(view.reads) for view in DERIVED}
)
"""The other views that a view reads, in addition to the parts of its own table."""

PREPARED = "prepared"
"""Name of the schema with the tables that a connection computes for its prepared views."""


def source(url: str, table: str, parts: Sequence[Part], origins: Collection[str] | None = None) -> str:
    """Return a FROM clause over the rows of some parts of a table.

    The rows have the columns of the present schema version, and the column `_PLACE`.

    Args:
        url: path or URL of the store.
        table: name of the table.
        parts: parts to read.
        origins: names of parts; only rows that were first written in one of them are read. None reads all rows.
    """
    groups: dict[tuple[int, bool], list[str]] = {}
    for part in parts:
        some_only = part.merged and origins is not None
        groups.setdefault((part.version, some_only), []).append(f"{url}/{table}/{part.name}")
    selects = []
    first = 0
    for (version, some_only), files in sorted(groups.items()):
        rows = (
            f"SELECT *, (file_index::BIGINT + {first} << {_ROW_BITS}) + file_row_number AS {_PLACE} "
            f"FROM {parquet(files)}"
        )
        first += len(files)
        if some_only and origins is not None:
            rows = f"{rows} WHERE part IN ({', '.join(map(quoted, sorted(origins)))})"
        selects.append(migrated(table, version, rows))
    return "(" + " UNION ALL BY NAME ".join(selects) + ")"


def every_file(url: str, table: str) -> str:
    """Return a FROM clause over all part files of a table, including later ones, for other programs.

    After a compaction, its rows are there twice until the old parts are removed. The views show each key only once.
    """
    return parquet_glob([literal(f"{url}/{table}", "/*.parquet")])


def _column_list(record: type[Record]) -> str:
    def column(name: str) -> str:
        field = record.model_fields[name]
        is_json = any(isinstance(m, JsonText) for m in field.metadata) or "JsonText" in str(field.annotation)
        value = f'"{name}"::JSON' if is_json else f'"{name}"'
        if isinstance(field.default, str | int | float | list):
            # The value is NULL in parts that were written before the column existed.
            value = f"coalesce({value}, {_literal(field.default)})"
        return f'{value} AS "{name}"'

    return ", ".join(column(name) for name in record.model_fields)


def _literal(value: str | int | float | list[Any]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return quoted(value) if isinstance(value, str) else str(value)


def _order(record: type[Record]) -> str:
    """Return the ORDER BY terms that put the valid record of a key first.

    A record that meets the condition `Record.holds` comes before the others, then the latest record.
    """
    known = f"({record.holds}) DESC, " if record.holds else ""
    return f"{known}recorded_at DESC, record_no DESC"


def _latest(rows: str, record: type[Record], where: str = "true") -> str:
    key = ", ".join(f'"{name}"' for name in record.key)
    return (
        f"SELECT {_column_list(record)} FROM {rows} t WHERE {where} "
        f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {_order(record)}) = 1"
    )


# Rows of a training run that a later attempt has superseded: it was resumed at their step or an earlier one.
_EARLIER_ATTEMPT = (
    "EXISTS (SELECT 1 FROM attempts a WHERE a.run_id = t.run_id AND a.attempt > t.attempt "
    "AND t.step >= a.resumed_step)"
)


# Rows of a removed run, see `pipeline.store.removal`.
_REMOVED = (
    f"t.run_id IN (SELECT substr(name, {len(REMOVED_SETTING) + 1}) FROM settings "
    f"WHERE starts_with(name, '{REMOVED_SETTING}') AND value = 'yes')"
)


def _left_out(record: type[Record]) -> str | None:
    """Return an SQL condition for the rows that a view leaves out regardless of their key; None if there are none."""
    # The rows are left out before the latest record of a key is chosen. Otherwise a superseded row that was written
    # late would hide the row that replaces it.
    if record in _OF_A_RUN:
        return f"({_EARLIER_ATTEMPT} OR {_REMOVED})"
    return f"({_REMOVED})" if record in OF_RUNS else None


# The measured offset with its variance, and the offset in use. The variance is the sum of the variances of the Beta
# posteriors Beta(c + 1, s - c + 1) of both labels, on the difficulty scale. For the offset in use, the designed offset
# counts as a measurement with the standard deviation DESIGN_SD.
# These views contain no CTE and no scalar sub-query: with one of them, DuckDB computes a correlated sub-query over the
# view as a cross product with the outer rows.
_VARIANCE = f"{LEVELS**2:g} * (l.correct + 1) * (l.samples - l.correct + 1) / ((l.samples + 2) ** 2 * (l.samples + 3))"
_LABEL = f"(SELECT l.subject_id, l.difficulty, {_VARIANCE} AS variance FROM labels l {JOIN_LABEL_MODEL})"
_MEASURED = f"""
SELECT v.{{key}}, mine.difficulty - original.difficulty AS delta,
       mine.variance + original.variance AS variance
FROM ({{latest}}) v
JOIN {_LABEL} mine ON mine.subject_id = v.variant_id
JOIN {_LABEL} original ON original.subject_id = v.problem_id
"""

_VARIANTS = """
SELECT v.variant_id, v.problem_id, v.kind, v.text, v.hint_steps::INTEGER AS hint_steps, v.hint, v.recipe,
       v.delta_designed, m.delta AS delta_measured,
       m.delta - {z} * sqrt(m.variance) AS delta_low, m.delta + {z} * sqrt(m.variance) AS delta_high,
       coalesce((m.delta / m.variance + v.delta_designed * {design}) / (1 / m.variance + {design}),
                v.delta_designed, m.delta) AS delta,
       v.status, v.reason, v.generator_model, v.prompt_version, v.created_at,
       v.hint_total::INTEGER AS hint_total, v.solution_answer, v.aspect, coalesce(v.sample, 0)::INTEGER AS sample
FROM ({latest}) v LEFT JOIN {measured} m USING ({key})
"""

# The view `runs` adds columns to its records: the seconds, and the last score of the run.
_RUNS = f"""
SELECT r.*, date_diff('millisecond', r.started_at, r.ended_at) / 1000 AS seconds,
       s.step AS scored_step, s.accuracy AS accuracy
FROM ({{latest}}) r LEFT JOIN ({SCORES}) s USING (run_id)
"""


def view_names() -> list[str]:
    """Return the names of all views: the tables in the order of `RECORDS`, each derived view after those it reads."""
    names = [record.table for record in RECORDS]
    for view in DERIVED:
        names.insert(max(map(names.index, view.reads)) + 1, view.view)
    return names


def create_views(root: str | Path) -> list[str]:
    """Return CREATE VIEW statements over all files of a store. Each view comes after those that it reads."""
    return list(view_statements(str(root)).values())


def view_statements(url: str, sources: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the CREATE VIEW statement of each live view, by name. Each view comes after those that it reads.

    Args:
        url: path or URL of the store.
        sources: FROM clauses by table, see `source`; by default all files of the store, see `every_file`.
    """
    bodies = {}
    for record in sorted(RECORDS, key=lambda record: (record.table in _READS, record is Run)):
        rows = sources[record.table] if sources else every_file(url, record.table)
        if record is Variant:
            latest = _latest(rows, record)
            measured = f"({_MEASURED.format(latest=latest, key='variant_id')})"
            bodies[record.table] = _VARIANTS.format(
                latest=latest, measured=measured, key="variant_id", z=_Z90, design=_DESIGN
            )
        elif record is Run:
            bodies[record.table] = _RUNS.format(latest=_latest(rows, record))
        else:
            left_out = _left_out(record)
            bodies[record.table] = _latest(rows, record, f"NOT {left_out}" if left_out else "true")
    bodies |= DERIVED_SQL
    return {name: f"CREATE OR REPLACE VIEW {name} AS {body}" for name, body in bodies.items()}


def prepared(name: str, rows: str, without_rows: Collection[str] = ()) -> tuple[dict[str, str], str]:
    """Return the SQL that prepares a view. The views that it reads must be prepared before.

    Args:
        name: name of the view.
        rows: FROM clause of its table, see `source`; not used for a derived view.
        without_rows: tables that are known to have no rows. Queries that depend on them are replaced by empty
            results, because only planning them takes longer than reading a small store.

    Returns:
        A SELECT for each table of the schema `prepared` that must be created first, by the table's name; and the
        SELECT of the view.
    """
    if name == LiveDifficulty.view:
        return {name: DERIVED_SQL[name]}, f"SELECT * FROM {PREPARED}.{name}"
    if name in DERIVED_SQL:
        return {}, DERIVED_SQL[name]
    record = next(record for record in RECORDS if record.table == name)
    superseded = f"superseded_{name}"
    columns = _column_list(record) + (f", t.{_PLACE}" if record is Variant else "")
    latest = f"SELECT {columns} FROM {rows} t ANTI JOIN {PREPARED}.{superseded} s ON s.{_PLACE} = t.{_PLACE}"
    tables = {superseded: _NO_PLACE if name in without_rows else _superseded(rows, record)}
    if record is Variant:
        measured = f"{PREPARED}.measured"
        unmeasured = not {name, *_READS[name]}.isdisjoint(without_rows)
        tables["measured"] = _NO_MEASUREMENT if unmeasured else _MEASURED.format(latest=latest, key=_PLACE)
        return tables, _VARIANTS.format(latest=latest, measured=measured, key=_PLACE, z=_Z90, design=_DESIGN)
    return tables, _RUNS.format(latest=latest) if record is Run else latest


_NO_PLACE = f"SELECT NULL::BIGINT AS {_PLACE} WHERE false"
_NO_MEASUREMENT = (
    f"SELECT NULL::BIGINT AS {_PLACE}, NULL::DOUBLE AS delta, NULL::DOUBLE AS variance WHERE false"
)


def _superseded(rows: str, record: type[Record]) -> str:
    """Return a SELECT of the `_PLACE` of each row that a record's view leaves out."""
    key = ", ".join(f'"{name}"' for name in record.key)
    first, rest = "", rows
    if left_out := _left_out(record):
        first = f"SELECT {_PLACE} FROM {rows} t WHERE {left_out} UNION ALL "
        rest = f"(SELECT * FROM {rows} t WHERE NOT {left_out})"
    # In most tables few keys have several rows. Grouping by the hash of the key finds them with a tenth of the memory
    # that grouping by the key needs.
    return (
        f"WITH repeated AS (SELECT hash({key}) AS code FROM {rest} GROUP BY code HAVING count(*) > 1) "
        f"{first}SELECT {_PLACE} FROM (SELECT {_PLACE} FROM {rest} r SEMI JOIN repeated ON code = hash({key}) "
        f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {_order(record)}) > 1)"
    )


def named_views(text: str) -> list[str]:
    """Return the views that a query names, and the views that these read. Each view comes after those that it reads.

    Only these views need to be prepared for the query. Preparing a view reads all keys of its table.
    """
    words = set(re.findall(r"\w+", text.lower()))
    found: list[str] = []

    def add(name: str) -> None:
        for read in _READS.get(name, []):
            add(read)
        if name not in found:
            found.append(name)

    for name in view_names():
        if name in words:
            add(name)
    return found
