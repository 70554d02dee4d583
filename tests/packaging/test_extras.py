"""Extras: the base's commands work without the packages of all others, and a command that lacks one says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.conftest import Outcome

ROOT = Path(__file__).parents[2]

# Names of modules, by the extra that brings them.
CURATE = {"fastapi", "openai", "py3langid", "rapidfuzz", "rensa", "uvicorn"}
FLOWS = {"httpx", "prefect", "sqlalchemy"}
TRAIN = {"accelerate", "torch", "transformers", "trl"}
OTHERS = {"s3fs", "prefect_ray", "torchvision"}
ALL = CURATE | FLOWS | TRAIN | OTHERS | {"scipy"}

# As if they were not installed: nothing finds them. Runs command lines, and prints the outcome of each.
WITHOUT = """
import contextlib, importlib.metadata, io, json, sys
from diva_grpo.flows.cli import main

missing, lines = json.loads(sys.argv.pop(1)), json.loads(sys.argv.pop(1))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in missing:
            return self.finder.find_spec(name, path, target)

def from_name(name, found=importlib.metadata.Distribution.from_name):
    if name.lower().replace("-", "_") in missing:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

importlib.metadata.Distribution.from_name = from_name
sys.meta_path[:] = map(Without, sys.meta_path)
outcomes = []
for line in lines:
    sys.argv = ["diva", *line]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    outcomes.append([code or 0, *(stream.buffer.getvalue().decode() for stream in (out, err))])
print(json.dumps(outcomes))
"""


def process(
    missing: set[str], lines: Sequence[Sequence[object]], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """A process that finds none of these modules, and runs `diva` with each of the lines."""
    arguments = json.dumps(sorted(missing)), json.dumps([list(map(str, line)) for line in lines])
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def without(missing: set[str], lines: Sequence[Sequence[object]], cwd: Path) -> list[Outcome]:
    """The outcomes of `diva` with each of the lines, where none of these modules is found."""
    done = process(missing, lines, cwd)
    assert done.returncode == 0, done.stderr
    return [Outcome(*outcome) for outcome in json.loads(done.stdout)]


def test_the_base_ingests_queries_shows_and_exports(tmp_path: Path) -> None:
    store = ["--store", tmp_path / "store"]
    problems = ROOT / "data" / "word_problems.jsonl"
    lines: list[list[object]] = [
        ["ingest", problems, "--preset", "gsm8k", *store],
        ["sql", "SELECT count(*) AS n FROM problems", *store],
        ["status", *store],
        ["report", *store],
        ["show", "--limit", "1", *store],
        ["show", "--limit", "2", "--html", "page.html", *store],
        ["export", "out", "--what", "problems", *store],
        ["export", "out.parquet", "--what", "problems", "--format", "parquet", *store],
        ["compact", *store],
        ["doctor", *store],
    ]
    outcomes = without(ALL, lines, tmp_path)
    for line, outcome in zip(lines, outcomes, strict=True):
        assert outcome.code == 0, (line, outcome.err)
    assert "120" in outcomes[1].out


VERBS = ["generate", "verify", "label", "curate", "serve", "eval", "demo"]


def test_help_needs_no_extra(tmp_path: Path) -> None:
    lines = [["--help"], *([verb, "--help"] for verb in VERBS)]
    assert [outcome.code for outcome in without(ALL, lines, tmp_path)] == [0] * len(lines)


LACKING = [
    (ALL, "generate --model m", "curate"),
    (ALL, "verify --model m", "curate"),
    (ALL, "label --model m", "curate"),
    (ALL, "teacher", "curate"),
    (ALL, "curate --model m", "flows"),
    (FLOWS, "curate --model m --base-url http://127.0.0.1:9/v1", "flows"),
    (ALL, "top-up --model m", "flows"),
    (ALL, "train --help", "train"),
    (ALL, "eval --model m", "train"),
    (TRAIN, "label --policy m", "train"),
    (ALL, "demo", "all"),
    (TRAIN, "demo", "all"),
]


@pytest.mark.parametrize("missing", [ALL, FLOWS, TRAIN], ids=["all", "flows", "train"])
def test_a_command_names_the_extra_that_it_lacks(missing: set[str], store: VariantStore) -> None:
    chosen = [(line.split(), extra) for lacking, line, extra in LACKING if lacking is missing]
    lines = [
        line if line[0] in ("train", "demo") else [*line, "--store", store.root.name] for line, _ in chosen
    ]
    outcomes = without(missing, lines, store.root.parent)
    for (line, extra), outcome in zip(chosen, outcomes, strict=True):
        wanted = f"diva: diva {line[0]} needs the extra {extra}: pip install 'diva-grpo[{extra}]'\n"
        assert (outcome.code, outcome.err) == (2, wanted)


def test_schedules_need_flows(tmp_path: Path) -> None:
    [outcome] = without(ALL, [["serve", ROOT / "data" / "serve.yaml"]], tmp_path)
    assert (outcome.code, outcome.err.count("needs the extra flows")) == (2, 1)


def test_the_trainer_names_its_extra(tmp_path: Path) -> None:
    program = WITHOUT.partition("outcomes = []")[0] + "from diva_grpo import grade, DivaGRPOTrainer"
    command = [sys.executable, "-c", program, json.dumps(sorted(TRAIN)), "[]"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.endswith("DivaGRPOTrainer needs the extra train: pip install 'diva-grpo[train]'")


def test_a_broken_base_is_no_missing_extra(store: VariantStore) -> None:
    done = process({"duckdb"}, [["show", "w/0", "--store", store.root.name]], store.root.parent)
    assert "ModuleNotFoundError: No module named 'duckdb'" in done.stderr


@pytest.mark.parametrize("name", ["flows.curate.curate", "pipeline.store", "schemas", "trainer"])
def test_old_names_say_the_new_ones(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    top = name.partition(".")[0]
    assert done.stderr.splitlines()[-1] == f"ImportError: `{top}` is now `diva_grpo.{top}` (see CHANGELOG.md)"


def test_the_old_command_says_the_new_one() -> None:
    done = subprocess.run([sys.executable, "-m", "trainer"], cwd=ROOT, capture_output=True, text=True)
    said = "`trainer` is now `diva_grpo.trainer` (see CHANGELOG.md): python -m diva_grpo.trainer\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
