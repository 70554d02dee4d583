"""Extras: the base's commands work without the packages of all others, and a command that lacks one says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Names of modules, by the extra that brings them.
CURATE = {"fastapi", "openai", "py3langid", "rapidfuzz", "rensa", "uvicorn"}
FLOWS = {"httpx", "prefect", "sqlalchemy"}
TRAIN = {"accelerate", "torch", "transformers", "trl"}
OTHERS = {"s3fs", "prefect_ray", "torchvision"}
ALL = CURATE | FLOWS | TRAIN | OTHERS | {"scipy"}

# As if they were not installed: nothing finds them.
WITHOUT = """
import importlib.metadata, sys
from diva_grpo.flows.cli import main

missing = {missing}

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
sys.argv[0] = "diva"
sys.exit(main())
"""


def without(missing: set[str], *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `diva` in a process of its own that finds none of these modules."""
    program = WITHOUT.format(missing=sorted(missing))
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_base_ingests_queries_shows_and_exports(tmp_path: Path) -> None:
    store = ["--store", tmp_path / "store"]
    problems = ROOT / "data" / "word_problems.jsonl"
    for arguments in (
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
    ):
        done = without(ALL, *arguments, cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
    assert "120" in without(ALL, "sql", "SELECT count(*) AS n FROM problems", *store, cwd=tmp_path).stdout


@pytest.mark.parametrize("verb", ["--help", "generate", "verify", "label", "curate", "serve", "eval", "demo"])
def test_help_needs_no_extra(verb: str, tmp_path: Path) -> None:
    arguments = [verb] if verb == "--help" else [verb, "--help"]
    assert without(ALL, *arguments, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("missing", "line", "extra"),
    [
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
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    missing: set[str], line: str, extra: str, tmp_path: Path
) -> None:
    verb, *arguments = line.split()
    if verb not in ("train", "demo"):
        arguments += ["--store", "store"]
        problems = ROOT / "data" / "word_problems.jsonl"
        made = without(set(), "ingest", problems, "--preset", "gsm8k", "--store", "store", cwd=tmp_path)
        assert made.returncode == 0
    done = without(missing, verb, *arguments, cwd=tmp_path)
    wanted = f"diva: diva {verb} needs the extra {extra}: pip install 'diva-grpo[{extra}]'\n"
    assert (done.returncode, done.stderr) == (2, wanted)


def test_schedules_need_flows(tmp_path: Path) -> None:
    done = without(ALL, "serve", ROOT / "data" / "serve.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("needs the extra flows")) == (2, 1)


def test_the_trainer_names_its_extra(tmp_path: Path) -> None:
    program = WITHOUT.format(missing=sorted(TRAIN)).replace(
        "sys.exit(main())", "from diva_grpo import grade, DivaGRPOTrainer"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.endswith("DivaGRPOTrainer needs the extra train: pip install 'diva-grpo[train]'")


def test_a_broken_base_is_no_missing_extra(tmp_path: Path) -> None:
    done = without({"duckdb"}, "sql", "SELECT 1", "--store", "store", cwd=tmp_path)
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
