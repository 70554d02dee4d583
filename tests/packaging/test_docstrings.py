"""The examples in docstrings run. Those of the public names run in `test_public.py`, on one store."""

from __future__ import annotations

import doctest
import importlib

import pytest

import diva_grpo
from tests.support.import_graph import modules

PUBLIC = {getattr(diva_grpo, name).__qualname__ for name in diva_grpo.__all__}
WITH_EXAMPLES = sorted(name for name, path in modules().items() if ">>> " in path.read_text("utf-8"))


def examples_of(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(f"diva_grpo.{name}")
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    return [
        test
        for test in found
        if test.examples and test.name.removeprefix(f"{module.__name__}.").partition(".")[0] not in PUBLIC
    ]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_a_module_run(name: str) -> None:
    for test in examples_of(name):
        said: list[str] = []
        runner = doctest.DocTestRunner()
        assert runner.run(test, out=said.append).failed == 0, "".join(said)
