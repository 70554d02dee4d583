"""`diva diagnose`, and the page of the documents that lists what it finds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from diva_grpo.pipeline.diagnosis.rules import RULES
from diva_grpo.pipeline.store import VariantStore
from tests.conftest import Diva
from tests.support.documents import ROOT
from tests.support.planted_runs import Policy, plant

COPYING = Policy(right=lambda time: 0.0, with_hint=lambda time: 0.45 + 0.55 * time)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    store = VariantStore(tmp_path / "store", create=True)
    plant(store, Policy(), run_id="train-1")
    plant(store, COPYING, run_id="train-2", seed=1)
    return tmp_path / "store"


def test_a_finding_has_figures_examples_and_what_to_do(diva: Diva, planted: Path) -> None:
    done = diva("diagnose", "--store", planted)
    assert done.code == 0
    assert done.out.startswith("Run train-2: 60 steps with 3,840 rollouts in 480 groups, ")
    for words in (
        "1. The policy copies the hints [copying]",
        "What to do: Give fewer steps",
        "     | So it is 7.",
    ):
        assert words in done.out
    assert len(re.findall(r"^   - step \d+, w/\d+, think_step 1/2: right, reward 1", done.out, re.M)) == 3


def test_strict_tells_a_run_without_a_gain_by_its_status(diva: Diva, planted: Path) -> None:
    assert diva("diagnose", "--store", planted, "--strict").code == 3
    done = diva("diagnose", "--store", planted, "--run", "train-1", "--strict")
    assert done.code == 0
    assert "Nothing was found" in done.out


def test_json(diva: Diva, planted: Path) -> None:
    values = json.loads(diva("diagnose", "--store", planted, "--json").out)
    assert [finding["cause"] for finding in values["findings"]] == ["copying"]


def test_mistakes_are_one_line(diva: Diva, planted: Path, tmp_path: Path) -> None:
    assert diva("diagnose", "--store", planted, "--run", "x").err.splitlines() == [
        "diva: --run x: the store has no rollouts of it; it has those of train-2, train-1"
    ]
    diva("init", "--store", tmp_path / "empty")
    done = diva("diagnose", "--store", tmp_path / "empty")
    assert (done.code, done.err) == (2, "diva: the store has no rollouts: `diva train` records them\n")


@pytest.mark.docs
def test_the_page_lists_each_diagnosis() -> None:
    page = (
        (ROOT / "docs" / "troubleshooting.md").read_text("utf-8").partition("## Training does not learn")[2]
    )
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", page, re.M)
    assert rows == [(rule.cause, rule.title, rule.to_do) for rule in RULES]


def test_the_status_of_an_empty_store_says_what_to_do(diva: Diva, tmp_path: Path) -> None:
    diva("init", "--store", tmp_path / "empty")
    done = diva("status", "--store", tmp_path / "empty")
    assert done.code == 0
    assert done.out.startswith("The store is empty: `diva ingest SOURCE --store ")
