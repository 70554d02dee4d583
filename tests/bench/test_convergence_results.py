"""The evidence that the project shows: each of its numbers is computed again from the tables kept beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.bench.convergence.page import CONTENDERS, page, table_csv, table_markdown
from tests.bench.convergence.results import kept_results
from tests.bench.convergence.summary import Summary, as_json, summarise

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "bench" / "convergence" / "results"
AGAIN = "make it again: python -m tests.bench.convergence.page --results tests/bench/convergence/results --out DIR"


@pytest.fixture(scope="module")
def results() -> Iterator[duckdb.DuckDBPyConnection]:
    with kept_results(RESULTS) as found:
        yield found


@pytest.fixture(scope="module")
def summary(results: duckdb.DuckDBPyConnection) -> Summary:
    return summarise(results, list(CONTENDERS))


@pytest.fixture(scope="module")
def html() -> str:
    return (RESULTS / "index.html").read_text("utf-8")


def test_the_numbers_of_the_page_are_those_of_the_runs(summary: Summary, html: str) -> None:
    [numbers] = re.findall(r'<script type="application/json" id="numbers">(.*?)</script>', html, re.DOTALL)
    assert json.loads(numbers) == json.loads(as_json(summary)), AGAIN


def test_so_is_every_number_in_its_text(
    results: duckdb.DuckDBPyConnection, summary: Summary, html: str
) -> None:
    def text(whole: str) -> str:
        # Plots are drawn with what the machine has; what was tried is told by hand.
        return re.sub(r'<svg.*?</svg>|<section id="tried">.*?</section>', "", whole, flags=re.DOTALL)

    assert text(html) == text(page(results, summary, tried="told")), AGAIN


def test_so_is_the_table(summary: Summary) -> None:
    assert (RESULTS / "table.md").read_text("utf-8") == table_markdown(summary), AGAIN
    assert (RESULTS / "table.csv").read_text("utf-8") == table_csv(summary), AGAIN


@pytest.mark.docs
def test_the_documents_have_the_table() -> None:
    assert (RESULTS / "table.md").read_text("utf-8") in (ROOT / "docs/when-it-pays.md").read_text("utf-8")


def test_the_results_are_small() -> None:
    assert sum(path.stat().st_size for path in RESULTS.iterdir()) < 3_000_000
