"""`examine`: read every file of a store, say what is wrong, and move what is damaged out of the way.

Every file tells what it must be: parts of version 2 by the hash in their name, images by theirs, SQLite by its
own check. Parts of version 1 have no hash: all of their pages are read, which finds what is cut off and most of
what is altered.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from diva_grpo.pipeline.quantities.escapes import damage, restored
from diva_grpo.pipeline.store.engine import Engine
from diva_grpo.pipeline.store.files.parts import (
    AHEAD_NS,
    IMAGES,
    Part,
    about,
    as_time,
    empty_name,
    is_whole,
    publish,
    publish_bytes,
    publish_empty,
)
from diva_grpo.pipeline.store.files.places import LISTS, sha256_of
from diva_grpo.pipeline.store.files.published import Published
from diva_grpo.pipeline.store.files.sqlite import fault_of, reading
from diva_grpo.schemas.arrow import arrow_schema, to_table
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import RECORDS, Problem, Record, Rollout, Status, Variant, utc_now

QUARANTINE = "quarantine"
"""Folder that damaged files are moved to, each repair in a folder of its own with `report.json`."""

JOURNAL = "journal.sqlite"
"""File of the teacher's answers, see `pipeline.teacher.journal`."""


class Fault(StrEnum):
    """What is wrong with a file."""

    DAMAGED = "damaged"
    """Its content is not what was written: `repair` moves it to quarantine."""
    MISSING = "missing"
    """Records name it, and it is not there."""
    LEFTOVER = "leftover"
    """A crashed writer left it; `compact` removes it in time."""
    SUSPECT = "suspect"
    """The file is whole, and its records cannot be right."""
    GARBLED = "garbled"
    """Its file is whole, but control characters stand in its texts where LaTeX was: `repair` brings it back."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One file that is not as it should be.

    Attributes:
        path: within the store.
        fault: what is wrong.
        held: what was in it, as far as that can be known, and what to do.
        moved_to: where in the store it is now, after a repair.
    """

    path: str
    fault: Fault
    held: str
    moved_to: str | None = None

    def __str__(self) -> str:
        where = f" (moved to {self.moved_to})" if self.moved_to else ""
        return f"{self.fault}: {self.path}: {self.held}{where}"


def examine(engine: Engine, *, repair: bool = False) -> list[Finding]:
    """Read every file of a store.

    Args:
        engine: of the store to be read.
        repair: move damaged files to quarantine, and write there what they held.

    Raises:
        StoreError: a newer program wrote the store, or it cannot be written (by a repair).
    """
    damaged = [*_parts(engine), *_images(engine), *_journal(engine)]
    if repair and damaged:
        damaged = _quarantined(engine, damaged)
    # Once what is damaged is out of the way, the rest can be asked what it misses.
    whole = repair or not any(finding.path.endswith(".parquet") for finding in damaged)
    missing = [*_missing_images(engine), *_missing_answers(engine)] if whole else []
    missing += _missing_parts(engine, repair=repair) if whole else []
    garbled = _garbled(engine, repair=repair) if whole else []
    suspect = [*_control_characters(engine), *_rollouts_without_run(engine)] if whole else []
    suspect += _from_the_future(engine)
    return [*damaged, *missing, *garbled, *suspect, *_leftovers(engine)]


# --- texts

_SUSPECT = r"[\x01-\x09\x0b-\x1f\x7f-\x{9f}]|\n[a-z]"


def _garbled(engine: Engine, *, repair: bool) -> list[Finding]:
    r"""Variants of an older version, which read `\times` in a JSON string as a tab before "imes"."""
    names = list(Variant.model_fields)
    rows = engine.query(
        f"SELECT {', '.join(names)} FROM variants WHERE status <> 'rejected' AND regexp_matches("
        "concat_ws(' ', text, array_to_string(hint, ' '), solution_answer), ?) ORDER BY variant_id",
        [_SUSPECT],
    )
    suspect = [Variant(**dict(zip(names, row, strict=True))) for row in rows]
    found = [(variant, fault) for variant in suspect if (fault := _fault_of_text(variant))]
    if not found:
        return []
    first, fault = found[0]
    held = f"{len(found)} with control characters where LaTeX was, such as {first.variant_id} ({fault})"
    if not repair:
        to_do = f"`{diva('doctor', '--store', engine.place.url, '--repair')}` restores them, then run `diva verify`"
        return [Finding(Variant.table, Fault.GARBLED, f"{held}: {to_do}")]
    # Under a new name, since labels of the old one are of the damaged text.
    made = [_restored(variant) for variant, _ in found]
    was = [
        variant.model_copy(
            update={"status": Status.REJECTED.value, "reason": f"format: damaged text: {fault}"}
        )
        for variant, fault in found
    ]
    now_ns = engine.catalogue.now_ns(Variant.table)
    publish(engine.place, Variant.table, to_table([*was, *made], as_time(now_ns)), now_ns)
    return [Finding(Variant.table, Fault.GARBLED, held, "new candidates: run `diva verify`")]


def _fault_of_text(variant: Variant) -> str | None:
    texts = [*variant.hint, variant.solution_answer] if variant.hint else [variant.text]
    return next((fault for text in texts if text and (fault := damage(text))), None)


def _restored(variant: Variant) -> Variant:
    """The variant with its commands, to be verified; what cannot be brought back the check `format` rejects."""
    texts = {
        name: value and restored(value)
        for name in ("text", "solution_answer")
        for value in [getattr(variant, name)]
    }
    if variant.hint:
        texts["text"] = variant.text  # the original's
    new = {"status": Status.CANDIDATE.value, "reason": None, "created_at": utc_now()}
    name = f"{variant.variant_id}:restored"
    return variant.model_copy(
        update={**texts, **new, "hint": [restored(step) for step in variant.hint], "variant_id": name}
    )


# --- parts


def _parts(engine: Engine) -> Iterator[Finding]:
    for record in RECORDS:
        for part in engine.catalogue.parts(record.table):
            try:
                fine = is_whole(engine.place, record.table, part) and _is_of_table(engine, record, part)
            except FileNotFoundError:  # a compaction removed it meanwhile
                continue
            if not fine:
                yield Finding(f"{record.table}/{part.name}", Fault.DAMAGED, _held(engine, record.table, part))


def _is_of_table(engine: Engine, record: type[Record], part: Part) -> bool:
    """Whether a part is of its table: any Parquet file may have been copied there."""
    with engine.place.open(f"{record.table}/{part.name}") as file:
        if not {*record.key, "recorded_at", "record_no"} <= set(pq.read_schema(file).names):
            return False
    try:
        return bool(about(engine.place, record.table, part).get("table", record.table) == record.table)
    except KeyError:  # of version 1
        return True


def _missing_parts(engine: Engine, *, repair: bool) -> Iterator[Finding]:
    """Parts that were published and are gone, and parts that nobody has published here."""
    published = Published(engine.place, engine.catalogue)
    if repair and (gone := published.missing()):
        published.give_up(gone)
        yield from (
            Finding(path, Fault.MISSING, _lost(path), "given up: it is not asked for again") for path in gone
        )
    yield from (Finding(path, Fault.MISSING, _lost(path)) for path in published.missing())
    found = [
        f"{table}/{part.name}"
        for table, part in published.unlisted()
        if part.version > 1 and about(engine.place, table, part).get("listed")
    ]
    if found and not published.exists():
        why = f"the list of what was published is gone: {len(found)} parts are there, nobody can say which are not"
        yield Finding(LISTS, Fault.MISSING, why, "made of the parts that are there" if repair else None)
    else:
        why = "in no list of what was published here: of another store, or its writer died at that moment"
        taken = "taken in" if repair else None
        yield from (Finding(path, Fault.SUSPECT, why, taken) for path in found)
    if repair and found:
        published.take_in(found)


def _from_the_future(engine: Engine) -> Iterator[Finding]:
    for record in RECORDS:
        late = [
            p for p in engine.catalogue.parts(record.table) if (p.written_ns or 0) > time.time_ns() + AHEAD_NS
        ]
        if late:
            what = (
                f"{len(late)} parts are dated in the future, such as {late[-1].name}: a clock is or was wrong"
            )
            yield Finding(
                record.table, Fault.SUSPECT, f"{what}; what is written now counts as later than they"
            )


def _lost(path: str) -> str:
    part = Part.named(PurePosixPath(path).name)
    when = datetime.fromtimestamp((part.written_ns or 0) / 1e9, UTC)
    return f"{part.rows} rows written {when:%Y-%m-%d %H:%M:%S} UTC were published and are gone: copy the file back"


def _held(engine: Engine, table: str, part: Part) -> str:
    if part.is_empty:
        return "no rows; it is written again"
    rows = _rows_by_footer(engine, table, part) if part.rows is None else part.rows
    held = f"{table}, {'rows unknown' if rows is None else f'{rows} rows'}"
    if part.merged:
        return (
            held + ", merged by compaction; the parts that it was made of are read again where they are left"
        )
    if part.written_ns is None:
        return held
    written = datetime.fromtimestamp(part.written_ns / 1e9, UTC).replace(tzinfo=None)
    return f"{held} written {written:%Y-%m-%d %H:%M:%S} UTC{_by_runs(engine, written)}"


def _rows_by_footer(engine: Engine, table: str, part: Part) -> int | None:
    try:
        with engine.place.open(f"{table}/{part.name}") as file:
            return int(pq.read_metadata(file).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _by_runs(engine: Engine, written: datetime) -> str:
    """Which commands ran at a time: to run them again makes what was lost."""
    try:
        rows = engine.query(
            "SELECT run_id FROM runs WHERE started_at <= ? AND coalesce(ended_at, started_at + INTERVAL 1 DAY) >= ? "
            "ORDER BY started_at",
            [written, written],
        )
    except StoreError:
        return ", by a run that is not known: `runs` is damaged too"
    return f" by {' or '.join(run_id for (run_id,) in rows)}: run that again" if rows else ""


# --- images


def _images(engine: Engine) -> Iterator[Finding]:
    for info in engine.place.files(IMAGES):
        if info.path.endswith(".tmp"):
            continue
        stem = PurePosixPath(info.path).stem
        with engine.place.open(info.path) as file:
            if sha256_of(file) == stem:
                continue
        users = _problems_with(engine, stem)
        yield Finding(info.path, Fault.DAMAGED, f"image of {users}: ingest its source again")


def _problems_with(engine: Engine, digest: str) -> str:
    try:
        rows = engine.query(
            "SELECT problem_id FROM problems WHERE list_contains(list_transform(images, lambda i: i.hash), ?) "
            "ORDER BY problem_id",
            [digest],
        )
    except StoreError:
        return "problems that cannot be read either"
    names = [problem_id for (problem_id,) in rows]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "no problem"


def _missing_images(engine: Engine) -> Iterator[Finding]:
    there = {PurePosixPath(info.path).stem for info in engine.place.files(IMAGES)}
    named = engine.query(
        "SELECT i.hash, min(problem_id), count(DISTINCT problem_id) "
        "FROM (SELECT problem_id, unnest(images) AS i FROM problems) GROUP BY i.hash ORDER BY i.hash"
    )
    for digest, problem_id, count in named:
        if digest not in there:
            users = problem_id if count == 1 else f"{problem_id} and {count - 1} more"
            path = f"{IMAGES}/{digest[:2]}/{digest}"
            yield Finding(path, Fault.MISSING, f"image of {users}: ingest its source again")


# --- the journal


def _journal(engine: Engine) -> Iterator[Finding]:
    path = engine.place.local / JOURNAL
    if path.exists() and (fault := fault_of(path, "entries")):
        held = f"answers of the teacher ({fault}); those that are lost are asked for again"
        yield Finding(JOURNAL, Fault.DAMAGED, held)


def _missing_answers(engine: Engine) -> Iterator[Finding]:
    """Answers that the ledger names and the journal lacks: what is cut off may leave a valid database."""
    path = engine.place.local / JOURNAL
    paid = {key for (key,) in engine.query("SELECT request_hash FROM calls WHERE outcome = 'ok'")}
    if not paid or engine.place.url != str(engine.place.local):  # each machine has a journal of its own
        return
    if path.exists() and fault_of(path, "entries") is None:
        with reading(path) as connection:
            paid -= {
                key for (key,) in connection.execute("SELECT request_hash FROM entries WHERE outcome = 'ok'")
            }
    if paid:
        yield Finding(
            JOURNAL, Fault.MISSING, f"{len(paid)} answers that `calls` names: asked for again if needed"
        )


# --- what the records say

# All but tab and line breaks: no text of a problem has them, and a tokenizer makes something else of the text.
_CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F]"


def _control_characters(engine: Engine) -> Iterator[Finding]:
    """Problems; variants are found by `_garbled`."""
    texts = "concat_ws(' ', text, answer, array_to_string(solution_steps, ' '))"
    [(first, count)] = engine.query(
        f"SELECT min(problem_id), count(*) FROM problems WHERE regexp_matches({texts}, '{_CONTROL}')"
    )
    if count:
        more = f" and {count - 1} more" if count > 1 else ""
        yield Finding(
            Problem.table, Fault.SUSPECT, f"control characters in the texts of {first}{more}: mend the source"
        )


def _rollouts_without_run(engine: Engine) -> Iterator[Finding]:
    rows = engine.query(
        "SELECT run_id, count(*) FROM rollouts ANTI JOIN runs USING (run_id) GROUP BY run_id ORDER BY run_id"
    )
    for run_id, count in rows:
        yield Finding(
            Rollout.table, Fault.SUSPECT, f"{count} rollouts of run {run_id}, which `runs` does not have"
        )


# --- the rest


def _leftovers(engine: Engine) -> Iterator[Finding]:
    for folder in (*(record.table for record in RECORDS), IMAGES):
        for info in engine.place.files(folder):
            if info.path.endswith(".tmp"):
                yield Finding(
                    info.path, Fault.LEFTOVER, f"{info.size} bytes: `diva compact` removes it in time"
                )


def _quarantined(engine: Engine, damaged: Sequence[Finding]) -> list[Finding]:
    """The findings with where their files are now; the report is there before the first of them moves."""
    folder = f"{QUARANTINE}/{utc_now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    moved = [replace(finding, moved_to=f"{folder}/{finding.path}") for finding in damaged]
    report = json.dumps([asdict(finding) for finding in moved], indent=1)
    publish_bytes(engine.place, f"{folder}/report.json", report.encode())
    for finding in moved:
        _move(engine, finding.path, folder)
    lost = [finding.path for finding in moved if finding.path.endswith(".parquet")]
    if lost:
        Published(engine.place, engine.catalogue).give_up(lost)
    for record in RECORDS:
        schema = arrow_schema(record)
        if not engine.place.exists(f"{record.table}/{empty_name(schema)}"):
            publish_empty(engine.place, record.table, schema)
    return moved


def _move(engine: Engine, path: str, folder: str) -> None:
    if path != JOURNAL:
        engine.place.move(path, f"{folder}/{path}")
        return
    # A file of this machine, with those that SQLite keeps beside it while it is open.
    target = engine.place.local / folder
    target.mkdir(parents=True, exist_ok=True)
    for name in (JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm"):
        if (engine.place.local / name).exists():
            shutil.move(engine.place.local / name, target / name)
