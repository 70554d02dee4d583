"""Lists of the published parts, by which the loss of a part is detected.

Each process that writes has a list of its own in the folder `published`. It adds a line for each part that it
publishes. No two writers share a file, so no writer waits for another. Merged parts are not listed: if one is lost,
the listed parts from which it was made are found to be missing. If a process dies after it published a part and before
it added the line, the part is in no list; `diva doctor` reports it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from diva_grpo.pipeline.store.files.parts import Catalogue, Part
from diva_grpo.pipeline.store.files.places import LISTS, Place
from diva_grpo.schemas.records import RECORDS


class Published:
    """The lists of published parts of a store.

    Args:
        place: location of the store's files.
        catalogue: lists the parts that exist.
    """

    def __init__(self, place: Place, catalogue: Catalogue) -> None:
        self._place = place
        self._catalogue = catalogue

    def _said(self) -> tuple[set[str], set[str]]:
        """Return the paths of the parts that were published, and of those that were marked as lost."""
        lines = {line for name in self._place.names(LISTS) for line in _lines(self._place, name)}
        return {line[1:] for line in lines if line[0] == "+"}, {line[1:] for line in lines if line[0] == "-"}

    def exists(self) -> bool:
        """Whether the store has any list."""
        return bool(self._place.names(LISTS))

    def missing(self) -> list[str]:
        """Return the paths of the listed parts whose rows are in no existing part, except those marked as lost.

        Raises:
            StoreError: a merged part is damaged.
        """
        listed, given_up = self._said()
        there = {f"{table}/{part.name}" for table, part in self._parts()} if listed else set()
        absent = listed - given_up - there
        if not absent:
            return []
        for table in {path.split("/")[0] for path in absent}:
            merged = (part for part in self._catalogue.parts(table) if part.merged)
            absent -= {f"{table}/{name}" for part in merged for name in self._catalogue.origins(table, part)}
        return sorted(absent)

    def unlisted(self) -> list[tuple[str, Part]]:
        """Return the parts that are in no list, each with its table. Merged and empty parts are never listed."""
        listed, _ = self._said()
        return [
            (table, part)
            for table, part in self._parts()
            if not part.merged and not part.is_empty and f"{table}/{part.name}" not in listed
        ]

    def _parts(self) -> Iterator[tuple[str, Part]]:
        for record in RECORDS:
            for part in self._catalogue.parts(record.table):
                yield record.table, part

    def give_up(self, paths: Iterable[str]) -> None:
        """Mark these parts as lost, so that `missing` does not return them any more."""
        self._place.note([f"-{path}" for path in paths])

    def take_in(self, paths: Iterable[str]) -> None:
        """Add these parts to this process's list, as if it had published them."""
        self._place.note([f"+{path}" for path in paths])


def fold(place: Place, before_ns: int) -> None:
    """Combine old lists into one.

    Args:
        place: location of the store's files.
        before_ns: only lists that were begun before this time are combined, in nanoseconds since 1970. It must be so
            early that no process still adds to them.
    """
    old = [name for name in place.names(LISTS) if int(name.split("-")[0]) < before_ns]
    if len(old) < 2:
        return
    lines = sorted({line for name in old for line in _lines(place, name)})
    with place.draft(LISTS) as draft:
        draft.write("".join(f"{line}\n" for line in lines).encode())
        draft.name = f"{max(old).split('-')[0]}-{uuid.uuid4().hex[:8]}.txt"
    for name in old:
        place.remove(f"{LISTS}/{name}")


def rows_of(path: str) -> int | None:
    """Return the number of rows of a part, which its name contains; None for a part of version 1."""
    return Part.named(PurePosixPath(path).name).rows


def _lines(place: Place, name: str) -> list[str]:
    try:
        with place.open(f"{LISTS}/{name}") as file:
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:  # a compaction has combined it with other lists (see `fold`)
        return []
    # The last line is dropped: it is empty, or a crash of the machine has cut it off.
    return [line for line in lines[:-1] if line[:1] in ("+", "-")]
