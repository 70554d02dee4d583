"""The page of a store: its training runs, its curation and its problems, in one HTML file that needs no network.

The template `page.html` is filled with styles, scripts and data. The data are compressed JSON in base 85, so no text of
a data set is ever part of the markup; the scripts show it as text. The page opens with its summary and the index of
problems. The details of problems, and the texts of their prompts and rollouts, are in packs. The page unpacks a pack
when one of its problems is opened.

`flows.pages.live` serves the same page without data; the page then fetches the data from the server.
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
from diva_grpo.pipeline.store.files.progress import Progress, ignore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Kind, Status

PACK_BYTES = 256 * 1024
"""Bytes of JSON at which a pack is complete, before compression. A browser unpacks one in a few milliseconds."""

MOST_BYTES = 9_300_000
"""Once the packed data of the page exceed this number of bytes, no more details are added. The index is complete."""

IMAGE_PROBLEMS = 200
"""Maximum number of problems whose images are rendered for the page of a whole store."""

_AT_ONCE = 2_500
"""Number of problems whose details are read from the store at once."""

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
    """The size of a page that was written.

    Attributes:
        problems: number of problems in the index.
        detailed: number of problems whose details are in the page.
        size: bytes of the file.
    """

    problems: int
    detailed: int
    size: int


def write_report(
    store: VariantStore, path: Path, run_ids: Sequence[str] = (), progress: Progress = ignore
) -> Written:
    """Write the page of a whole store.

    Args:
        store: the store.
        path: the file. Pictures that do not fit into it are written to the folder `NAME_images` beside it.
        run_ids: one training run, or two to be compared; empty: the one that was started or resumed last.
        progress: called with the number of problems that were read since the previous call.

    Raises:
        ConfigError: there is no such training run, or the file cannot be written.
        QueryError: a query takes too long.
        StoreError: a part or an image is damaged.
    """
    runs = training_runs(store, run_ids)
    _writable(path)
    return _write(store, path, runs, summary(store, runs), index(store, runs), IMAGE_PROBLEMS, progress)


def write_problems(store: VariantStore, path: Path, title: str, problem_ids: Sequence[str]) -> Written:
    """Write a page that has only some problems, with their rollouts in the last training run.

    Args:
        store: the store.
        path: the file, see `write_report`.
        title: title of the page.
        problem_ids: ids of the problems.

    Raises:
        ConfigError: there is no such problem, or the file cannot be written.
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
    progress: Progress = ignore,
) -> Written:
    pictures = Pictures(store, path, image_problems)
    packed = pack(head)
    left = MOST_BYTES - len(packed) - len(pack(rows))
    data = _packed_details(store, rows, runs, pictures, left, progress)
    # The index is packed again, because it now has the numbers of the packs.
    data |= {"summary": packed, "index": pack(rows)}
    path.write_text(page_html(store, data=data), encoding="utf-8")
    return Written(len(rows), sum("pack" in row for row in rows), path.stat().st_size)


def _writable(path: Path) -> None:
    """Check that a file can be written, before the slow reading of the store starts.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.touch()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def _packed_details(
    store: VariantStore,
    rows: list[dict[str, Any]],
    runs: Sequence[str],
    pictures: Pictures,
    left: int,
    progress: Progress,
) -> dict[str, str]:
    """Pack the details of problems, until `left` bytes are used up.

    Problems with their variants are packed first. The remaining bytes are used for the texts of prompts and rollouts.
    The numbers of its packs are added to each row of the index.

    Args:
        store: the store.
        rows: rows of the index, in the order in which their details are added.
        runs: ids of the training runs.
        pictures: makes the thumbnails.
        left: bytes that the packs may have.
        progress: called with 1 for each problem that was read.

    Returns:
        The packs by name.
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
        progress(1)
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
    """Remove prompts and rollouts from a problem's details, and return them by problem or variant id.

    Returns an empty dictionary if there are none.
    """
    found = {}
    for asked in (problem, *problem["variants"]):
        if taken := {name: asked.pop(name) for name in ("rollouts", "prompts") if name in asked}:
            found[asked["id"]] = taken
    return {"id": problem["id"], "of": found} if found else {}


class _Packs:
    """A writer of numbered packs, each with the details of some problems.

    Args:
        name: prefix of the packs' names, such as `NAME-0`. Rows of the index have the number of their pack under this
            key.
        data: the dictionary to which the packs are added.
    """

    def __init__(self, name: str, data: dict[str, str]) -> None:
        self._name, self._data, self._number = name, data, 0
        self._held: list[bytes] = []

    def add(self, row: dict[str, Any], value: dict[str, Any]) -> int:
        """Add the details of a row. Returns the bytes of the pack that this completed; 0 if it completed none."""
        self._held.append(as_json(value))
        row[self._name] = self._number
        return self.close() if sum(map(len, self._held)) >= PACK_BYTES else 0

    def close(self) -> int:
        """Complete the present pack. Returns its bytes; 0 if it is empty."""
        if not self._held:
            return 0
        packed = _packed(b"[" + b",".join(self._held) + b"]")
        self._data[f"{self._name}-{self._number}"] = packed
        self._held, self._number = [], self._number + 1
        return len(packed)


def pack(value: Any) -> str:
    """Encode a value for the page: JSON, compressed, in base 85."""
    return _packed(as_json(value))


def _packed(text: bytes) -> str:
    """Compress JSON and encode it in base 85, which is 6 % shorter than base 64.

    `<` is replaced by a comma, so that the text cannot be read as markup.
    """
    return base64.b85encode(gzip.compress(text, 9, mtime=0)).decode().replace("<", ",")


def unpacked(text: str) -> Any:
    """Decode a text that `pack` has made."""
    return json.loads(gzip.decompress(base64.b85decode(text.replace(",", "<"))))


def page_html(store: VariantStore, *, data: dict[str, str] | None = None) -> str:
    """The page as HTML.

    Args:
        store: the store, whose name is the title.
        data: the packed data by name, see `pack`. None: the page fetches data from its server and refreshes itself.
    """
    scripts = [_text(name) for name in _SCRIPTS[:2]] + ["\n".join(map(_text, _SCRIPTS[2:]))]
    return _template().render(
        title=store.root.name,
        live=data is None,
        styles=Markup("\n".join(map(_text, _STYLES))),
        scripts=[Markup(script) for script in scripts],
        # The page may only run these scripts, show pictures and, if it is served, send requests to its own server.
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        kinds=[*map(str, Kind)],
        statuses=[*map(str, Status)],
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
