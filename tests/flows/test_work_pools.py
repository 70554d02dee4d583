"""`prefect.yaml` and the `Dockerfile`: what can be tried of them without a container."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import httpx
import pytest
import yaml

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import CurateConfig
from tests.support.prefect_processes import (
    counted_teacher,
    home_with_database,
    marbles,
    of_home,
    processes_of,
)

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=[d["name"] for d in DEPLOYMENTS])
def test_parameters_fit_the_flow(deployment: dict[str, object]) -> None:
    module, _, name = str(deployment["entrypoint"]).rpartition(".")
    flow = getattr(import_module(module), name)
    parameters = flow.validate_parameters(deployment["parameters"])
    assert isinstance(parameters["config"], CurateConfig)


def _required(extra: str) -> set[str]:
    """Names of all packages that an extra of the project asks for, through its other extras."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    found = set[str]()
    for requirement in wanted:
        name, *others = re.findall(r"[\w-]+", requirement.split(">")[0].split("<")[0])
        found |= {name}.union(*map(_required, others)) if name == "diva-grpo" else {name}
    return found


def test_the_image_has_every_package_and_no_torch() -> None:
    docker = (ROOT / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", docker, re.MULTILINE) for word in line.split()}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders | {"setup.py", "pyproject.toml"} <= copied
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert admitted == copied
    assert all((ROOT / name).exists() for name in copied)

    [extras] = re.findall(r"pip install .* \"\.\[(.*)\]\"", docker)
    packages = set[str]().union(*map(_required, extras.split(",")))
    assert {"prefect", "openai", "s3fs", "prefect-ray"} <= packages
    assert not packages & {"torch", "transformers", "trl", "torchvision"}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield from home_with_database(tmp_path / "prefect")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to find processes")
def test_worker_runs_what_is_deployed(tmp_path: Path, home: Path) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    store.append(marbles("w", range(3, 5)))
    serving = (
        "import os, sys; from diva_grpo.flows.runs.server import prefect_api\n"
        "print(prefect_api(), os.environ['PREFECT_API_AUTH_STRING'], flush=True); sys.stdin.read()"
    )
    with (
        counted_teacher(store.problems(), delay_s=0.0) as teacher,
        subprocess.Popen(
            [sys.executable, "-c", serving], stdin=-1, stdout=-1, text=True, env=of_home(home)
        ) as server,
    ):
        assert server.stdin
        assert server.stdout
        url, auth = server.stdout.readline().split()
        user, _, password = auth.partition(":")
        environment = of_home(home) | {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": auth}

        def prefect(*arguments: str) -> str:
            command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        with httpx.Client(base_url=url, auth=(user, password), timeout=60) as api:
            # As `prefect work-pool create` does it, which takes longer.
            known = api.get("/collections/views/aggregate-worker-metadata").raise_for_status().json()
            kinds = {kind: about for package in known.values() for kind, about in package.items()}
            for deployment in DEPLOYMENTS:
                kind = deployment["name"]
                template = kinds[kind]["default_base_job_configuration"]
                pool = {"name": deployment["work_pool"]["name"], "type": kind, "base_job_template": template}
                api.post("/work_pools/", json=pool).raise_for_status()
        said = prefect("deploy", "--all")
        assert said.count("successfully created") == len(DEPLOYMENTS) == 3

        config = {"store": str(store.root), "teacher": {"model": "scripted-teacher", "base_url": teacher.url}}
        prefect("deployment", "run", "curate/process", "--params", json.dumps({"config": config}))
        log = prefect("worker", "start", "--pool", "diva-process", "--run-once")
        server.stdin.close()
    assert len(store.query("SELECT DISTINCT problem_id FROM variants WHERE status = 'accepted'")) == 2, log
    assert processes_of(home) == []
