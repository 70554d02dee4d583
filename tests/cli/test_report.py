"""`diva report --html`: the page of a store and its runs, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Call, Kind, Label, Problem, Setting, Status, Variant, Verdict
from tests.support.chromium import Browser, browser, chromium
from tests.support.pages import data_of, open_anew, settle, shown
from tests.support.store_records import label
from tests.support.tiny_vision_model import vision_store
from tests.support.training_rows import begin_run, evaluated, train_on

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> </script> & {{ 7 * 7 }}"
LATEX = r"Let \(x = \frac{1}{2}\). A pen costs $5 and a book $6. $$\sum_{i=1}^n i$$ See <image1>."
FORMULAS = r"$\href{javascript:alert(1)}{a}$ $\htmlData{a=b}{c}$ $\frac{1$ $\def\a{\a\a}\a$ $<script>$"
RUN, OTHER = "train-b", "train-a"

needs_chromium = pytest.mark.skipif(chromium() is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """Problems with and without images, hostile and mathematical texts among them, and two training runs."""
    root = tmp_path_factory.mktemp("report") / "<store>"
    store = vision_store(root, one=2, two=0, text=30, kinds=("image", "think_step"))
    store.append([Problem(problem_id="x/latex", source="x", split="train", text=LATEX, answer="42")])
    common: dict[str, Any] = {"problem_id": "x/latex", "generator_model": "teacher", "prompt_version": "v"}
    store.append([
        Variant(variant_id="bad", kind=Kind.REWORD, text=EVIL, status=Status.REJECTED, reason=f"leak: {EVIL}",
                **common),
        Variant(variant_id="good", kind=Kind.HARDER, text=f"Harder {EVIL}", status=Status.ACCEPTED,
                delta_designed=2.0, **common),
    ])  # fmt: skip
    store.append([Verdict(variant_id="bad", check_name="leak", passed=False, detail=EVIL)])
    store.append(
        list[Label]([label("x/latex", 3, 8), label("good", 1, 8), label("see/002:think_step:0", 8, 8)])
    )
    store.append([Setting(name="label_model", value="policy")])
    store.append([
        Call(request_hash="1", purpose="reword", endpoint="e", model="m", problem_id="x/latex", latency_s=0.5,
             attempts=1, outcome="ok", output_mode="text", cost_usd=0.25)
    ])  # fmt: skip
    for number, run in enumerate((OTHER, RUN)):
        begin_run(store, run, number)
        visits = {
            step: {
                "x/latex": ["good"],
                "see/000": ["see/000:think_step:0"],
                "see/002": ["see/002:think_step:0"],
            }
            for step in range(12)
        }
        train_on(store, run, visits, logged=2, completion=f"{EVIL} so \\boxed{{\\frac{{84}}{{2}}}}")
        evaluated(store, run, ["see/001"], [0, 12])
    return store


def _write(store: VariantStore, path: Path, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["report", "--store", str(store.root), "--html", str(path), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def page(store: VariantStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert re.match(r"33 problems in .*report\.html \(0\.\d MB\)", _write(store, path))
    return path


@pytest.fixture(scope="module")
def tab(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


# --- the file


def test_no_text_of_the_store_is_markup(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "alert(1)" not in text
    assert "<store>" not in text
    assert EVIL in json.dumps(data_of(page, "pack-0"))
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text), "nothing is loaded from elsewhere"


def test_the_headline_is_of_the_run(page: Path) -> None:
    summary = data_of(page, "summary")
    assert [run["id"] for run in summary["runs"]] == [RUN], "the last one"
    values = {one["name"]: one["values"] for one in summary["headline"]}
    assert re.fullmatch(r"0\.\d\d → 0\.\d\d", values["Accuracy of originals, without hints"][0])
    assert values["Held-out accuracy"] == ["0.25 → 0.50"]
    assert values["Cost of the teacher"] == ["$0.25"]
    assert summary["curves"][RUN]["levels"]["counts"][0] == [0, 0, 0, 0, 3, 0, 0, 0, 0], (
        "all begin at level 5"
    )
    assert all(sum(column) == 3 for column in summary["curves"][RUN]["levels"]["counts"])
    assert len(summary["tables"]) > 20
    assert summary["offsets"] == [["harder", 2.0, 1.6]]


def test_mistakes_are_one_line(store: VariantStore, tmp_path: Path) -> None:
    root = str(store.root)
    for arguments, words in (
        (
            ["--run", "no", "--html", str(tmp_path / "a.html")],
            "'no' in this store; the last ones: train-b, train-a",
        ),
        (["--run", RUN], "give --html FILE"),
        (["--html", str(tmp_path / "no" / "a.html")], "cannot be written"),
    ):
        result = CliRunner().invoke(cli, ["report", "--store", root, *arguments])
        assert words in str(result.exception), result.output


def test_an_empty_store_has_a_page_that_says_what_to_do(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    _write(store, tmp_path / "a.html")
    [step] = data_of(tmp_path / "a.html", "summary")["next"]
    assert step["command"].startswith("diva ingest SOURCE --store")


# --- in a browser


@needs_chromium
def test_it_opens_with_all_parts_and_an_empty_console(page: Path, tab: Browser) -> None:
    tab.screen(1440, 900)
    tab.open(page.as_uri(), "33 of 33 problems")
    assert shown(tab, "h1") == "Store <store>"
    titles = tab.evaluate("[...document.querySelectorAll('figure h3')].map((h) => h.innerText)")
    for title in (
        "Accuracy", "Reward in training", "Reliance on hints", "Silent groups by cause", "Live difficulty",
        "Length of completions", "Seconds of a step", "Tokens of a step", "Acceptance by kind",
        "Why variants were not accepted", "Rate of the teacher", "Cost of the teacher",
    ):  # fmt: skip
        assert title in titles
    drawn = "[...document.querySelectorAll('.plot')].every((box) => box.querySelector('canvas').width > 100)"
    assert tab.evaluate(drawn)
    assert tab.console == []


@needs_chromium
def test_search_finds_a_problem_and_its_rollouts_open(page: Path, tab: Browser) -> None:
    open_anew(tab, page.as_uri(), "33 of 33 problems")
    tab.evaluate("form.elements.words.focus()")
    tab("Input.insertText", text="pen LATEX")
    tab.wait_for("1 of 33 problems")
    tab.evaluate("document.querySelector('#list a').click()")
    settle(tab, "document.querySelector('dialog[open] article')")
    cards = tab.evaluate("[...document.querySelectorAll('dialog article h3')].map((h) => h.textContent)")
    assert cards == ["original", "harderaccepted", "rewordrejected"], "accepted before rejected"
    assert tab.evaluate("document.querySelector('dialog details:not(.rollout) article.rejected') !== null")
    assert EVIL in shown(tab, "dialog article.accepted .prose")
    tab.evaluate("document.querySelector('dialog article.accepted .rollout summary').click()")
    settle(tab, "document.querySelector('.rollout .prose')")
    assert EVIL in shown(tab, ".rollout .prose")
    assert "advantage" in shown(tab, ".rollout summary")
    assert tab.evaluate("document.querySelector('.rollout math mfrac') !== null")
    assert tab.evaluate("document.querySelectorAll('dialog script, dialog [onerror]').length") == 0
    assert tab.console == []


@needs_chromium
def test_formulas_are_shown_and_prices_are_not(page: Path, tab: Browser) -> None:
    open_anew(tab, f"{page.as_uri()}#problem=x%2Flatex", "A pen costs")
    settle(tab, "document.querySelector('dialog[open] article')")
    asked = "document.querySelector('dialog article.original .prose')"
    assert tab.evaluate(f"{asked}.querySelectorAll('math').length") == 2
    assert tab.evaluate(f"{asked}.querySelector('math[display=block] munderover') !== null")
    assert "A pen costs $5 and a book $6." in tab.evaluate(f"{asked}.innerText")
    assert tab.evaluate(f"{asked}.querySelector('.chip').innerText") == "image 1"
    tab.evaluate(f"globalThis.made = prose({json.dumps(FORMULAS)})")
    assert tab.evaluate("made.querySelectorAll('[href], [data-a], script').length") == 0
    assert tab.evaluate(r"made.textContent.includes('\\frac{1')"), "what is no formula stays text"


@needs_chromium
def test_by_keyboard_alone(page: Path, tab: Browser) -> None:
    open_anew(tab, page.as_uri(), "33 of 33 problems")
    tab.press("/", "/")
    assert tab.evaluate("document.activeElement.name") == "words"
    tab("Input.insertText", text="see/0")
    tab.wait_for("32 of 33 problems")
    for _ in range(20):
        tab.press("Tab")
        if tab.evaluate("document.activeElement.closest('#list') && document.activeElement.tagName") == "A":
            break
    opened = tab.evaluate("document.activeElement.innerText")
    tab.press("Enter")
    settle(tab, "document.querySelector('dialog[open] h2')")
    assert shown(tab, "dialog h2") == opened == "see/000"
    for _ in range(20):
        tab.press("Tab")
        if tab.evaluate("document.activeElement.matches('.rollout summary')"):
            break
    tab.press("Enter")
    settle(tab, "document.querySelector('.rollout[open] .prose')")
    tab.press("ArrowRight")
    settle(tab, "document.querySelector('dialog h2').innerText === 'see/002'")
    tab.press("Escape")
    settle(tab, "!document.querySelector('dialog[open]')")
    assert tab.evaluate("document.activeElement.innerText") == "see/002"
    assert tab.console == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_a_phone_and_a_screen_in_both_themes(
    page: Path, tab: Browser, width: int, dark: bool
) -> None:
    tab.screen(width, 844, dark=dark)
    open_anew(tab, page.as_uri(), "33 of 33 problems")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back))) < 150) == dark
    tab.evaluate("document.querySelector('#list a').click()")
    settle(tab, "document.querySelector('dialog[open] article')")
    assert tab.evaluate("dialog.scrollWidth <= dialog.clientWidth")
    assert tab.console == []


@needs_chromium
def test_two_runs_are_side_by_side(store: VariantStore, tab: Browser, tmp_path: Path) -> None:
    _write(store, tmp_path / "two.html", "--run", OTHER, "--run", RUN)
    tab.screen(1440, 900)
    tab.open((tmp_path / "two.html").as_uri(), "33 of 33 problems")
    assert tab.evaluate("[...document.querySelectorAll('.run b')].map((b) => b.innerText)") == ["A", "B"]
    legend = shown(tab, "#training figure .u-legend")
    assert "originals (A)" in legend
    assert "originals (B)" in legend
    titles = tab.evaluate("[...document.querySelectorAll('figure h3')].map((h) => h.innerText)")
    assert {"Live difficulty (A)", "Live difficulty (B)", "Silent groups by cause (B)"} <= set(titles)
    assert (
        len(tab.evaluate("[...document.querySelectorAll('#headline div:first-child .value')].map(String)"))
        == 2
    )
    assert tab.console == []
