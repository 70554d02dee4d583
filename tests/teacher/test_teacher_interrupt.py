"""Ctrl-C while requests are under way: the first lets them finish, the second does not; both can go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.journal import Journal
from tests.support.endpoints import Endpoint, Reply, completion, serving

_RUN = """
import sys, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
from functools import partial
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.session.session import Session
from diva_grpo.schemas.config import TeacherConfig

async def one(word, teacher):
    prompt = Prompt("test-1", "s", "Say $word.")
    return (await teacher.ask(prompt, {"word": word}, purpose="test", problem_id=word)).text

def ask(words):
    return session.teacher.ask([partial(one, str(i)) for i in words])

config = TeacherConfig(model="m", base_url=sys.argv[2], concurrency=4, endpoint="test")
size = int(sys.argv[3])
try:
    with Session(VariantStore(sys.argv[1]), config) as session:
        for _ in session.over((range(first, first + size) for first in range(0, 12, size)), ask):
            pass
except KeyboardInterrupt:
    sys.exit(130)
"""


# What is not to be waited for. No wait of these tests has a limit of its own: the suite's ends one that hangs.
_LONG_S = 200.0


def _start(store: VariantStore, endpoint: Endpoint, shard_size: int = 12) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _RUN, str(store.root), endpoint.url, str(shard_size)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _wait_for(endpoint: Endpoint, number: int, process: subprocess.Popen[str]) -> None:
    while len(endpoint.requests) < number:
        assert process.poll() is None
        time.sleep(0.01)


def _answers(store: VariantStore) -> int:
    return int(store.query("SELECT count(*) FROM calls WHERE outcome = 'ok'")[0][0])


def test_first_lets_what_is_in_flight_finish_and_sends_nothing_more(store: VariantStore) -> None:
    with serving(Endpoint(replace(completion("42"), delay_s=1.0))) as endpoint:
        process = _start(store, endpoint)
        _wait_for(endpoint, 4, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        assert process.returncode == 130
        assert (
            said.strip() == "interrupted: waiting for the answers to 4 requests; Ctrl-C again stops at once"
        )
        assert len(endpoint.requests) == 4
        assert _answers(store) == 4
        endpoint.replies = [completion("42")]
        assert _start(store, endpoint).wait() == 0
    assert len(endpoint.requests) == 12
    assert _answers(store) == 12


def test_last_requests_of_a_shard_are_followed_by_no_further_shard(store: VariantStore) -> None:
    with serving(Endpoint(replace(completion("42"), delay_s=1.0))) as endpoint:
        process = _start(store, endpoint, shard_size=4)
        _wait_for(endpoint, 4, process)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert len(endpoint.requests) == 4
    assert _answers(store) == 4


@pytest.mark.parametrize(
    "reply", [Reply(delay_s=_LONG_S), Reply(b"", 429, {"retry-after": f"{_LONG_S:.0f}"})]
)
def test_second_stops_at_once_and_waiting_for_a_limit_is_not_waited_for(
    store: VariantStore, reply: Reply
) -> None:
    with serving(Endpoint(reply)) as endpoint:
        process = _start(store, endpoint)
        _wait_for(endpoint, 4, process)
        time.sleep(0.3)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        if reply.delay_s:
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
        process.communicate()
        assert time.monotonic() - started < _LONG_S / 2
        assert process.returncode == 130
        endpoint.replies = [completion("42")]
        if not reply.delay_s:
            (store.root / "limits.json").unlink()
        assert _start(store, endpoint).wait() == 0
    with Journal.of_store(store) as journal:
        assert journal.to_ledger(store) == 0
    assert _answers(store) == 12
