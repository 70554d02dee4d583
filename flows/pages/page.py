"""The page of a store: its training runs, its curation and its problems, in one file that needs no network.

`page.html` is filled with styles, scripts and data. The data are compressed JSON in base 85, so no text of a data set
is ever part of the markup; the scripts show them as text. The page opens with its summary and the index of the
problems. Details of problems, and the words of their rollouts, are in packs, which are unpacked when one of their
problems is opened.

`flows.pages.live` serves the same page without the data, which it then fetches.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from diva_grpo.flows.pages.json_text import as_json
from diva_grpo.flows.pages.problems import Pictures, details, index
from diva_grpo.flows.pages.summary import summary, training_runs
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError

PACK_BYTES = 256 * 1024
"""Of JSON in a pack of details, before compression: a browser unpacks one in a few milliseconds."""

MOST_BYTES = 9_300_000
"""Of all data as they stand in the page, as long as the index alone has fewer."""

IMAGE_PROBLEMS = 200
"""Problems whose images are rendered for the page of a whole store."""

_AT_ONCE = 2_500
"""Problems whose details are read in one go."""

_SCRIPTS = (
    "vendor/uPlot.iife.min.js",
    "vendor/katex.min.js",
    "page.js",
    "charts.js",
    "problems.js",
    "start.js",
)
_STYLES = ("vendor/uPlot.min.css", "page.css")


@dataclass(frozen=True, slots=True)
class Written:
    """What a page holds.

    Attributes:
        problems: in its index.
        detailed: those with their variants and rollouts.
        size: bytes of the file.
    """

    problems: int
    detailed: int
    size: int


def write_report(store: VariantStore, path: Path, run_ids: Sequence[str] = ()) -> Written:
    """Write the page of a whole store.

    Args:
        store: the store.
        path: the file. Pictures that are not in it lie in the folder `NAME_images` beside it.
        run_ids: one training run, or two to be compared; empty: the one that was started or resumed last.

    Raises:
        ConfigError: no such training run, or the file cannot be written.
        QueryError: a query takes too long.
        StoreError: a part or an image is damaged.
    """
    _writable(path)
    runs = training_runs(store, run_ids)
    return _write(store, path, runs, summary(store, runs), index(store, runs), IMAGE_PROBLEMS)


def write_problems(store: VariantStore, path: Path, title: str, problem_ids: Sequence[str]) -> Written:
    """Write a page of some problems alone, with the rollouts of the last training run.

    Args:
        store: the store.
        path: the file, see `write_report`.
        title: of the page.
        problem_ids: the problems.

    Raises:
        ConfigError: no such problem, or the file cannot be written.
        StoreError: a part or an image is damaged.
    """
    _writable(path)
    runs = training_runs(store)
    head = {"title": title, "runs": [{"id": run} for run in runs]}
    return _write(store, path, runs, head, index(store, runs, problem_ids), None)


def _write(
    store: VariantStore,
    path: Path,
    runs: Sequence[str],
    head: dict[str, Any],
    rows: list[dict[str, Any]],
    image_problems: int | None,
) -> Written:
    pictures = Pictures(store, path, image_problems)
    room = MOST_BYTES - len(pack(head)) - len(pack(rows))
    # Only then do the rows say in which pack their details are.
    data = _packed_details(store, rows, runs, pictures, room)
    data |= {"summary": pack(head), "index": pack(rows)}
    path.write_text(page_html(store, data=data), encoding="utf-8")
    return Written(len(rows), sum("pack" in row for row in rows), path.stat().st_size)


def _writable(path: Path) -> None:
    """Say that a file cannot be written before the store is read for it."""
    try:
        path.touch()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def _packed_details(
    store: VariantStore, rows: list[dict[str, Any]], runs: Sequence[str], pictures: Pictures, left: int
) -> dict[str, str]:
    """Packs by name, until no bytes are left; each row of the index gets the number of its pack.

    The problems with their variants come first. What is then left of the room is for the words of rollouts.
    """
    data: dict[str, str] = {}
    variants, words = _Packs("pack", data), _Packs("words", data)
    said: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for row, problem in _with_details(store, rows, runs, pictures):
        if left < 0:
            break
        if of_problem := _without_words(problem):
            said.append((row, of_problem))
        left -= variants.add(row, problem)
    left -= variants.close()
    for row, of_problem in said:
        if left < 0:
            break
        left -= words.add(row, of_problem)
    words.close()
    return data


def _with_details(
    store: VariantStore, rows: Sequence[dict[str, Any]], runs: Sequence[str], pictures: Pictures
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        yield from zip(some, details(store, [row["id"] for row in some], runs, pictures), strict=True)


def _without_words(problem: dict[str, Any]) -> dict[str, Any]:
    """Take prompts and rollouts out of a problem's details; returns them by the id of what was asked."""
    found = {}
    for asked in (problem, *problem["variants"]):
        if taken := {name: asked.pop(name) for name in ("rollouts", "prompts") if name in asked}:
            found[asked["id"]] = taken
    return {"id": problem["id"], "of": found} if found else {}


class _Packs:
    """Packs of a kind, each with some problems.

    Args:
        name: of the kind: a pack is called `name-0`, and rows of the index say under the name which one they are in.
        data: where the packs go.
    """

    def __init__(self, name: str, data: dict[str, str]) -> None:
        self._name, self._data, self._number = name, data, 0
        self._held: list[bytes] = []

    def add(self, row: dict[str, Any], value: dict[str, Any]) -> int:
        """Add the details of a row; returns the bytes of the pack that this has filled, if it has."""
        self._held.append(as_json(value))
        row[self._name] = self._number
        return self.close() if sum(map(len, self._held)) >= PACK_BYTES else 0

    def close(self) -> int:
        """Write the pack that is being filled; returns its bytes."""
        if not self._held:
            return 0
        packed = _packed(b"[" + b",".join(self._held) + b"]")
        self._data[f"{self._name}-{self._number}"] = packed
        self._held, self._number = [], self._number + 1
        return len(packed)


def pack(value: Any) -> str:
    """A value as the page holds it."""
    return _packed(as_json(value))


def _packed(text: bytes) -> str:
    """JSON, compressed, in base 85 (6 % shorter than base 64), with a comma for `<`, so that it is no markup."""
    return base64.b85encode(gzip.compress(text, 9, mtime=0)).decode().replace("<", ",")


def unpacked(text: str) -> Any:
    """The value of `pack`."""
    return json.loads(gzip.decompress(base64.b85decode(text.replace(",", "<"))))


def page_html(store: VariantStore, *, data: dict[str, str] | None = None) -> str:
    """The page as HTML.

    Args:
        store: whose name is the title.
        data: by name, see `pack`; None: the page fetches it from its server and renews itself.
    """
    scripts = [_text(name) for name in _SCRIPTS[:2]] + ["\n".join(map(_text, _SCRIPTS[2:]))]
    return _template().render(
        title=store.root.name,
        live=data is None,
        styles=Markup("\n".join(map(_text, _STYLES))),
        scripts=[Markup(script) for script in scripts],
        # The page may run these scripts, show pictures and, where it is served, ask its own server; nothing else.
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        data={name: Markup(packed) for name, packed in (data or {}).items()},
    )


@cache
def _text(name: str) -> str:
    return files("diva_grpo.flows.pages").joinpath(name).read_text("utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("page.html"))
