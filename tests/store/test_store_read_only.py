"""A store on a read-only mount can be read by every command, and what writes says in one line that it cannot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.doctor import Fault
from diva_grpo.pipeline.teacher.journal import Entry, Journal, now_text
from tests.support.store_records import fill

_PROGRAM = """
import sys
from click.testing import CliRunner
from diva_grpo.flows.cli import cli
from diva_grpo.schemas.exceptions import DivaError
for line in sys.stdin:
    done = CliRunner().invoke(cli, line.rstrip("\\n").split("\\t"))
    error = done.exception
    what = "ok" if done.exit_code == 0 else str(error) if isinstance(error, DivaError) else repr(error)
    print(what.replace("\\n", "<line break>"), done.output.replace("\\n", " ")[:200], sep="\\t")
"""

Ask = Callable[..., list[list[str]]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Runs commands on a store under a read-only mount; for each, `ok` or its error, and what it printed."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
    made = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    folder = tmp_path / "mount"
    folder.mkdir()
    if (
        shutil.which("unshare") is None
        or subprocess.run([*made, mount, folder], capture_output=True).returncode
    ):
        pytest.skip("no mount can be made here")  # needs a user namespace, or root

    def run(*commands: list[str]) -> list[list[str]]:
        lines = "".join("\t".join([*command, "--store", str(folder / "s")]) + "\n" for command in commands)
        program = [*made, f'{mount} && exec "$@"', str(folder), sys.executable, "-c", _PROGRAM]
        done = subprocess.run(program, input=lines, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]

    return run


def _entry(key: str) -> Entry:
    return Entry(key, "reword", "e", "m", "w/0", "x", "ok", None, 1, 1, None, 0.5, 1, "text", now_text())


@pytest.fixture
def root(tmp_path: Path, ask: Ask) -> Path:
    store = VariantStore(tmp_path / "made", create=True)
    fill(store)
    with Journal.of_store(store) as journal:
        journal.commit(_entry("c0ffee"))
    return store.root


def test_reading_commands_read_and_writing_ones_say_why_not(root: Path, tmp_path: Path, ask: Ask) -> None:
    shutil.copytree(root, tmp_path / "mount" / "s")
    teacher = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m"]
    dry_run = ["--dry-run", "--problem-filter", "split = 'test'", "--kinds", "harder", *teacher]
    reading = [["doctor"], ["doctor", "--repair"], ["status"], ["report"], ["show", "w/0"],
               ["sql", "SELECT count(*) FROM variants"], ["export", str(tmp_path / "out")],
               ["generate", *dry_run]]  # fmt: skip
    writing = [["generate", "--kinds", "harder", *teacher], ["verify", *teacher], ["label", *teacher],
               ["curate", *teacher],
               ["compact"], ["init"]]  # fmt: skip
    said = ask(*reading, *writing)
    for command, (what, _) in zip(reading, said[: len(reading)], strict=True):
        assert what == "ok", command
    assert said[0][1] == said[1][1] == "all is well "
    for command, (what, _) in zip(writing, said[len(reading) :], strict=True):
        assert "cannot be written" in what, command
        assert "Read-only file system" in what, command
        assert "<line break>" not in what, command


@pytest.mark.parametrize("index", ["with", "without"])
def test_a_journal_that_was_copied_while_it_was_written(
    index: str, root: Path, tmp_path: Path, ask: Ask
) -> None:
    with Journal.of_store(VariantStore(root)) as journal:
        journal.commit(_entry("beef"))
        shutil.copytree(root, tmp_path / "mount" / "s")
    assert (tmp_path / "mount" / "s" / "journal.sqlite-wal").stat().st_size > 0
    if index == "without":
        (tmp_path / "mount" / "s" / "journal.sqlite-shm").unlink()
    assert ask(["doctor"]) == [["ok", "all is well "]]


def test_damage_is_found_there_too(root: Path, tmp_path: Path, ask: Ask) -> None:
    shutil.copytree(root, tmp_path / "mount" / "s")
    journal = tmp_path / "mount" / "s" / "journal.sqlite"
    journal.write_bytes(journal.read_bytes()[:-100])
    [(_, said)] = ask(["doctor"])
    assert f"{Fault.DAMAGED}: journal.sqlite" in said
