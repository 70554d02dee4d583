"""Commands that read every file or problem of a store show how far they are, on a terminal alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.conftest import Diva

DIVA = str(Path(sys.executable).parent / "diva")
COMMANDS = {
    "doctor": (["doctor"], "files"),
    "compact": (["compact"], "parts"),
    "report": (["report"], "tables"),
    "page": (["report", "--html", "{page}"], "problems"),
}


def _on_terminal(*arguments: object) -> str:
    """What a command writes to standard error if that is a terminal."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([DIVA, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                read = os.read(ours, 4096)
            except OSError:  # Linux's way to say that nobody writes any more
                break
            written += read
    os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_shows_progress(store: VariantStore, tmp_path: Path, diva: Diva, name: str) -> None:
    parts, unit = COMMANDS[name]
    command = [part.format(page=tmp_path / "page.html") for part in parts]
    shown = _on_terminal(*command, "--store", store.root)
    assert re.search(rf"[1-9]\d* {unit} \[", shown), shown
    assert unit not in _on_terminal(*command, "--store", store.root, "-q")
    assert " [" not in diva(*command, "--store", store.root).err


def test_every_file_and_part_counts(store: VariantStore) -> None:
    files: list[int] = []
    store.examine(progress=files.append)
    assert sum(files) == len([*store.root.rglob("*.parquet")])
    parts: list[int] = []
    store.compact(progress=parts.append)
    assert sum(parts) == len([*(store.root / "problems").glob("*-*.parquet")]) - 1, "all but the empty one"
