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
from diva_grpo.pipeline.store.files.database import key_of, latest_first, literal, parquet_glob, quoted
from diva_grpo.pipeline.store.label_model import JOIN_LABEL_MODEL
from diva_grpo.pipeline.store.sources import PLACE, Source, superseded
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

_READS: Mapping[str, Sequence[str]] = MappingProxyType(
    {Variant.table: [Label.table, Setting.table], Run.table: [Evaluation.table]}
    | {record.table: [Setting.table] for record in OF_RUNS}
    | {record.table: [Attempt.table, Setting.table] for record in _OF_A_RUN}
    | {view.view: list(view.reads) for view in DERIVED}
)
"""The other views that a view reads, in addition to the parts of its own table."""

PREPARED = "prepared"
"""Name of the schema with the tables that a connection computes for its prepared views."""


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


def _latest(rows: str, record: type[Record], where: str = "true") -> str:
    return (
        f"SELECT {_column_list(record)} FROM {rows} t WHERE {where} "
        f"QUALIFY row_number() OVER (PARTITION BY {key_of(record)} ORDER BY {latest_first(record)}) = 1"
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


def any_left_out(name: str) -> str | None:
    """Return a SELECT of whether a view may leave rows out regardless of their key; None if it never does.

    Most stores have no removed run and no resumed one. Their rows need not be searched.
    """
    record = next((record for record in OF_RUNS if record.table == name), None)
    if record is None:
        return None
    removed = f"EXISTS (FROM settings WHERE starts_with(name, '{REMOVED_SETTING}') AND value = 'yes')"
    return (
        f"SELECT {removed} OR EXISTS (FROM attempts WHERE attempt > 0)"
        if record in _OF_A_RUN
        else f"SELECT {removed}"
    )


# The measured offset with its variance, and the offset in use. The variance is the sum of the variances of the Beta
# posteriors Beta(c + 1, s - c + 1) of both labels, on the difficulty scale. For the offset in use, the designed offset
# counts as a measurement with the standard deviation DESIGN_SD.
# These views contain no CTE and no scalar sub-query: with one of them, DuckDB computes a correlated sub-query over the
# view as a cross product with the outer rows.
# The measured offsets are grouped by their key, although it is unique: so DuckDB knows that the join adds no rows, and
# leaves it out of queries that read no offset.
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
FROM ({latest}) v LEFT JOIN (
    SELECT {key}, any_value(delta) AS delta, any_value(variance) AS variance FROM {measured} GROUP BY {key}
) m USING ({key})
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
        sources: FROM clauses by table, see `sources.Source.rows`; by default all files of the store, see `every_file`.
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


def hidden_table(name: str) -> str:
    """Return the name of the table of the rows that a prepared view leaves out."""
    return f"{PREPARED}.superseded_{name}"


def hidden_rows(name: str, source: Source, *, left_out: bool) -> str | None:
    """Return a SELECT of the rows that a prepared view leaves out, for `hidden_table`; None for a derived view.

    Args:
        name: name of the view.
        source: the rows of its table.
        left_out: whether the view may leave rows out regardless of their key, see `any_left_out`.
    """
    record = next((record for record in RECORDS if record.table == name), None)
    return None if record is None else superseded(source, record, _left_out(record) if left_out else None)


def prepared(
    name: str,
    source: Source,
    without_rows: Collection[str] = (),
    *,
    offsets: bool = True,
    hides: bool = True,
) -> tuple[dict[str, str], str]:
    """Return the SQL that prepares a view. The views that it reads must be prepared before.

    Args:
        name: name of the view.
        source: the rows of its table; not used for a derived view.
        offsets: whether to prepare the measured offsets of variants, see `names_offsets`. Otherwise each query that
            reads them computes them again.
        hides: whether the table of hidden rows (see `hidden_rows`) has any rows.
        without_rows: tables that are known to have no rows. Queries that depend on them are replaced by empty
            results, because only planning them takes longer than reading a small store.

    Returns:
        A SELECT for each other table of the schema `prepared` that must be created first, by the table's name; and
        the SELECT of the view.
    """
    if name == LiveDifficulty.view:
        return {name: DERIVED_SQL[name]}, f"SELECT * FROM {PREPARED}.{name}"
    if name in DERIVED_SQL:
        return {}, DERIVED_SQL[name]
    record = next(record for record in RECORDS if record.table == name)
    columns = _column_list(record) + (f", t.{PLACE}" if record is Variant else "")
    latest = f"SELECT {columns} FROM {source.rows} t"
    if hides:
        latest += f" ANTI JOIN {hidden_table(name)} s ON s.{PLACE} = t.{PLACE}"
    tables = {}
    if record is Variant:
        measured = f"({_MEASURED.format(latest=latest, key=PLACE)})"
        if not {name, *_READS[name]}.isdisjoint(without_rows):
            measured = f"({_NO_MEASUREMENT})"
        elif offsets:
            tables["measured"] = measured
            measured = f"{PREPARED}.measured"
        return tables, _VARIANTS.format(latest=latest, measured=measured, key=PLACE, z=_Z90, design=_DESIGN)
    return tables, _RUNS.format(latest=latest) if record is Run else latest


_NO_MEASUREMENT = (
    f"SELECT NULL::BIGINT AS {PLACE}, NULL::DOUBLE AS delta, NULL::DOUBLE AS variance WHERE false"
)


def names_offsets(text: str) -> bool:
    """Whether a query names one of the columns that are computed from the measured offsets of variants."""
    return re.search(r"\bdelta(_measured|_low|_high)?\b", text.lower()) is not None


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
