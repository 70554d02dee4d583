"""Artifacts about a store for Prefect's UI. The functions are pure and do not import Prefect.

`flows.runs.hooks` sends the artifacts to a server. Both of Prefect's interfaces were tried in Chromium: a markdown
artifact shows a picture in a data URL, but neither inline SVG nor links to files.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from diva_grpo.flows.pages.plots import LEVELS, bars
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import BY_LABEL_MODEL
from diva_grpo.pipeline.store.queries import answer

Rows = list[dict[str, Any]]

EXAMPLE_CHARACTERS = 160
"""Maximum characters of an example of a reason."""

MOST_DECISIONS = 100
"""Maximum rows of the table of decisions. Those furthest from the wanted offset are kept."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """The content of one artifact.

    Attributes:
        name: last part of the artifact's key, such as `counts`.
        content: the rows of a table, or markdown text.
        description: one line of text, shown above the content.
    """

    name: str
    content: Rows | str
    description: str


def artifact_key(store_name: str, name: str) -> str:
    """The key under which Prefect keeps the history of an artifact: lower-case letters, digits and dashes.

    Args:
        store_name: last part of the store's path.
        name: name of the artifact.
    """
    return "-".join(re.findall("[a-z0-9]+", f"{store_name} {name}".lower()))


def artifacts(store: VariantStore, since: datetime) -> list[Artifact]:
    """All artifacts of a store and a run, except the page of problems. Artifacts without content are left out.

    Args:
        store: the store.
        since: when the run began, in UTC, as a naive datetime. Calls and decisions since then are counted as the run's.

    Raises:
        StoreError: a part file is damaged.
    """
    every = (counts(store), reasons(store), cost(store, since), difficulty(store), decisions(store, since))
    return [artifact for artifact in every if artifact.content]


# --- tables


def counts(store: VariantStore) -> Artifact:
    """Counts of variants by kind and status, and the accepted share of those that were accepted or rejected."""
    return Artifact(
        "counts", _answer(store, "variants"), "Variants by kind and status; the share is of those decided."
    )


def reasons(store: VariantStore) -> Artifact:
    """Reasons why variants were rejected or failed, the most frequent first, with an example of each."""
    table = [row | {"example": row["example"][:EXAMPLE_CHARACTERS]} for row in _answer(store, "reasons")]
    return Artifact("reasons", table, "Why variants were rejected or failed, with an example of each.")


def cost(store: VariantStore, since: datetime) -> Artifact:
    """Requests and dollars by purpose and model, in total and since a run began.

    Dollars are None if the model has no known price. A call does not record its run, so concurrent requests of other
    runs on the same store are included.

    Args:
        store: the store.
        since: when the run began, as for `artifacts`.
    """
    sql = "SELECT purpose, model, count(*), sum(cost_usd) FROM calls WHERE created_at >= ? GROUP BY ALL"
    own = store.query(sql, [since])
    paid_for = {(purpose, model): dollars for purpose, model, _, dollars in own}
    table = _answer(store, "calls")
    for row in table:
        dollars = paid_for.get((row["purpose"], row["model"]))
        row["this run"] = None if dollars is None else round(dollars, 4)
    requests = sum(number for _, _, number, _ in own)
    known = [dollars for dollars in paid_for.values() if dollars is not None]
    paid = "no dollars" if not requests else f"${sum(known):,.4f}" if known else "of no known price"
    description = (
        f"This run: {requests:,} requests, {paid}. The table has all runs; its last column is of this run."
    )
    return Artifact("cost", table, description)


def decisions(store: VariantStore, since: datetime) -> Artifact:
    """Decisions of top-ups since a run began.

    Problems without any offset come first, then those whose nearest offset is furthest from the wanted one.

    Args:
        store: the store.
        since: when the run began, as for `artifacts`.
    """
    sql = """
        SELECT problem_id AS problem, round(wanted_delta, 2) AS wanted, round(nearest_delta, 2) AS nearest,
               array_to_string(kinds, ', ') AS kinds, requested, made, accepted, outcome
        FROM decisions WHERE created_at >= ?
        ORDER BY abs(wanted_delta - nearest_delta) DESC NULLS FIRST, problem_id
        """
    columns = ("problem", "wanted", "nearest", "kinds", "requested", "made", "accepted", "outcome")
    table = [dict(zip(columns, row, strict=True)) for row in store.query(sql, [since])]
    totals = ", ".join(
        f"{sum(row[name] for row in table):,} {name}" for name in ("requested", "made", "accepted")
    )
    shown = f" The first {MOST_DECISIONS} are below." if len(table) > MOST_DECISIONS else ""
    return Artifact(
        "decisions",
        table[:MOST_DECISIONS],
        f"{len(table):,} problems short of variants near the wanted offset: {totals}.{shown}",
    )


def scores(store: VariantStore) -> Artifact:
    """Accuracy of each evaluation with its standard error over problems, the evaluation that began last first."""
    return Artifact(
        "scores",
        _answer(store, "scores"),
        "Accuracy of models and checkpoints, by run, training step and split.",
    )


def _answer(store: VariantStore, name: str) -> Rows:
    """The rows of a named query. Underscores in column names are replaced by spaces."""
    return [{column.replace("_", " "): value for column, value in row.items()} for row in answer(store, name)]


# --- difficulty


def difficulty(store: VariantStore) -> Artifact:
    """A plot and a table of difficulty levels.

    They show the measured difficulty of problems and of accepted variants, and the live difficulty of problems in the
    latest training run. The content is empty if there is no difficulty.
    """
    series = dict(_series(store))
    if not series:
        return Artifact("difficulty", "", "")
    title = "Difficulty, 1 easiest to 9 hardest"
    picture = base64.b64encode(bars(title, series).encode()).decode()
    head = ["level", *map(str, LEVELS), "all"]
    table = [head, ["---", *["---:"] * (len(head) - 1)]]
    table += [[_cell(name), *map(str, numbers), str(sum(numbers))] for name, numbers in series.items()]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    markdown = "\n".join([f"![{title}](data:image/svg+xml;base64,{picture})", "", *lines])
    return Artifact(
        "difficulty", markdown, "Share of questions by level of difficulty, and how many there are."
    )


def _cell(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", text)


def _series(store: VariantStore) -> Iterator[tuple[str, list[int]]]:
    """Yield the name of each series and its number of questions at each of `LEVELS`. Empty series are left out."""
    levels = store.query(
        f"""
        WITH seen AS (
            SELECT subject_kind <> 'original' AS place, difficulty,
                   if(place, 'accepted variants, by ', 'problems, by ') || solver_model AS name
            FROM labels WHERE {BY_LABEL_MODEL}
            UNION ALL
            SELECT NULL, difficulty, 'problems, live in ' || run_id FROM live_difficulty
            WHERE run_id = (SELECT run_id FROM attempts SEMI JOIN difficulty_events USING (run_id)
                            ORDER BY started_at DESC LIMIT 1)
        )
        SELECT name, round(difficulty)::INTEGER AS level, count(*) FROM seen
        GROUP BY place, name, level ORDER BY place NULLS LAST, level
        """
    )
    for name in dict.fromkeys(row[0] for row in levels):
        by_level = {level: number for other, level, number in levels if other == name}
        yield name, [by_level.get(level, 0) for level in LEVELS]


# --- the page of problems


def page_link(page: Path, problems: int, url: str | None = None) -> Artifact:
    """An artifact that says where a page of `flows.pages.page` is.

    Args:
        page: the file.
        problems: number of problems on the page.
        url: the URL at which the page's folder is served. If it is None, the artifact shows the file's URL as text to
            paste, because browsers do not follow links from a server to a file, and Prefect's second interface
            removes such links.
    """
    head = f"{problems} problems beside their variants, with images as the policy sees them"
    description = "One page, with a search and filters for kind and status."
    if url is not None:
        return Artifact("problems", f"[{head}]({url.rstrip('/')}/{page.name})", description)
    where = "Paste this into the address bar of a browser on the machine of the store:"
    return Artifact("problems", f"{head}. {where}\n\n```\n{page.resolve().as_uri()}\n```", description)
