"""The page of a store: its training runs, its curation and its problems, in one file that needs no network.

`page.html` is filled with styles, scripts and data. The data are compressed JSON in base64, so no text of a data set
is ever part of the markup; the scripts show them as text. The page opens with its summary and the index of the
problems. Details of problems are in packs, which are unpacked when one of their problems is opened.

`flows.pages.live` serves the same page without the data, which it then fetches.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from diva_grpo.flows.pages.json_text import as_json
from diva_grpo.flows.pages.problems import Pictures, details, index
from diva_grpo.flows.pages.summary import summary, training_runs
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError

PACK_BYTES = 256 * 1024
"""Of JSON in a pack of details, before compression: a browser unpacks one in a few milliseconds."""

MOST_DETAILS_BYTES = 8_000_000
"""Of all packs as they stand in the page."""

IMAGE_PROBLEMS = 200
"""Problems whose images are rendered for the page of a whole store."""

_AT_ONCE = 1_000
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
    data = {}
    pictures = Pictures(store, path, image_problems)
    for number, (detailed, packed) in enumerate(_packs(store, rows, runs, pictures)):
        data[f"pack-{number}"] = packed
        for row in detailed:
            row["pack"] = number
    data |= {"summary": pack(head), "index": pack(rows)}
    path.write_text(page_html(store, data=data), encoding="utf-8")
    return Written(len(rows), sum("pack" in row for row in rows), path.stat().st_size)


def _writable(path: Path) -> None:
    """Say that a file cannot be written before the store is read for it."""
    try:
        path.touch()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def _packs(
    store: VariantStore, rows: list[dict[str, Any]], runs: Sequence[str], pictures: Pictures
) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Rows of the index with their packed details, until the page is full."""
    left = MOST_DETAILS_BYTES
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        held: list[bytes] = []
        first = 0
        texts = map(as_json, details(store, [row["id"] for row in some], runs, pictures))
        for number, text in enumerate(texts, start=1):
            held.append(text)
            if number < len(some) and sum(map(len, held)) < PACK_BYTES:
                continue
            packed = _packed(b"[" + b",".join(held) + b"]")
            left -= len(packed)
            if left < 0:
                return
            yield some[first:number], packed
            held, first = [], number


def pack(value: Any) -> str:
    """A value as the page holds it."""
    return _packed(as_json(value))


def _packed(text: bytes) -> str:
    return base64.b64encode(gzip.compress(text, 9, mtime=0)).decode()


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
        data=data or {},
    )


@cache
def _text(name: str) -> str:
    return files("diva_grpo.flows.pages").joinpath(name).read_text("utf-8")


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("page.html"))
