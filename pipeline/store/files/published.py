"""The list of what was published, so that a part that is lost is missed.

Each process that writes has a list of its own in the folder `published`, and adds a line for each part that it
has published: two writers share no file, so none waits for another. Merged parts are not listed. They name the
parts that they were made of, so their loss shows as well. A process that dies between a part and its line leaves a
part that no list has, which is only said.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from diva_grpo.pipeline.store.files.parts import Catalogue, Part
from diva_grpo.pipeline.store.files.places import LISTS, Place
from diva_grpo.schemas.records import RECORDS


class Published:
    """What the lists of a store say.

    Args:
        place: of the store.
        catalogue: of its parts.
    """

    def __init__(self, place: Place, catalogue: Catalogue) -> None:
        self._place = place
        self._catalogue = catalogue

    def _said(self) -> tuple[set[str], set[str]]:
        """Paths of the parts that were published, and of those that were given up."""
        lines = {line for name in self._place.names(LISTS) for line in _lines(self._place, name)}
        return {line[1:] for line in lines if line[0] == "+"}, {line[1:] for line in lines if line[0] == "-"}

    def exists(self) -> bool:
        """Whether a list was ever made."""
        return bool(self._place.names(LISTS))

    def missing(self) -> list[str]:
        """Paths of the listed parts whose rows are in no part that is there.

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
        """Parts, with their tables, that no list has although they were written by a program that keeps one."""
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
        """Note that these parts are known to be gone, so that nobody asks for them again."""
        self._place.note([f"-{path}" for path in paths])

    def take_in(self, paths: Iterable[str]) -> None:
        """List these parts, as if they had been published here."""
        self._place.note([f"+{path}" for path in paths])


def fold(place: Place, before_ns: int) -> None:
    """Make one list of those that were begun before a time, to which nobody adds any more."""
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
    """How many rows a part had, by its name."""
    return Part.named(PurePosixPath(path).name).rows


def _lines(place: Place, name: str) -> list[str]:
    try:
        with place.open(f"{LISTS}/{name}") as file:
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:  # a compaction has folded it meanwhile
        return []
    # A line that a crash of the machine has cut off has no end.
    return [line for line in lines[:-1] if line[:1] in ("+", "-")]
