"""Many processes on one store: writers, readers, kills and compactions, all at once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.doctor import Fault
from diva_grpo.schemas.records import Setting, Verdict

_MAKE = """
import sys
from diva_grpo.pipeline.store import VariantStore
VariantStore(sys.argv[1], create=True).put_setting(sys.argv[2], "here")
"""

_WRITE = """
import sys
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Verdict
store, writer = VariantStore(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    rows = [Verdict(variant_id=f"{writer}-{i}", check_name="c", sample=n, passed=True) for n in range(3)]
    store.append(rows)
"""


_STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Ends what a failed test leaves at work: its readers would slow down every later test."""
    yield
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def _start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _STARTED.append(process)
    return process


def test_processes_may_make_the_same_store_at_once(tmp_path: Path) -> None:
    makers = [_start(_MAKE, tmp_path / "store", name) for name in "ab"]
    for maker in makers:
        assert maker.communicate()[1] == ""
    assert sorted(setting.name for setting in VariantStore(tmp_path / "store").read(Setting)) == ["a", "b"]


@pytest.mark.slow
def test_reader_beside_two_writers_sees_whole_appends_and_no_error(store: VariantStore) -> None:
    writers = [_start(_WRITE, store.root, name, 100) for name in "ab"]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        [(rows, appends)] = store.query("SELECT count(*), count(DISTINCT variant_id) FROM verdicts")
        assert rows == 3 * appends, "half an append was seen"
        assert rows >= seen, "rows have vanished"
        seen = rows
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    found = store.query("SELECT variant_id, sample, count(*) FROM verdicts GROUP BY ALL")
    assert sorted(found) == sorted((f"{w}-{i}", n, 1) for w in "ab" for i in range(100) for n in range(3))


def test_killed_writer_leaves_a_store_that_reads_and_writes(store: VariantStore) -> None:
    writer = _start(_WRITE, store.root, "a", 100_000)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    time.sleep(0.1 + random.random() / 5)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    [(rows, appends)] = store.query("SELECT count(*), count(DISTINCT variant_id) FROM verdicts")
    assert rows == 3 * appends
    store.append([Verdict(variant_id="after", check_name="c", passed=True)])
    assert store.query("SELECT count(*) FROM verdicts") == [(rows + 1,)]


# --- the whole traffic: 8 writers, 4 readers, kills, and a compaction

_WRITER = """
import sys
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Verdict
root, writer, first, appends = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = VariantStore(root)
for i in range(first, appends):
    store.append([Verdict(variant_id=f"{writer}-{i}", check_name="c", sample=n, passed=True) for n in range(3)])
    print(i, flush=True)  # acknowledged
"""

_READER = """
import select, sys
from diva_grpo.pipeline.store import VariantStore
store, reads, seen = VariantStore(sys.argv[1]), 0, 0
print("reading", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    rows, appends, copies = store.query(
        "SELECT count(*), count(DISTINCT variant_id), count(DISTINCT (variant_id, sample)) FROM verdicts")[0]
    assert rows == 3 * appends, f"{rows} rows of {appends} appends: half an append was seen"
    assert rows == copies, "a row was seen twice"
    assert rows >= seen, "rows have vanished"
    reads, seen = reads + 1, rows
print(reads)
"""

_COMPACTOR = """
import select, sys
from diva_grpo.pipeline.store import VariantStore
store, rounds, merged, removed, waiting = VariantStore(sys.argv[1]), 0, 0, 0, 1
print("compacting", flush=True)
while not select.select([sys.stdin], [], [], 0.5)[0] or waiting:
    done = store.compact(grace_s=20)  # longer than a query takes where two cores carry thirteen processes
    rounds, merged, removed = rounds + 1, merged + done.merged, removed + done.removed
    waiting = done.waiting
print(rounds, merged, removed)
"""


class _Writer:
    """A writing process that is started again behind its last acknowledged append when it was killed."""

    def __init__(self, root: Path, name: str, appends: int) -> None:
        self.root, self.name, self.appends = root, name, appends
        self.acknowledged, self.kills = -1, 0
        self.process = self._started()

    def _started(self) -> subprocess.Popen[str]:
        return _start(_WRITER, self.root, self.name, self.acknowledged + 1, self.appends)

    def kill_and_restart(self) -> None:
        """Kill it wherever it is; an append that was not acknowledged is made again."""
        self.process.kill()
        self.kills += 1
        self._read_acknowledged()
        self.process = self._started()

    def finish(self) -> None:
        """Wait for its end."""
        self._read_acknowledged()
        assert self.process.returncode == 0

    def _read_acknowledged(self) -> None:
        out, errors = self.process.communicate()
        assert errors == ""
        lines = [line for line in out.split("\n")[:-1] if line]
        self.acknowledged = int(lines[-1]) if lines else self.acknowledged


@pytest.mark.slow
@pytest.mark.timeout(900)  # a guard against a hang: thirteen processes take minutes where two cores are busy
@pytest.mark.parametrize("compacting", [False, True], ids=["plain", "compacting"])
def test_many_writers_and_readers_with_kills(compacting: bool, store: VariantStore) -> None:
    chance = random.Random(7)
    readers = [_start(_READER, store.root) for _ in range(4)]
    compactor = _start(_COMPACTOR, store.root) if compacting else None
    writers = [_Writer(store.root, f"w{n}", 200) for n in range(8)]
    for _ in range(3):
        for writer in writers[:2]:
            time.sleep(0.5 + chance.random())
            writer.kill_and_restart()
    for writer in writers:
        writer.finish()
    if compactor:  # it ends when all that it merged is removed; the readers see that happen
        out, errors = compactor.communicate("stop\n")
        assert (errors, compactor.returncode) == ("", 0)
        rounds, merged, removed = map(int, out.splitlines()[-1].split())
        assert merged > 500
        assert removed == merged
        print(f"{rounds} compactions, {merged} parts merged, {removed} removed")
    reads = []
    for reader in readers:
        out, errors = reader.communicate("stop\n")
        assert (errors, reader.returncode) == ("", 0)
        reads.append(int(out.splitlines()[-1]))
    assert min(reads) >= 1
    print(f"{sum(reads)} reads beside the writers")
    assert [writer.kills for writer in writers[:2]] == [3, 3]
    found = store.query("SELECT variant_id, sample, count(*) FROM verdicts GROUP BY ALL")
    assert sorted(found) == sorted(
        (f"w{w}-{i}", n, 1) for w in range(8) for i in range(200) for n in range(3)
    )
    assert [f for f in store.examine() if f.fault == Fault.DAMAGED] == []


_COMPACT_ONCE = """
import sys
from diva_grpo.pipeline.store import VariantStore
store = VariantStore(sys.argv[1])
print("ready", flush=True)
while True:
    store.compact(grace_s=0)
"""


@pytest.mark.slow
def test_compaction_killed_anywhere_loses_nothing(store: VariantStore) -> None:
    chance = random.Random(3)
    for kill in range(12):
        for number in range(20):
            store.append([Verdict(variant_id=f"{kill}-{number}", check_name="c", passed=True)])
        before = store.checksums()
        compactor = _start(_COMPACT_ONCE, store.root)
        assert compactor.stdout is not None
        assert compactor.stdout.readline() == "ready\n"
        time.sleep(chance.random() / 4)
        compactor.kill()
        compactor.communicate()
        assert VariantStore(store.root).checksums() == before, f"kill {kill}"
    store.compact(grace_s=0)
    store.compact(grace_s=0)
    assert store.checksums() == before
    assert len([name for name in store.place.names("verdicts") if "empty" not in name]) == 1
    assert not list(store.root.rglob("*.tmp"))
