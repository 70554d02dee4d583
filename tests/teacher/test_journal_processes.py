"""The journal and several processes: one that is killed, two that want the same answer, and its lock."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.claims import Claims
from diva_grpo.pipeline.teacher.journal import Journal
from tests.support.endpoints import Endpoint, completion, serving

# --- a process that is killed

_RUN = """
import sys
from functools import partial
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.store import VariantStore
from tests.support.sessions import ask
from diva_grpo.schemas.config import TeacherConfig

async def one(word, teacher):
    prompt = Prompt("test-1", "s", "Say $word.")
    return (await teacher.ask(prompt, {"word": word}, purpose="test", problem_id=word)).text

config = TeacherConfig(model="m", base_url=sys.argv[2], concurrency=8, endpoint="test")
answers = ask(VariantStore(sys.argv[1]), config, [partial(one, str(i)) for i in range(200)])
assert answers == ["42"] * 200
"""


def _committed(store: VariantStore) -> int:
    with sqlite3.connect(store.root / "journal.sqlite") as connection:
        return int(connection.execute("SELECT count(*) FROM entries WHERE outcome = 'ok'").fetchone()[0])


@pytest.mark.slow
def test_no_committed_answer_is_asked_for_again_after_a_kill(store: VariantStore) -> None:
    with serving(Endpoint(replace(completion("42"), delay_s=0.02))) as endpoint:
        command = [sys.executable, "-c", _RUN, str(store.root), endpoint.url]
        process = subprocess.Popen(command)
        while len(endpoint.requests) < 100:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.1)  # requests on their way still arrive
        sent, kept = len(endpoint.requests), _committed(store)
        assert 100 - 8 <= kept < 200
        assert sent - kept <= 8, "more was lost than what was in flight"
        subprocess.run(command, check=True)
    assert len(endpoint.requests) - sent == 200 - kept
    assert store.query("SELECT count(*), count(DISTINCT problem_id) FROM calls WHERE outcome = 'ok'") == [
        (200, 200)
    ]


# --- two who want the same


_SAME = """
import sys, asyncio
from functools import partial
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.store import VariantStore
from tests.support.sessions import ask
from diva_grpo.schemas.config import TeacherConfig

async def one(word, teacher):
    prompt = Prompt("test-1", "s", "Say $word.")
    return (await teacher.ask(prompt, {"word": word}, purpose="test", problem_id=word)).text

config = TeacherConfig(model="m", base_url=sys.argv[2], concurrency=8, endpoint="test")
print(ask(VariantStore(sys.argv[1]), config, [partial(one, str(i % 20)) for i in range(40)]))
"""


def test_two_processes_and_two_tasks_that_want_the_same_send_one_request(store: VariantStore) -> None:
    with serving(Endpoint(replace(completion("42"), delay_s=0.3))) as endpoint:
        command = [sys.executable, "-c", _SAME, str(store.root), endpoint.url]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate()[0].strip() for process in processes]
    assert said == [str(["42"] * 40)] * 2
    assert len(endpoint.requests) == 20


def test_claim_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    code = f"""
import asyncio
from pathlib import Path
from diva_grpo.pipeline.teacher.claims import Claims

async def hold():
    async with Claims(Path({str(tmp_path / "claims")!r})).claim("{"a" * 64}"):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(hold())
"""

    async def take(seconds: float) -> None:
        async with asyncio.timeout(seconds), claims.claim("a" * 64):
            pass

    claims = Claims(tmp_path / "claims")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(TimeoutError):
            asyncio.run(take(0.3))
        process.kill()
    asyncio.run(take(5))
    assert (tmp_path / "claims").stat().st_size == 0


def test_claims_of_one_process_keep_each_other_out(tmp_path: Path) -> None:
    order = []

    async def work(claims: Claims, name: str) -> None:
        async with claims.claim("b" * 64):
            order.append(f"{name} in")
            await asyncio.sleep(0.05)
            order.append(f"{name} out")

    async def run() -> None:
        one, other = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
        await asyncio.gather(*(work(one if i % 2 else other, str(i)) for i in range(4)))

    asyncio.run(run())
    assert all(order[i].split()[0] == order[i + 1].split()[0] for i in range(0, 8, 2)), order


# --- the lock

_IS_FREE = """
import fcntl, sys
with open(sys.argv[1], "rb+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
"""
"""Takes the bytes of a database that each of its connections holds a shared lock on, as the last one does to close."""


def test_open_journal_keeps_its_lock_while_others_open_and_close(tmp_path: Path) -> None:
    def is_free() -> bool:
        command = [sys.executable, "-c", _IS_FREE, str(tmp_path / "journal.sqlite")]
        return subprocess.run(command, capture_output=True).returncode == 0

    Journal(tmp_path / "journal.sqlite").close()  # its log is gone now, and empty when it is opened again
    # Without its lock another process would take itself for the last, and remove the log that this one uses.
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert not is_free()
        Journal(tmp_path / "journal.sqlite").close()
        assert not is_free()
        assert journal.last_id() == 0
    assert is_free()
