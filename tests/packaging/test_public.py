"""The public interface: what `diva_grpo` exports, that it loads nothing by itself, and the examples of its names."""

from __future__ import annotations

import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import diva_grpo
from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.mapping import PRESETS

ROOT = Path(__file__).parents[2]

LOOP = ["VariantStore", "ColumnMapping", "ingest", "generate", "verify", "label", "export", "DivaGRPOTrainer"]
"""Names whose examples go on from one another, on one store."""


class AfterLogs(doctest.OutputChecker):
    """Takes the output that is wanted also after whole lines of a log, such as a trainer prints."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return got == want or got.endswith("\n" + want)


def example_of(name: str, names: dict[str, Any]) -> doctest.DocTest:
    text = inspect.getdoc(getattr(diva_grpo, name)) or ""
    return doctest.DocTestParser().get_doctest(text, names, name, None, 0)


def test_every_name_is_there_and_has_an_example() -> None:
    assert set(diva_grpo.__all__) <= set(dir(diva_grpo))
    assert set(LOOP) <= set(diva_grpo.__all__)
    for name in diva_grpo.__all__:
        assert example_of(name, {}).examples, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = diva_grpo.nothing


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    known = VariantStore(tmp_path / "known", create=True)
    ingest(known, "data/word_problems.jsonl", PRESETS["gsm8k"])
    names = {name: getattr(diva_grpo, name) for name in diva_grpo.__all__}
    rest = [name for name in diva_grpo.__all__ if name not in LOOP]
    with serve(create_app(ScriptedTeacher(known.problems(), wrong_share=0.0))) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        for name in [*LOOP, *rest]:
            test, said = example_of(name, names), list[str]()
            runner = doctest.DocTestRunner(AfterLogs())
            result = runner.run(test, out=said.append, clear_globs=False)
            assert result.failed == 0, "".join(said)
            names["store"] = test.globs["store"]


def test_import_loads_nothing_of_others() -> None:
    program = (
        "import sys, json; before = set(sys.modules); import diva_grpo; print(json.dumps(sorted("
        "{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["diva_grpo"]


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
@pytest.mark.parametrize("name", ["diva_grpo.trainer.method.advantages", "diva_grpo.flows.demo.toy_models"])
def test_threads_wait_without_spinning(
    name: str, given: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    # What OpenMP was told when torch was loaded: it says so itself.
    monkeypatch.setenv("OMP_DISPLAY_ENV", "VERBOSE")
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=True
    )
    assert f"OMP_WAIT_POLICY = '{found}'" in done.stderr


IN_A_CLONE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
from diva_grpo import VariantStore, grade
print(grade("It is \\\\boxed{42}.", "42").outcome, VariantStore.__module__)
"""


def test_the_names_are_there_in_the_root_of_a_clone() -> None:
    # As if the package were installed from a wheel: there the folder of the clone comes first.
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CLONE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "correct diva_grpo.pipeline.store.store\n", done.stderr
