"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from tests.support.other_environments import environment

# Before anything imports them: no network, no telemetry, one thread, so that runs are quiet and repeatable.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(
    prefix="prefect-of-tests-"
)  # two processes must not share its database
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-of-tests-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("DO_NOT_TRACK", "1")

if not Path("/proc/driver/nvidia").exists():
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")

from diva_grpo.flows.cli import main
from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.records import Problem

# On a busy machine neither an example nor its drawing takes the time that it needs.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


def pytest_collection_finish() -> None:
    """Full garbage collections, of which each training run makes some, then pass over all that was imported."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else DuckDB's classes outlive the interpreter, and nanobind reports each as leaked
    shutil.rmtree(os.environ["PREFECT_HOME"])
    shutil.rmtree(os.environ["TRACKIO_DIR"], ignore_errors=True)  # its threads may still write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real problems, by the variable DIVA_REAL_DATA; its tests are skipped without it."""
    folder = os.environ.get("DIVA_REAL_DATA")
    if folder is None:
        pytest.skip("DIVA_REAL_DATA is not set")  # the problems are not ours to keep in the repository
    return Path(folder)


@pytest.fixture(scope="session")
def lake_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with DuckLake: the one that DIVA_LAKE_PYTHON names, or that of a new environment.

    An extension is built for one release of DuckDB, and there is none yet for the release that this project needs.
    """
    ready = os.environ.get("DIVA_LAKE_PYTHON")
    if ready:
        return ready
    packages = ["ducklake", "sqlite-scanner", "postgres-scanner"]
    names = [f"duckdb-extension-{package}" for package in packages]
    folder = tmp_path_factory.mktemp("lake")
    return str(environment(folder, "DIVA_LAKE_PYTHON", names, with_project=False).bin / "python")


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with plain prompts."""
    from tests.support.tiny_text_model import tiny_model  # imports torch, which most tests do without

    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def chat_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a chat template."""
    from tests.support.tiny_text_model import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny-chat"), chat=True)


@pytest.fixture(scope="session")
def word_problems() -> list[Problem]:
    """Four problems with solutions, and one without."""
    texts = [
        (
            "Tom has 3 apples. He buys 4 more. How many apples has he now?",
            "7",
            ["Tom starts with 3.", "3 + 4 = 7"],
        ),
        ("A box holds 6 eggs. How many eggs are in 5 boxes?", "30", ["One box: 6 eggs.", "5 * 6 = 30"]),
        ("Ann reads 12 pages a day. How many pages in 3 days?", "36", ["A day: 12 pages.", "3 * 12 = 36"]),
        ("There are 20 birds. 8 fly away. How many stay?", "12", ["20 birds at first.", "20 - 8 = 12"]),
        ("How many corners has the shape?", "5", []),
    ]
    return [
        Problem(
            problem_id=f"w/{i}", source="w", split="train", text=text, answer=answer, solution_steps=steps
        )
        for i, (text, answer, steps) in enumerate(texts)
    ]


@pytest.fixture(scope="session")
def template_store(tmp_path_factory: pytest.TempPathFactory, word_problems: list[Problem]) -> VariantStore:
    """A store with the word problems, to be copied: making one syncs a dozen files."""
    made = VariantStore(tmp_path_factory.mktemp("template") / "store", create=True)
    made.append(word_problems)
    return made


@pytest.fixture
def store(tmp_path: Path, template_store: VariantStore) -> VariantStore:
    """A store with the word problems."""
    return VariantStore(shutil.copytree(template_store.root, tmp_path / "store"))


@pytest.fixture
def endpoint(word_problems: list[Problem]) -> Iterator[TeacherConfig]:
    """A scripted teacher on loopback that makes no mistakes."""
    with serve(create_app(ScriptedTeacher(word_problems, wrong_share=0.0))) as url:
        yield TeacherConfig(model="scripted-teacher", base_url=url, endpoint="test", max_retries=2)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Diva = Callable[..., Outcome]


@pytest.fixture
def diva(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Diva:
    """Run the command in this process, by its real entry point."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["diva", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
