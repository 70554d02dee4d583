"""`examine` reads every file of a store, reports what is wrong, and can move damaged files to quarantine.

Parts of version 2 and images are compared with the hash in their file name. SQLite files are checked by SQLite
itself. Parts of version 1 have no hash: all their pages are read, which finds every truncated file and most altered
ones.
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
from diva_grpo.pipeline.store.files.progress import Progress, ignore
from diva_grpo.pipeline.store.files.published import Published
from diva_grpo.pipeline.store.files.sqlite import fault_of, reading
from diva_grpo.schemas.arrow import arrow_schema, to_table
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import RECORDS, Problem, Record, Rollout, Status, Variant, utc_now

QUARANTINE = "quarantine"
"""Folder to which damaged files are moved. Each repair creates a sub-folder with a `report.json`."""

JOURNAL = "journal.sqlite"
"""File with all answers of the endpoints, see `pipeline.teacher.journal`."""


class Fault(StrEnum):
    """What is wrong with a file."""

    DAMAGED = "damaged"
    """The content of the file is not what was written. A repair moves it to quarantine."""
    MISSING = "missing"
    """The file is named in a record or list of the store, but does not exist."""
    LEFTOVER = "leftover"
    """A crashed writer left this temporary file. A later `compact` removes it."""
    SUSPECT = "suspect"
    """The file is undamaged, but its records or its place in the store cannot be right."""
    GARBLED = "garbled"
    """The file is undamaged, but its texts have control characters in place of LaTeX. A repair restores the LaTeX."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A file or table with a fault.

    Attributes:
        path: path of the file within the store, or the name of the table.
        fault: what is wrong.
        held: what the file contains or contained, as far as known, and what the user can do.
        moved_to: after a repair, the new path within the store, or what the repair did; None without a repair.
    """

    path: str
    fault: Fault
    held: str
    moved_to: str | None = None

    def __str__(self) -> str:
        where = f" (moved to {self.moved_to})" if self.moved_to else ""
        return f"{self.fault}: {self.path}: {self.held}{where}"


def examine(engine: Engine, *, repair: bool = False, progress: Progress = ignore) -> list[Finding]:
    """Read every file of a store and return what is wrong.

    Args:
        engine: the store's engine.
        repair: move damaged files to quarantine, with a report of what they contained; restore garbled variants;
            and update the lists of published parts (see `Published`).
        progress: called with the number of files that were read since the previous call.

    Returns:
        The findings; none if everything is right.

    Raises:
        StoreError: a newer program wrote the store, or a repair cannot write to it.
    """
    damaged = [*_parts(engine, progress), *_images(engine, progress), *_journal(engine)]
    if repair and damaged:
        damaged = _quarantined(engine, damaged)
    # These checks query the store, which fails while a damaged part is in it.
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
    r"""Find variants whose texts have control characters in place of LaTeX.

    An older version of this program read `\times` in a JSON string as a tab and "imes".

    Args:
        engine: the store's engine.
        repair: reject these variants, and write restored ones as new candidates.
    """
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
    # The restored variant gets a new id, because labels of the old id belong to the damaged text.
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
    """Return the variant with its LaTeX commands restored, as a new candidate.

    Its id gets the suffix `:restored`. If a command cannot be restored, the check `format` later rejects the variant.
    """
    texts = {
        name: value and restored(value)
        for name in ("text", "solution_answer")
        for value in [getattr(variant, name)]
    }
    if variant.hint:
        texts["text"] = variant.text  # the text of the original, which the teacher did not write
    new = {"status": Status.CANDIDATE.value, "reason": None, "created_at": utc_now()}
    name = f"{variant.variant_id}:restored"
    return variant.model_copy(
        update={**texts, **new, "hint": [restored(step) for step in variant.hint], "variant_id": name}
    )


# --- parts


def _parts(engine: Engine, progress: Progress) -> Iterator[Finding]:
    for record in RECORDS:
        for part in engine.catalogue.parts(record.table):
            try:
                fine = is_whole(engine.place, record.table, part) and _is_of_table(engine, record, part)
            except FileNotFoundError:  # a compaction has removed it since it was listed
                continue
            progress(1)
            if not fine:
                yield Finding(f"{record.table}/{part.name}", Fault.DAMAGED, _held(engine, record.table, part))


def _is_of_table(engine: Engine, record: type[Record], part: Part) -> bool:
    """Whether a part belongs to the table in whose folder it is. A user may have copied another Parquet file there."""
    with engine.place.open(f"{record.table}/{part.name}") as file:
        if not {*record.key, "recorded_at", "record_no"} <= set(pq.read_schema(file).names):
            return False
    try:
        return bool(about(engine.place, record.table, part).get("table", record.table) == record.table)
    except KeyError:  # parts of version 1 do not name their table
        return True


def _missing_parts(engine: Engine, *, repair: bool) -> Iterator[Finding]:
    """Find listed parts whose rows are gone, and parts in the store that no list names (see `Published`).

    Args:
        engine: of the store to check.
        repair: mark the missing parts as lost, so that they are not reported again, and list the unlisted parts.
    """
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
    """Return words that name the runs that were active at a time, for a message.

    Running the same commands again restores lost rows.

    Args:
        engine: the store's engine.
        written: time at which the lost part was written, UTC.

    Returns:
        The words; empty if no run was active.
    """
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


def _images(engine: Engine, progress: Progress) -> Iterator[Finding]:
    for info in engine.place.files(IMAGES):
        if info.path.endswith(".tmp"):
            continue
        stem = PurePosixPath(info.path).stem
        with engine.place.open(info.path) as file:
            whole = sha256_of(file) == stem
        progress(1)
        if whole:
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
    """Find answers that the ledger (view `calls`) names and the journal lacks.

    `_journal` does not find them, because a truncated journal can still be a valid database.
    """
    path = engine.place.local / JOURNAL
    paid = {key for (key,) in engine.query("SELECT request_hash FROM calls WHERE outcome = 'ok'")}
    if not paid or engine.place.url != str(engine.place.local):  # each machine has its own journal
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

# All control characters except tab and line breaks. No text of a problem should have them, because they change the
# tokens.
_CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F]"


def _control_characters(engine: Engine) -> Iterator[Finding]:
    """Find problems with control characters in their texts. For variants, see `_garbled`."""
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
    """Move the damaged files to a new folder in quarantine.

    The report is written before the first file is moved. Moved parts are marked as lost (see `Published`).

    Returns:
        The findings, with `moved_to`.
    """
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
    # The journal is always a local file. SQLite keeps two more files beside it while it is open.
    target = engine.place.local / folder
    target.mkdir(parents=True, exist_ok=True)
    for name in (JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm"):
        if (engine.place.local / name).exists():
            shutil.move(engine.place.local / name, target / name)
