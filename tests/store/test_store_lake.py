"""A DuckLake over a store says what the store says, and can do it no harm."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.lake.catalogue import FOLDER, Synced, sync_lake
from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.exceptions import ConfigError, DivaError, StoreError
from tests.support.lake_reader import ask_lake
from tests.support.store_records import fill, variant


@pytest.fixture
def ask(lake_python: str) -> Callable[..., list[Any]]:
    """Runs statements on a catalogue in a reader of its own, which has no more than DuckDB."""

    def run(catalog: str, *statements: str) -> list[Any]:
        return [answer.rows for answer in ask_lake(lake_python, catalog, *statements)]

    return run


@pytest.fixture
def postgres() -> Iterator[str]:
    """Connection of a PostgreSQL of this machine."""
    found = shutil.which("initdb")
    if found is None:
        pytest.skip("PostgreSQL is not installed")  # a server of the system, which a test cannot install
    binaries = Path(found).resolve().parent
    as_root = os.geteuid() == 0
    user = "postgres" if as_root else pwd.getpwuid(os.geteuid()).pw_name  # it does not run as root
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = None
    try:
        if as_root:
            shutil.chown(folder, user)
        who: dict[str, Any] = {"user": user, "cwd": folder} if as_root else {"cwd": folder}
        data = folder / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "diva", "-A", "trust", "--no-sync"],
            check=True,
            capture_output=True,
            **who,
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        control: list[str | Path] = [binaries / "pg_ctl", "-D", data, "-w"]
        options = f"-p {port} -k {folder} -h 127.0.0.1"
        server = [*control, "-m", "immediate", "stop"]
        log = folder / "log"
        subprocess.run(
            [*control, "-o", options, "-l", log, "start"], check=True, stdout=subprocess.DEVNULL, **who
        )
        yield f"dbname=postgres host=127.0.0.1 port={port} user=diva"
    finally:
        if server is not None:
            subprocess.run(server, check=True, stdout=subprocess.DEVNULL, **who)
        shutil.rmtree(folder)


@pytest.fixture(params=["file", "sqlite", "postgres"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A catalogue of each kind."""
    if request.param == "postgres":
        return f"ducklake:postgres:{request.getfixturevalue('postgres')}"
    return (
        f"ducklake:{tmp_path}/lake.db" if request.param == "file" else f"ducklake:sqlite:{tmp_path}/lake.db"
    )


def _rows(store: VariantStore) -> list[Any]:
    with store.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return list(json.loads(json.dumps([connection.execute(text).fetchall() for text in _ALL])))


_ALL = [f"SELECT to_json(v)::VARCHAR FROM {view} v ORDER BY 1" for view in view_names()]


@pytest.mark.slow
def test_the_lake_says_what_the_store_says(
    store: VariantStore, catalog: str, lake_python: str, ask: Callable[..., list[Any]]
) -> None:
    fill(store)
    first = sync_lake(store, catalog, python=lake_python)
    assert first.added > 10
    assert first.removed == 0
    before = _rows(store)
    assert ask(catalog, *_ALL) == before
    assert sync_lake(store, catalog, python=lake_python) == Synced(0, 0, first.snapshot)

    store.append([variant(number, "w/1") for number in range(5)])
    assert sync_lake(store, catalog, python=lake_python) == Synced(1, 0, first.snapshot + 1)
    after = _rows(store)
    assert ask(catalog, *_ALL) == after != before

    # Parts that were merged, and then removed from the store, stay in the older snapshots.
    store.compact()
    store.compact(grace_s=0)
    merged = sync_lake(store, catalog, python=lake_python)
    assert merged.removed > merged.added > 0
    assert merged.snapshot == first.snapshot + 2
    assert ask(catalog, *_ALL) == after
    counts = "SELECT count(*) FROM parts.variants AT (VERSION => {})"
    versions = range(first.snapshot, merged.snapshot + 1)
    [[[old]], [[more]], [[same]]] = ask(catalog, *(counts.format(version) for version in versions))
    assert old + 5 == more == same

    # All that DuckLake can do to its files leaves the store as it was, and another sync mends the lake.
    counted = "SELECT count(*) FROM ducklake_{}"
    clean = counted.format("cleanup_old_files('other', cleanup_all => true)")
    ask(
        catalog,
        counted.format("expire_snapshots('other', older_than => now())"),
        clean,
        counted.format("delete_orphaned_files('other', cleanup_all => true)"),
    )
    assert _rows(store) == after == ask(catalog, *_ALL)
    store.append([variant(20, "w/1")])
    store.append([variant(21, "w/1")])
    sync_lake(store, catalog, python=lake_python)
    ask(catalog, counted.format("merge_adjacent_files('other')"), clean)
    sync_lake(store, catalog, python=lake_python)
    assert _rows(store) == ask(catalog, *_ALL)
    assert not [finding for finding in store.examine() if FOLDER in str(finding)]


@pytest.mark.slow
def test_two_syncs_at_once_register_a_part_once(
    store: VariantStore, lake_python: str, tmp_path: Path, ask: Callable[..., list[Any]], postgres: str
) -> None:
    catalog = f"ducklake:postgres:{postgres}"
    fill(store)
    sync_lake(store, catalog, python=lake_python)
    for number in range(20):
        store.append([variant(number, "w/1")])

    def sync(_: int) -> str:
        try:
            return str(sync_lake(store, catalog, python=lake_python).added)
        except DivaError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        said = sorted(pool.map(sync, range(3)))
    assert "20" in said
    assert all(line in ("0", "20") or "the lake was not changed" in line for line in said), said
    sync_lake(store, catalog, python=lake_python)
    listing = "ducklake_list_files('other', 'variants', schema => 'parts')"
    files = f"SELECT count(*), count(DISTINCT data_file) FROM {listing}"
    [[[listed, distinct]]] = ask(catalog, files)
    assert listed == distinct == len([p for p in store.catalogue.live("variants") if not p.is_empty])


def test_what_cannot_be_is_said_in_one_line(store: VariantStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins with 'ducklake:'"):
        sync_lake(store, "lake.db")
    with pytest.raises(ConfigError, match="nowhere: No such file"):
        sync_lake(store, f"ducklake:{tmp_path}/lake.db", python="/nowhere")
    with pytest.raises(StoreError, match=r"DuckLake cannot be used here .*--python") as refused:
        sync_lake(store, f"ducklake:{tmp_path}/lake.db", python=shutil.which("false"))
    assert "\n" not in str(refused.value)
