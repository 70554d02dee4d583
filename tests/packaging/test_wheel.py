"""The wheel: every file of the tree that belongs to it and no other, all inside `diva_grpo`."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FOLDERS = {
    "diva_grpo": "diva_grpo",
    "data": "diva_grpo/data",
    "flows": "diva_grpo/flows",
    "pipeline": "diva_grpo/pipeline",
    "schemas": "diva_grpo/schemas",
    "trainer": "diva_grpo/trainer",
}
LEFT_OUT = ("data/scripts/", "data/screens/")


def build(tree: Path, out: Path) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--wheel-dir", out, tree], check=True, capture_output=True)
    [wheel] = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git knows of the working tree, and nothing that lies about in it."""
    copy = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()]
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            archive.add(ROOT / name, name)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        archive.extractall(copy, filter="data")
    return copy


def test_the_wheel_has_the_files_of_the_tree(tree: Path, tmp_path: Path) -> None:
    wanted = {
        target + name.as_posix().removeprefix(folder)
        for folder, target in FOLDERS.items()
        for path in (tree / folder).rglob("*")
        if path.is_file() and not (name := path.relative_to(tree)).as_posix().startswith(LEFT_OUT)
    }
    # Leftovers that git does not know belong to no release.
    (tree / "pipeline" / "__pycache__").mkdir()
    (tree / "pipeline" / "__pycache__" / "old.cpython-311.pyc").write_bytes(b"")
    found = {name for name in build(tree, tmp_path) if ".dist-info/" not in name}
    assert found == wanted
    assert {"diva_grpo/data/figures/figure-01.png", "diva_grpo/flows/pages/vendor/katex.min.js"} <= found


def test_nothing_stands_at_the_top(tree: Path, tmp_path: Path) -> None:
    (tree / "stray").mkdir()
    (tree / "stray" / "__init__.py").write_text("")
    (tree / "stray.py").write_text("")
    tops = {name.partition("/")[0] for name in build(tree, tmp_path)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"diva_grpo"}


def test_every_upper_bound_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"].values()
    bounded = [name for part in (project["dependencies"], *extras) for name in part if "<" in name]
    assert bounded
    lines = text.splitlines()
    for requirement in bounded:
        [line] = [line for line in lines if f'"{requirement}"' in line]
        assert "  # " in line, f"{requirement}: say why beside it"
