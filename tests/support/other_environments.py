"""Environments of Python of their own, for projects whose requirements exclude ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# uv resolves in seconds what takes pip minutes, and reads none of pip's settings.
_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
}


class Environment:
    """An environment with some packages, and mostly the base of this project.

    Args:
        folder: of the environment.
    """

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"

    def run(self, program: str, *arguments: object, variables: Mapping[str, str] | None = None) -> str:
        """What a program of the environment prints."""
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=840,
            env={**_clean(os.environ), **(variables or {})},
        )
        assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
        return done.stdout

    def install(self, *requirements: object) -> None:
        """Install packages by uv, from where the user's pip takes them."""
        self.run(
            "uv", "pip", "install", "--python", self.bin / "python", *requirements, variables=_settings()
        )


def environment(
    folder: Path, variable: str, requirements: Sequence[str], extra: str = "", *, with_project: bool = True
) -> Environment:
    """The environment that a variable names, or a new one.

    Args:
        folder: of a new environment.
        variable: names the folder of a ready environment with these packages, uv and this project.
        requirements: packages beside this project.
        extra: of this project.
        with_project: whether this project is installed too; some packages exclude its requirements.
    """
    ready = os.environ.get(variable)
    if ready:
        return Environment(Path(ready))
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    made = Environment(folder)
    pip: list[str | Path] = [made.bin / "python", "-m", "pip", "install", "--quiet", "uv"]
    asked = subprocess.run(pip, capture_output=True, text=True, env=_clean(os.environ))
    if asked.returncode and "No matching distribution found for uv" in asked.stderr:
        # Without an index nothing can be installed; the other tests run all the same.
        pytest.skip(f"the package index cannot be reached, and {variable} names no ready environment")
    assert asked.returncode == 0, asked.stderr
    project = ["-e", f"{ROOT}[{extra}]" if extra else ROOT] if with_project else []
    made.install(*requirements, *project)
    return made


def _clean(variables: Mapping[str, str]) -> dict[str, str]:
    """Without what this process sets for its own tests."""
    return {name: value for name, value in variables.items() if name not in ("HF_HUB_OFFLINE", "VIRTUAL_ENV")}


def _settings() -> dict[str, str]:
    """Where pip takes packages from, in the variables of uv."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # of all indexes the newest release, as pip takes it
    for name, value in re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
        existing = [place for place in value.split() if "://" in place or Path(place).exists()]
        if name in _SETTINGS and existing:
            found[_SETTINGS[name]] = (" " if name != "find-links" else ",").join(existing)
    return found
