"""Stores under any name: each opens, says what it holds, and reads no other's rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from diva_grpo.pipeline.store import VariantStore, run_select
from diva_grpo.pipeline.store.catalog import write_views
from diva_grpo.pipeline.store.doctor import Fault
from diva_grpo.pipeline.store.files.address import place_of
from diva_grpo.pipeline.store.files.database import literal
from diva_grpo.pipeline.store.lake.catalogue import sync_lake
from diva_grpo.pipeline.teacher.journal import Entry, Journal, now_text
from diva_grpo.schemas.address import address
from diva_grpo.schemas.command import diva as command
from diva_grpo.schemas.exceptions import ConfigError, StoreError
from diva_grpo.schemas.records import Problem
from tests.conftest import Diva
from tests.support.store_records import fill, variant

NAMES = (
    "s[12]", "s?", "s*", "**", "[!x]", "s[", "s]", "%41", "a?mode=rwc", "a#b", "a%", "status=accepted", "q'uote",
    'double"quote', "sp ace", "line\nbreak", "ünï-日本", "-dash", "back\\slash", "$HOME", "~", "{a,b}", "a:b",
    "x.parquet",
)  # fmt: skip
"""Glob characters, what URIs and shells read, a partition as Hive names it."""
DECOYS = ("s1", "s2", "sx", "A", "a", "x", "b")
"""Folders that some of the names mean as a pattern or as a URI."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with rows in every view and a journal, under a plain name."""
    store = VariantStore(tmp_path_factory.mktemp("plain") / "store", create=True)
    fill(store)
    with Journal.of_store(store) as journal:
        answer = Entry(
            "c0ffee", "reword", "e", "m", "w/0", "x", "ok", None, 1, 1, None, 0.5, 1, "text", now_text()
        )
        journal.commit(answer)
    return store.root


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """Stores that must not be read, with a journal that is none."""
    for name in DECOYS:
        shutil.copytree(plain, tmp_path / name)
        VariantStore(tmp_path / name).append([variant(99, text="another store's")])
        (tmp_path / name / "journal.sqlite").write_bytes(b"no database")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_store_reads_its_own_rows(name: str, plain: Path, folder: Path) -> None:
    store = VariantStore(shutil.copytree(plain, folder / name))
    assert run_select(store, "FROM variants").num_rows == 2
    assert store.query("SELECT count(*) FROM variants WHERE status = 'rejected'") == [(1,)]
    assert [f for f in store.examine(repair=True) if f.path == "journal.sqlite"] == []


@pytest.mark.parametrize("name", ["s[12]*?", "status=accepted", "%41#q'uote\n\"$x"])
def test_it_is_compacted_and_opened_elsewhere(name: str, plain: Path, folder: Path) -> None:
    store = VariantStore(shutil.copytree(plain, folder / name))
    expected = VariantStore(plain).checksums()
    assert store.snapshot().variant_count == 1
    # DuckDB itself cannot open a database under any name.
    copy = shutil.copy(write_views(store)[0], folder / "views.duckdb")
    with duckdb.connect(str(copy), read_only=True) as views:
        rejected = views.execute("SELECT count(*) FROM variants WHERE status = 'rejected'").fetchall()
    assert rejected == [(1,)]
    assert store.compact(grace_s=0).made > 0
    assert store.compact(grace_s=0).removed > 0
    assert store.checksums() == expected


def test_a_damaged_file_is_still_found(plain: Path, folder: Path) -> None:
    root = shutil.copytree(plain, folder / "s[12]%41")
    (root / "journal.sqlite").write_bytes(b"no database")
    assert [f.path for f in VariantStore(root).examine() if f.fault == Fault.DAMAGED] == ["journal.sqlite"]


def test_what_duckdb_cannot_write_is_one_line(plain: Path, tmp_path: Path) -> None:
    root = shutil.copytree(plain, tmp_path / "back\\slash[1]")
    with pytest.raises(StoreError, match="whose path has a backslash"):
        VariantStore(root).checksums()
    root = shutil.copytree(plain, tmp_path / "back\\slash")
    with pytest.raises(StoreError, match="whose path has a backslash"):
        write_views(VariantStore(root))
    for name in ("s[1]", "day=1"):
        with pytest.raises(StoreError, match="cannot be in a lake"):
            sync_lake(VariantStore(shutil.copytree(plain, tmp_path / name)), "ducklake:sqlite:lake.sqlite")


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert place_of("~/a").url == place_of("a").url == place_of("./b/../a").url == str(tmp_path / "a")
    assert place_of(tmp_path / "~").url == str(tmp_path / "~")
    assert place_of(f"file://{tmp_path}/a%20b").url == place_of(Path(f"file://{tmp_path}/a b")).url
    for name in ("~", "~/a", "s3:/x", "file:/a"):
        assert place_of(f"./{name}").url == place_of(address(f"./{name}")).url == str(tmp_path / name)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is a file"):
        VariantStore("file", create=True)


def test_a_command_in_a_message_can_be_pasted() -> None:
    assert command("doctor", "--store", "runs/store") == "diva doctor --store runs/store"
    for text in (*NAMES, "\x1b[2J", "it's \\ so\n"):
        line = command("doctor", text)
        assert "\n" not in line
        assert "\x1b" not in line


@pytest.mark.parametrize("name", ["we?rd [1]* %41#'q $HOME é=1", "-dash"])
def test_the_commands_work(name: str, diva: Diva, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in [1].jsonl").write_text('{"question": "What is 1 + 1?", "answer": "so #### 2"}\n')
    commands = {
        "ingest": ["in [1].jsonl", "--preset", "gsm8k", "--store", name],
        "status": ["--store", name],
        "report": ["--store", name],
        "sql": ["SELECT count(*) AS n FROM problems", "--store", name],
        "show": ["--store", name, "--limit", "1"],
        "init": ["--store", name],
        "export": ["out [1]", "--store", name],
        "compact": ["--store", name],
        "doctor": ["--store", name, "--repair"],
    }
    for verb, arguments in commands.items():
        outcome = diva(verb, *arguments)
        assert outcome.code == 0, (verb, outcome.err)
    assert "all is well" in outcome.out
    assert [p.answer for p in VariantStore(tmp_path / name).read(Problem)] == ["2"]


def test_escapes_of_paths() -> None:
    assert literal("/a/b") == "/a/b"
    assert literal("/s[1]*?") == "/s[[]1][*][?]"


def test_one_place_writes_the_paths_that_duckdb_reads() -> None:
    """Whatever reads parts otherwise reads another store's under some name: use `database.parquet`."""
    root = Path(__file__).parents[2]
    files = [file for folder in ("pipeline", "trainer", "flows") for file in (root / folder).rglob("*.py")]
    found = {file.name for file in files if "read_parquet(" in file.read_text("utf-8")}
    # The lake's worker runs beside us, and its paths have no patterns.
    assert found == {"database.py", "worker.py"}
