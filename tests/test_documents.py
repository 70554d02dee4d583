"""What the documents name is there: files, targets of make, commands, views, and the places that links lead to."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.store.views import view_names
from tests.support.documents import PAGES, ROOT, blocks

pytestmark = pytest.mark.docs
DOCUMENTS = [*PAGES, "DESIGN.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "data/README.md"]
_MADE = re.compile(r"reference/(commands|configuration|views|python)\.md|notebook\.md")
"""Pages that `make docs` makes."""
_PATH = re.compile(r"`((?:schemas|pipeline|trainer|flows|tests|diva_grpo|data)/[\w./-]*)`")


def _targets() -> set[str]:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in listed.splitlines()}


def _named(pattern: str, documents: list[str]) -> Iterator[tuple[str, str]]:
    for document in documents:
        for found in re.findall(pattern, (ROOT / document).read_text("utf-8")):
            yield document, found


def test_links_lead_to_a_file() -> None:
    for document, target in _named(r"\]\((?!https?:|#)([^)\s#]+)", DOCUMENTS):
        assert _MADE.search(target) or ((ROOT / document).parent / target).exists(), f"{document}: {target}"


def _commands() -> list[str]:
    shell = "".join(block.code for page in PAGES for block in blocks(page) if block.language == "sh")
    lines = shell.replace("\\\n", " ").splitlines()
    inline = [line for _, line in _named(r"`(diva [a-z-]+ --[^`]*)`", list(PAGES))]
    return sorted({line.split("  #")[0] for line in lines if line.startswith("diva ")} | set(inline))


@pytest.mark.parametrize("line", _commands())
def test_a_command_of_the_documents_parses(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    cli.commands[name].make_context(name, arguments, resilient_parsing=False)


def test_the_readme_is_short_and_names_every_command_and_view() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 180
    for name in cli.commands:
        assert f"diva {name}" in readme, name
    for view in view_names():
        assert re.search(rf"\b{view}\b", readme), view


def test_every_page_is_in_the_navigation() -> None:
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES[1:]:
        assert page.removeprefix("docs/") in settings, page


def test_files_that_contributing_and_security_name_are_there() -> None:
    named = list(_named(_PATH.pattern, ["CONTRIBUTING.md", "SECURITY.md"]))
    assert len(named) > 30
    for document, path in named:
        assert (ROOT / path).exists(), f"{document}: {path}"


def test_names_of_tests_that_contributing_says_to_copy_are_there() -> None:
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for _, name in _named(r"`(test_\w+)`", ["CONTRIBUTING.md"]):
        assert f"def {name}(" in tests, name


def test_every_folder_of_code_is_in_the_table_of_contributing() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for package in ("schemas", "pipeline", "trainer", "flows"):
        for init in (ROOT / package).glob("*/__init__.py"):
            folder = init.parent.relative_to(ROOT).as_posix()
            assert f"| `{folder}/` |" in text, folder


def test_targets_of_make_are_those_that_are_named() -> None:
    targets = _targets()
    assert {name for _, name in _named(r"`make ([a-z-]+)", ["README.md", "CONTRIBUTING.md"])} <= targets
    settings = (ROOT / "pyproject.toml").read_text("utf-8") + (ROOT / ".ci" / "run").read_text("utf-8")
    assert set(re.findall(r"`?\bmake ([a-z-]+)[`\n ]", settings)) <= targets


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
)
def test_files_of_the_host_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)
