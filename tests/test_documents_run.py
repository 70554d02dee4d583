"""Each command, query and Python block of the documents runs, but for those that say what they need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.store import VariantStore
from tests.support.documents import PAGES, ROOT, Block, blocks

# A page runs a dozen commands one after the other; the limit is a guard against a hang.
pytestmark = [pytest.mark.docs, pytest.mark.slow, pytest.mark.timeout(900)]
PROBLEMS = 8
RUNNERS = {
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
    "sql": ["diva", "sql", "--store", "runs/store"],
}
RUN = {
    page: [block for block in blocks(page) if block.language in RUNNERS and not block.elsewhere]
    for page in PAGES
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: problems, answers, the model of a clone, and a store with the problems."""
    made = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "data" / "demo_model", made / "data" / "demo_model")
    lines = (ROOT / "data" / "word_problems.jsonl").read_text("utf-8").splitlines(keepends=True)
    (made / "problems.jsonl").write_text("".join(lines[:PROBLEMS]), "utf-8")
    (made / "answers.jsonl").write_text(json.dumps({"response": "It is \\boxed{4}.", "answer": "4"}) + "\n")
    ingest(VariantStore(made / "runs" / "store", create=True), str(made / "problems.jsonl"))
    return made


@pytest.fixture(scope="module")
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """Variables of a reader who has an endpoint."""
    problems = VariantStore(folder / "runs" / "store").problems()
    with serve(create_app(ScriptedTeacher(problems, wrong_share=0.0))) as url:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        yield {**os.environ, "PATH": path, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "x", "COLUMNS": "100"}


@pytest.mark.parametrize("page", [page for page, found in RUN.items() if found])
def test_the_blocks_of_a_page_run(
    page: str, folder: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "reader")
    for language, code, _ in RUN[page]:
        done = subprocess.run(
            [*RUNNERS[language], code],
            cwd=tmp_path / "reader",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.parent.name for path in (tmp_path / "site" / "reference").glob("*/index.html")}
    assert made == {"commands", "configuration", "views", "python"}
    assert "<math" in (tmp_path / "site" / "method" / "index.html").read_text("utf-8")


def test_blocks_that_run_elsewhere_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere: list[tuple[str, Block]] = [
        (page, block) for page in PAGES for block in blocks(page) if block.elsewhere
    ]
    with capsys.disabled():
        print(f"\n{sum(map(len, RUN.values()))} blocks run; {len(elsewhere)} need more than a test has:")
        for page, block in elsewhere:
            print(f"  {page}: {block.elsewhere}")
    assert len(elsewhere) < sum(map(len, RUN.values()))
