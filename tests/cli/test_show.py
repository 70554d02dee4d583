"""`diva show`: a problem beside its variants, as lines and as a page that a real browser opens."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage

from diva_grpo.flows.cli import cli
from diva_grpo.flows.pages.look import as_text, look
from diva_grpo.flows.pages.page import write_problems
from diva_grpo.flows.pages.problems import THUMBNAIL_PIXELS
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Kind, Label, Problem, Setting, Status, Variant, Verdict
from tests.conftest import Diva
from tests.support.chromium import browser, chromium
from tests.support.pages import data_of, open_anew, settle
from tests.support.tiny_vision_model import vision_store

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> & {{ 7 * 7 }}'


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """Two problems with an image and one of text, with variants of all sorts, verdicts and labels."""
    root = tmp_path_factory.mktemp("show") / "store"
    store = vision_store(root, one=2, two=0, text=1, kinds=("image", "image_text", "composite", "think_step"))
    common: dict[str, Any] = {"generator_model": "teacher", "prompt_version": "v"}
    store.append(
        [
            Variant(
                variant_id="evil", problem_id="see/000", kind=Kind.REWORD, text=EVIL, status=Status.REJECTED,
                reason=f"leak: {EVIL}", delta_designed=0.0, **common,
            ),
            Variant(
                variant_id="failed", problem_id="see/001", kind=Kind.HARDER,
                status=Status.FAILED, reason="timeout: 5 s",
                **common,
            ),
        ]
    )  # fmt: skip
    store.append(
        [
            Verdict(variant_id="evil", check_name="format", passed=True),
            Verdict(variant_id="evil", check_name="leak", passed=False, detail=EVIL),
            Verdict(variant_id="see/000:image:0", check_name="answer", passed=None, detail="no answer"),
        ]
    )
    shared: dict[str, Any] = {
        "solver_model": "policy",
        "samples": 4,
        "difficulty_low": 2.0,
        "difficulty_high": 6.5,
    }
    store.append(
        [
            Label(subject_id="see/000", subject_kind="original", correct=3, pass_rate=0.75, difficulty=3.7, **shared),
            Label(
                subject_id="see/000:image:0", subject_kind="image", correct=1, pass_rate=0.25, difficulty=6.3,
                **shared,
            ),
        ]
    )  # fmt: skip
    store.append([Setting(name="label_model", value="policy")])
    return store


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["show", *arguments])


def test_a_problem_in_the_terminal(seen: VariantStore) -> None:
    result = _run("see/000", "--store", str(seen.root))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "see/000  (see, train)  answer: 1"
    assert "difficulty 3.7 (2.0 to 6.5), 3 of 4 right by policy" in lines[1]
    assert lines[2].startswith("  image 1: 60 x 40")
    heads = [line for line in lines if re.match(r"[✓✗!?] ", line)]
    assert [head.split("  ")[0] for head in heads] == [
        "✗ reword", "✓ think_step 1/1", "✓ image", "✓ image_text", "✓ composite",
    ]  # fmt: skip
    assert "delta +2.3, measured +2.6  accepted" in heads[2]
    assert "    checks: answer undecided (no answer)" in lines
    assert "    image: rotate 0.30 (degrees" in result.output
    assert "    1. 0 + 1 = 1" in lines


def test_several_by_a_condition(seen: VariantStore) -> None:
    result = _run("--store", str(seen.root), "--problem-filter", "len(images) = 1")
    assert re.findall(r"^(see/\d+)  ", result.output, re.M) == ["see/000", "see/001"]
    assert "! harder  delta unknown  failed  by teacher" in result.output
    assert max(map(len, as_text(look(seen, ["see/000"])[0], 60).splitlines())) <= 75


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["see/00"], "near it: see/000, see/001"),
        ([], "PROBLEM_ID"),
        (["see/000", "--problem-filter", "true"], "ids, or --problem-filter"),
        (["--problem-filter", "colour = 1"], "colour"),
        (["--problem-filter", "false"], "no problem fits"),
        (["see/000", "--html", "/no/such/folder/a.html"], "cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(seen: VariantStore, arguments: list[str], words: str) -> None:
    result = _run(*arguments, "--store", str(seen.root))
    assert result.exit_code != 0
    assert words in (str(result.exception) if isinstance(result.exception, ConfigError) else result.output)


@pytest.fixture(scope="module")
def page_path(seen: VariantStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "show.html"
    result = _run("--store", str(seen.root), "--html", str(path))
    assert re.match(r"3 problems with 14 variants in .*show\.html \(0\.\d MB\)", result.output), result.output
    return path


def test_the_page_has_the_problems_with_their_images(page_path: Path) -> None:
    problems = data_of(page_path, "pack-0")
    assert [problem["id"] for problem in problems] == ["see/000", "see/001", "see/002"]
    assert EVIL not in page_path.read_text("utf-8")
    [evil] = [variant for variant in problems[0]["variants"] if variant["id"] == "evil"]
    assert evil["text"] == EVIL
    assert evil["reason"] == f"leak: {EVIL}"
    assert evil["checks"] == [[True, "format passed"], [False, f"leak failed ({EVIL})"]]
    statuses = [variant["status"] for variant in problems[0]["variants"]]
    assert statuses == sorted(statuses), "accepted before rejected"
    shown_in = [one for problem in problems for one in (problem, *problem["variants"])]
    images = [source for one in shown_in for source in one["images"]]
    assert len(images) == 2 + 2 * 3, "two originals, three image variants of each"
    for source in images:
        assert re.match("data:image/(png|jpeg);base64,", source)
        with PillowImage.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as picture:
            assert picture.width * picture.height <= THUMBNAIL_PIXELS
    assert [one["note"] for one in shown_in].count("images as in the original") == 2 + 2


def test_pictures_without_room_in_the_page_are_beside_it(
    seen: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diva_grpo.flows.pages.problems.EMBEDDED_BYTES", 0)
    assert _run("see/000", "--store", str(seen.root), "--html", str(tmp_path / "a.html")).exit_code == 0
    [problem] = data_of(tmp_path / "a.html", "pack-0")
    for source in problem["images"]:
        assert source.startswith("a_images/")
        PillowImage.open(tmp_path / source).verify()


def test_a_recipe_that_cannot_be_rendered_is_said(tmp_path: Path) -> None:
    store = vision_store(tmp_path / "store", one=1, two=0, text=0, kinds=("image",))
    [variant] = store.read(Variant)
    store.append(
        [variant.model_copy(update={"recipe": str(variant.recipe).replace('"renderer":1', '"renderer":0')})]
    )
    write_problems(store, tmp_path / "a.html", "t", ["see/000"])
    [problem] = data_of(tmp_path / "a.html", "pack-0")
    assert "renderer 0" in problem["variants"][0]["note"]


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_a_browser_filters_by_the_address(page_path: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as tab:
        for fragment, problems, variants in (
            ("", 3, 5),
            ("#kind=composite", 2, 1),
            ("#status=rejected", 1, 1),
            ("#kind=think_step&status=accepted", 3, 1),
            ("#kind=harder&status=accepted", 0, 0),
        ):
            open_anew(tab, f"{page_path.as_uri()}{fragment}", f"{problems} of 3 problems")
            if problems:
                tab.evaluate("showProblem(found[0])")
                cards = tab.evaluate("document.querySelectorAll('dialog article:not(.original)').length")
                assert cards == variants, fragment
        open_anew(tab, f"{page_path.as_uri()}#problem=see%2F001", "3 of 3 problems")
        settle(tab, "document.querySelector('dialog[open] img')?.complete")
        assert tab.evaluate("document.querySelector('dialog img').naturalWidth") > 0
        assert tab.console == []


def test_without_variants_it_says_what_to_do(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    store.append([Problem(problem_id="a/1", source="a", split="train", text="1 + 1?", answer="2")])
    assert "`diva generate` writes them" in as_text(look(store)[0])


def test_control_characters_of_a_data_set_neither_hide_nor_forge(store: VariantStore, diva: Diva) -> None:
    text = "What is 1 + 1?\x1b[8m hidden\x1b]0;title\x07 \x9b2J"
    store.append([Problem(problem_id="e/1", source="e", split="train", text=text, answer="2")])
    for shown in (
        diva("show", "e/1", "--store", store.root).out,
        diva("sql", "select text from problems where source = 'e'", "--store", store.root).out,
    ):
        assert "␛[8m hidden␛]0;title␇" in shown
        assert not any(sign in shown for sign in "\x1b\x07\x9b")
