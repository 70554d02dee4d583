"""What a person sees of a store in Prefect's UI: pure functions from a store to artifacts, without Prefect.

`flows.runs.hooks` sends them to a server. Both of Prefect's interfaces were tried in Chromium: a picture in a data
URL shows in a markdown artifact, inline SVG and links to files do not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from diva_grpo.flows.pages.plots import LEVELS, bars
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import BY_LABEL_MODEL
from diva_grpo.schemas.records import Status

Rows = list[dict[str, Any]]

EXAMPLE_CHARACTERS = 160
"""Longest example of a reason."""

MOST_DECISIONS = 100
"""Rows of the table of decisions, those furthest from what was wanted."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One thing to show.

    Attributes:
        name: last part of its key, such as `counts`.
        content: rows of a table, or markdown.
        description: one line above it.
    """

    name: str
    content: Rows | str
    description: str


def artifact_key(store_name: str, name: str) -> str:
    """The key under which Prefect keeps the history of an artifact: lower-case letters, digits and dashes.

    Args:
        store_name: last part of the store's path.
        name: of the artifact.
    """
    return "-".join(re.findall("[a-z0-9]+", f"{store_name} {name}".lower()))


def artifacts(store: VariantStore, since: datetime) -> list[Artifact]:
    """All that a store and a run have to show, but for the gallery; what would be empty is left out.

    Args:
        store: the store.
        since: when the run began, UTC without an offset: what was called and decided since then counts as its own.

    Raises:
        StoreError: a part file is damaged.
    """
    every = (counts(store), reasons(store), cost(store, since), difficulty(store), decisions(store, since))
    return [artifact for artifact in every if artifact.content]


# --- tables


def counts(store: VariantStore) -> Artifact:
    """Variants by kind and status, with the share accepted of those decided."""
    states = ", ".join(f"count(*) FILTER (status = '{status}') AS {status}" for status in Status)
    rows = _rows(
        store,
        f"""
        SELECT coalesce(kind, 'all') AS kind, {states},
               format('{{:.0f}} %', 100 * avg((status = 'accepted')::INTEGER)
                   FILTER (status IN ('accepted', 'rejected'))) AS "share accepted"
        FROM variants GROUP BY ROLLUP (kind) HAVING count(*) > 0 ORDER BY GROUPING(kind), variants.kind
        """,
    )
    return Artifact("counts", rows, "Variants by kind and status; the share is of those decided.")


def reasons(store: VariantStore) -> Artifact:
    """Why variants were not accepted, commonest first, with an example of each."""
    rows = _rows(
        store,
        """
        SELECT count(*) AS variants, kind, status, regexp_extract(reason, '^[a-z_0-9]+') AS "by",
               left(min(reason), ?) AS example
        FROM variants WHERE reason IS NOT NULL AND status IN ('rejected', 'failed')
        GROUP BY kind, status, "by" ORDER BY variants DESC, kind, status, "by"
        """,
        [EXAMPLE_CHARACTERS],
    )
    return Artifact("reasons", rows, "Why variants were rejected or failed, with an example of each.")


def cost(store: VariantStore, since: datetime) -> Artifact:
    """What the endpoints were asked and paid, by purpose and model, and what of it since a run began.

    Dollars are None where the price table has no such model. What other runs on the same store asked at the
    same time is counted too: a call does not say which run made it.
    """
    rows = _rows(
        store,
        """
        SELECT purpose, model, count(*) AS requests, count(*) FILTER (outcome <> 'ok') AS failed,
               sum(prompt_tokens)::BIGINT AS "tokens in", sum(completion_tokens)::BIGINT AS "tokens out",
               round(sum(cost_usd), 4) AS dollars,
               round(sum(cost_usd) FILTER (created_at >= ?), 4) AS "this run"
        FROM calls GROUP BY purpose, model ORDER BY dollars DESC NULLS LAST, requests DESC, purpose, model
        """,
        [since],
    )
    [(requests, dollars)] = store.query(
        "SELECT count(*), sum(cost_usd) FROM calls WHERE created_at >= ?", [since]
    )
    paid = "no dollars" if not requests else "of no known price" if dollars is None else f"${dollars:,.4f}"
    told = f"This run: {requests:,} requests, {paid}. The table is of all the store, with dollars of this run last."
    return Artifact("cost", rows, told)


def decisions(store: VariantStore, since: datetime) -> Artifact:
    """What top-up runs asked for since a run began, those problems first that were furthest from the wanted offset."""
    rows = _rows(
        store,
        """
        SELECT problem_id AS problem, round(wanted_delta, 2) AS wanted, round(nearest_delta, 2) AS nearest,
               array_to_string(kinds, ', ') AS kinds, requested, made, accepted, outcome
        FROM decisions WHERE created_at >= ?
        ORDER BY abs(wanted_delta - nearest_delta) DESC NULLS FIRST, problem_id
        """,
        [since],
    )
    totals = ", ".join(
        f"{sum(row[name] for row in rows):,} {name}" for name in ("requested", "made", "accepted")
    )
    shown = f" The first {MOST_DECISIONS} are below." if len(rows) > MOST_DECISIONS else ""
    return Artifact(
        "decisions",
        rows[:MOST_DECISIONS],
        f"{len(rows):,} problems short of variants near the wanted offset: {totals}.{shown}",
    )


def scores(store: VariantStore) -> Artifact:
    """Accuracy of each evaluation, last begun first, with the standard error over problems."""
    rows = _rows(
        store,
        """
        SELECT e.run_id AS run, e.step, e.split, count(*) AS problems, round(avg(e.correct / e.samples), 3) AS accuracy,
               round(stddev_samp(e.correct / e.samples) / sqrt(count(*)), 3) AS "standard error"
        FROM evaluations e LEFT JOIN runs r USING (run_id) WHERE e.samples > 0
        GROUP BY e.run_id, e.step, e.split, r.started_at
        ORDER BY r.started_at DESC NULLS LAST, run, e.step DESC, e.split
        """,
    )
    return Artifact("scores", rows, "Accuracy of models and checkpoints, by run, training step and split.")


def _rows(store: VariantStore, sql: str, parameters: Sequence[object] = ()) -> Rows:
    with store.connect(query=sql) as connection, store.naming_damage(sql):
        cursor = connection.execute(sql, parameters)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# --- difficulty


def difficulty(store: VariantStore) -> Artifact:
    """Levels of problems and variants as measured, and of problems as they live in the latest training run."""
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
    """Numbers of questions at each level, by name; what has none is left out."""
    rows = store.query(
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
    for name in dict.fromkeys(row[0] for row in rows):
        by_level = {level: number for other, level, number in rows if other == name}
        yield name, [by_level.get(level, 0) for level in LEVELS]


# --- the gallery


def gallery_link(page: Path, problems: int, url: str | None = None) -> Artifact:
    """Where the page of `flows.pages.gallery` is.

    Args:
        page: the file.
        problems: that it shows.
        url: at which the page's folder is served; without, the page is named for a browser's address bar, since
            no browser follows a link from a server to a file, and Prefect's second interface removes it.
    """
    head = f"{problems} problems beside their variants, with images as the policy sees them"
    told = "One page, to filter by kind and status."
    if url is not None:
        return Artifact("gallery", f"[{head}]({url.rstrip('/')}/{page.name})", told)
    where = "Paste this into the address bar of a browser on the machine of the store:"
    return Artifact("gallery", f"{head}. {where}\n\n```\n{page.resolve().as_uri()}\n```", told)
