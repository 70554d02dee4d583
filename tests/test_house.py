"""The house rules: who imports whom, and that what the README names is there."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from flows.cli import cli
from pipeline.store.views import view_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

MAY_IMPORT = {
    "schemas": {"schemas"},
    "pipeline": {"schemas", "pipeline"},
    "trainer": {
        "schemas",
        "trainer",
        "pipeline.store",
        "pipeline.grade",
        "pipeline.perturb",
        "pipeline.images",
        "pipeline.shown",
    },
    "flows": {"schemas", "pipeline", "trainer", "flows"},
}
FOREIGN = {
    "schemas": {"prefect", "torch", "trl", "duckdb", "openai"},
    "pipeline": {"prefect", "torch", "trl"},
    "trainer": {"prefect"},
    "flows": set(),
}


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _within(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_what_they_may(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for name in _imports(path):
            top = name.split(".")[0]
            assert top not in FOREIGN[room], f"{path.relative_to(ROOT)} imports {name}"
            if top in MAY_IMPORT:
                assert _within(name, MAY_IMPORT[room]), f"{path.relative_to(ROOT)} imports {name}"


def _readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(diva [a-z-]+ --[^`]*)`", README)
    return [line.split("  #")[0] for line in lines if line.startswith("diva ")] + inline


@pytest.mark.parametrize("line", _readme_commands())
def test_commands_of_the_readme_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = cli.commands[name]
    command.make_context(name, arguments, resilient_parsing=False)


def test_the_readme_names_every_command_and_view() -> None:
    for name in cli.commands:
        assert f"diva {name}" in README, name
    for view in view_names():
        assert re.search(rf"\b{view}\b", README), view


def test_every_command_has_help_with_an_example() -> None:
    for name, command in cli.commands.items():
        assert "example" in (command.help or ""), name
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} {option.name}"
