"""Who imports whom, and that every verb has the options and the help that others name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import pytest

from diva_grpo.flows.cli import cli
from diva_grpo.flows.verbs import VERBS
from tests.support.import_graph import (
    LAYERS,
    circles,
    imported,
    module_graph,
    package_graph,
    upward,
)

ROOT = Path(__file__).parent.parent

# By prefix of the module, the most specific first: what of ours it may import, and what it never may.
MAY_IMPORT = {
    "schemas": {"schemas"},
    "pipeline": {"schemas", "pipeline"},
    "pipeline.difficulty": {"schemas", "pipeline.difficulty"},
    "trainer.method": {"schemas", "trainer.method", "pipeline.difficulty"},
    "trainer": {
        "schemas",
        "trainer",
        "pipeline.difficulty",
        "pipeline.store",
        "pipeline.grade",
        "pipeline.images",
        "pipeline.ingest",
        "pipeline.perturb",
        "pipeline.session.progress",
    },
    "flows": {"schemas", "pipeline", "trainer", "flows"},
}
FOREIGN = {
    "schemas": {"prefect", "torch", "trl", "duckdb", "openai"},
    "pipeline": {"prefect", "torch", "trl"},
    "pipeline.difficulty": {"prefect", "torch", "trl", "duckdb", "openai"},
    "trainer.method": {"prefect", "trl", "duckdb", "openai"},
    "trainer": {"prefect"},
    "flows": set(),
}


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_what_they_may(package: str) -> None:
    stricter = [other for other in MAY_IMPORT if other.startswith(package + ".")]
    paths = [*(ROOT / package.replace(".", "/")).rglob("*.py")]
    assert paths
    for path in paths:
        here = path.relative_to(ROOT).as_posix()
        if _within(here.removesuffix(".py").replace("/", "."), stricter):
            continue
        for name in imported(path):
            top, _, own = name.partition(".")
            assert top not in FOREIGN[package], f"{here} imports {name}"
            assert top not in ("schemas", "pipeline", "trainer", "flows"), (
                f"{here} imports {name}: diva_grpo.{name}"
            )
            if top == "diva_grpo" and own:
                assert _within(own, MAY_IMPORT[package]), f"{here} imports {name}"


def test_no_circle_of_imports() -> None:
    assert circles(module_graph()) == []
    assert circles(package_graph()) == []


def test_no_import_upward() -> None:
    assert upward() == []
    assert {package for layer in LAYERS for package in layer} == package_graph().keys()


def test_circles_and_imports_upward_are_found_wherever_they_stand(tmp_path: Path) -> None:
    files = {
        "schemas/records.py": "def late():\n    from diva_grpo.pipeline.store import parts",
        "schemas/plain.py": "from diva_grpo.schemas.records import late",
        "pipeline/store/parts.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from diva_grpo.schemas.records import late",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert circles(module_graph(tmp_path)) == [["pipeline.store.parts", "schemas.records"]]
    assert circles(package_graph(tmp_path)) == [["pipeline.store", "schemas"]]
    assert upward(tmp_path) == ["schemas.records -> pipeline.store.parts"]


def test_a_worker_that_loads_a_flow_does_not_load_the_command_line() -> None:
    code = (
        "import sys, diva_grpo.flows.runs.curate, diva_grpo.flows.runs.top_up, diva_grpo.flows.runs.stages\n"
        "print([name for name in sys.modules if name.startswith('diva_grpo.flows.cli')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_options_that_its_hints_name(verb: str) -> None:
    flags = {flag for parameter in cli.commands[verb].params for flag in parameter.opts}
    named = [*VERBS[verb].own, *(name for fields in VERBS[verb].fields for name, _ in fields.items())]
    assert {f"--{name.replace('_', '-')}" for name in named} <= flags


@pytest.mark.docs
def test_every_command_has_help_with_an_example() -> None:
    for name, command in cli.commands.items():
        assert "example" in (command.help or ""), name
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} {option.name}"
