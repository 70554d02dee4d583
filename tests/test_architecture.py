"""Who imports whom, and that every verb has the options and the help that others name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
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
    modules,
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
        "pipeline.diagnosis",
        "pipeline.grade",
        "pipeline.images",
        "pipeline.ingest",
        "pipeline.perturb",
        "pipeline.session.progress",
    },
    "trainer.hosts": {
        "schemas",
        "trainer",
        "pipeline.difficulty",
        "pipeline.grade",
        "pipeline.images",
        "pipeline.store",
    },
    "flows": {"schemas", "pipeline", "trainer", "flows"},
}
FOREIGN = {
    "schemas": {"prefect", "torch", "trl", "duckdb", "openai"},
    "pipeline": {"prefect", "torch", "trl"},
    "pipeline.difficulty": {"prefect", "torch", "trl", "duckdb", "openai"},
    "trainer.method": {"prefect", "trl", "verl", "verifiers", "duckdb", "openai"},
    "trainer": {"prefect", "verl", "verifiers"},
    "trainer.hosts": {"prefect", "trl"},
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


# --- facts with one home


def _code() -> Iterator[tuple[str, ast.Module]]:
    for path in modules().values():
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def _texts(tree: ast.Module) -> Iterator[str]:
    """Strings of a module that are not documentation: neither statements by themselves nor help of a field."""
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    helps = {
        id(keyword.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("description", "help")
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in statements | helps
        ):
            yield node.value


def _is_scale(node: ast.AST) -> bool:
    """Whether an expression is `9 - 8 ...` or `(9 - ...) / 8`, the scale of difficulty written out."""
    match node:
        case ast.BinOp(ast.Constant(9), ast.Sub(), ast.BinOp(op=ast.Mult())):
            return True
        case ast.BinOp(ast.BinOp(ast.Constant(9), ast.Sub(), _), ast.Div(), ast.Constant(8)):
            return True
    return False


def test_the_scale_of_difficulty_has_one_home() -> None:
    found = {name for name, tree in _code() if any(map(_is_scale, ast.walk(tree)))}
    found |= {name for name, tree in _code() if any(re.search(r"\b9(\.0)? - 8\b", t) for t in _texts(tree))}
    assert found == set()
    assert _is_scale(ast.parse("9 - 8 * p", mode="eval").body)
    assert _is_scale(ast.parse("(9 - d) / 8", mode="eval").body)


def test_the_label_model_has_one_home() -> None:
    """The name of the setting is written once, and SQL takes it in one module."""
    assert {name for name, tree in _code() if "label_model" in _texts(tree)} == {
        "pipeline/store/label_model.py"
    }
    in_sql = {
        name
        for name, tree in _code()
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and ast.unparse(node.value) == "LABEL_MODEL"
    }
    assert in_sql == {"pipeline/store/label_model.py"}


def test_tiers_are_told_apart_in_one_place() -> None:
    """Nothing else compares a difficulty with a level, or lists the kinds of a tier."""
    found = set()
    for name, tree in _code():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and "difficulty" in ast.unparse(node.left):
                sides = (getattr(side, "value", None) for side in node.comparators)
                if any(isinstance(side, int | float) for side in sides):
                    found.add(name)
            if isinstance(node, ast.Attribute) and node.attr in ("EASY", "MEDIUM", "HARD"):
                found.add(name)
    assert found == {"pipeline/difficulty/tiers.py"}


def test_designed_offsets_have_one_home() -> None:
    """No mapping from kinds to numbers stands elsewhere."""
    found = set()
    for name, tree in _code():
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                kinds = [key for key in node.keys if key is not None and ast.unparse(key).startswith("Kind.")]
                numbers = [ast.unparse(value) for value in node.values]
                if kinds and any(re.search(r"\d\.\d", number) for number in numbers):
                    found.add(name)
    assert found == {"pipeline/difficulty/design.py"}


def test_a_default_stands_in_its_configuration_alone() -> None:
    """No parameter and no option repeats the number that is the default of a field of the same name."""
    defaults = {
        name: field.default
        for fields in (f for configs in VERBS.values() for f in configs.fields)
        for name, field in fields.items()
        if isinstance(field.default, int | float) and field.default not in (0, 1)
    }
    assert {"max_tokens", "max_pixels", "batch_size", "tolerance"} <= defaults.keys()

    def restated(name: str, value: ast.expr | None) -> bool:
        return name in defaults and isinstance(value, ast.Constant) and value.value == defaults[name]

    for where, tree in _code():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                positional = [*node.args.posonlyargs, *node.args.args]
                last = zip(reversed(positional), reversed(node.args.defaults), strict=False)
                named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                for parameter, value in chain(last, named):
                    assert not restated(parameter.arg, value), f"{where}: {node.name}({parameter.arg}=...)"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "click.option":
                default = next((k.value for k in node.keywords if k.arg == "default"), None)
                flag = str(getattr(node.args[0], "value", "")).removeprefix("--").replace("-", "_")
                assert not restated(flag, default), f"{where}: --{flag}"


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
