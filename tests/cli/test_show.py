"""`diva show`: a problem beside its variants, as lines and as a page that a real browser opens."""

from __future__ import annotations

import base64
import io
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage

from diva_grpo.flows.cli import cli
from diva_grpo.flows.pages.gallery import THUMBNAIL_PIXELS, gallery
from diva_grpo.flows.pages.look import as_text, look
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Kind, Label, Problem, Setting, Status, Variant, Verdict
from tests.conftest import Diva
from tests.support.chromium import chromium
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
        (["see/000", "--html", "/no/such/folder/a.html"], "no folder"),
    ],
)
def test_mistakes_end_in_one_line(seen: VariantStore, arguments: list[str], words: str) -> None:
    result = _run(*arguments, "--store", str(seen.root))
    assert result.exit_code != 0
    assert words in (str(result.exception) if isinstance(result.exception, ConfigError) else result.output)


class _Page(HTMLParser):
    """Collects what matters of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page_path(seen: VariantStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "gallery.html"
    result = _run("--store", str(seen.root), "--html", str(path))
    assert re.match(r"3 problems with \d+ variants in .*gallery\.html \(0\.\d MB\)", result.output), (
        result.output
    )
    return path


def test_the_page_is_whole_and_escaped(seen: VariantStore, page_path: Path) -> None:
    page = _Page()
    page.feed(page_path.read_text("utf-8"))
    names = [name for name, _ in page.tags]
    assert names.count("script") == 1
    assert page.text.count(EVIL) == 3, "as a text, a reason and a verdict"
    images = [attributes["src"] or "" for name, attributes in page.tags if name == "img"]
    assert len(images) == 2 + 2 * 3, "two originals, three image variants of each"
    for source in images:
        assert re.match("data:image/(png|jpeg);base64,", source)
        with PillowImage.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as picture:
            assert picture.width * picture.height <= THUMBNAIL_PIXELS
    links = [
        v for _, attributes in page.tags for k, v in attributes.items() if k in ("href", "src", "action")
    ]
    assert links == images, "nothing is loaded from elsewhere"
    assert page.text.count("images as in the original") == 2 + 2


def test_a_recipe_that_cannot_be_rendered_is_said(tmp_path: Path) -> None:
    store = vision_store(tmp_path / "store", one=1, two=0, text=0, kinds=("image",))
    [variant] = store.read(Variant)
    store.append(
        [variant.model_copy(update={"recipe": str(variant.recipe).replace('"renderer":1', '"renderer":0')})]
    )
    assert "renderer 0" in gallery(store, look(store), "t")


def _browse(page: Path, fragment: str, folder: Path) -> str:
    program = chromium()
    if program is None:
        pytest.skip("there is no Chromium")
    result = subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--dump-dom",
         f"{page.as_uri()}{fragment}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-1000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fragment", "shown", "sections"),
    [
        ("", 14, 3),
        ("#kind=image,composite", 4, 2),
        ("#status=rejected", 1, 1),
        ("#kind=think_step&status=accepted", 3, 3),
        ("#kind=", 0, 0),
    ],
)
def test_a_browser_filters(page_path: Path, tmp_path: Path, fragment: str, shown: int, sections: int) -> None:
    page = _Page()
    page.feed(_browse(page_path, fragment, tmp_path))
    hidden = {
        name: [a for tag, a in page.tags if tag == name and "hidden" in a] for name in ("article", "section")
    }
    total = [a for tag, a in page.tags if tag == "article" and a.get("data-status")]
    assert len(total) - len(hidden["article"]) == shown
    assert f"{shown} of {len(total)} variants" in page.text
    assert 3 - len(hidden["section"]) == sections


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
