"""Prefect's database does not grow for ever under a `diva serve`."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.prefect_processes import home_with_database, of_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RUNS = """
import sys
from diva_grpo.flows.runs.server import prefect_api
prefect_api(services=True)
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Completed

@flow
def idle(): ...

with get_client(sync_client=True) as client:
    for _ in range(5):
        client.create_flow_run(idle, state=Completed())
"""

KEPT = """
import sys, time
from diva_grpo.flows.runs.server import prefect_api
prefect_api(services=True, keep_days=float(sys.argv[1]))
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    ends = time.monotonic() + 300
    while len(client.read_flow_runs()) != int(sys.argv[2]):
        assert time.monotonic() < ends, [run.end_time for run in client.read_flow_runs()]
        time.sleep(0.5)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder of Prefect's for one test; no process of the test outlives it."""
    yield from home_with_database(tmp_path / "prefect")


def test_runs_that_ended_long_ago_are_forgotten(home: Path) -> None:
    subprocess.run([sys.executable, "-c", RUNS], env=of_home(home), check=True, timeout=400)
    with sqlite3.connect(home / "prefect.db") as database:
        old = "(SELECT id FROM flow_run ORDER BY id LIMIT 3)"
        ended = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-8 days')"
        assert database.execute(f"UPDATE flow_run SET end_time = {ended} WHERE id IN {old}").rowcount == 3
    database.close()
    subprocess.run([sys.executable, "-c", KEPT, "7", "2"], env=of_home(home), check=True, timeout=400)
