"""How far a run is: counted, shown, and read by `diva status` of another process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.liveness import mark_killed, run_lock, unended_runs, write_state
from diva_grpo.pipeline.teacher.meter import Meter, shown, state_line
from diva_grpo.pipeline.teacher.prices import Budget
from diva_grpo.pipeline.teacher.wire.outcome import Outcome
from tests.conftest import Diva
from tests.support.endpoints import Endpoint, Reply, completion, serving

SLOW = Reply(completion("\\boxed{7}").body, delay_s=0.1)


def _wait(condition: object, seconds: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@contextmanager
def _labelling(store: VariantStore, endpoint: Endpoint, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`diva label` in a process of its own; killed at the end where it still runs."""
    command = [str(Path(sys.executable).parent / "diva"), "label", "--store", str(store.root), "--model", "m"]
    options = ["--base-url", endpoint.url, "--concurrency", "2", "--samples", "80", *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_status_follows_a_run_of_another_process_and_tells_when_it_is_killed(
    diva: Diva, store: VariantStore
) -> None:
    def status() -> str:
        return diva("status", "--store", store.root).out

    with serving(Endpoint(SLOW)) as endpoint, _labelling(store, endpoint) as process:
        _wait(lambda: [sign for sign in unended_runs(store.root) if sign.state.get("done", 0) > 3])
        alive = status()
        process.kill()
        process.wait()
    assert "At work\nlabel-" in alive
    assert "/400 answers · " in alive
    assert "left" in alive
    assert "Killed" not in alive
    killed = status()
    assert "At work" not in killed
    assert "\nKilled\nlabel-" in killed
    assert "/400 answers" in killed
    assert "the same commands continue from there" in killed
    assert any(" killed" in line for line in killed.splitlines() if "label-" in line)

    with serving(Endpoint(completion("\\boxed{7}"))) as endpoint:
        diva("label", "--store", store.root, "--model", "m", "--base-url", endpoint.url, "--samples", 1)
    assert store.query("SELECT outcome FROM runs ORDER BY started_at") == [("killed",), ("ok",)]
    assert unended_runs(store.root) == []
    assert "\nKilled" not in status()


def test_log_has_a_line_now_and_then_and_one_at_the_end(store: VariantStore) -> None:
    meter, lines = Meter("things", 10), list[str]()
    with store.run("test", "{}") as run_id, shown(meter, store, run_id, lines.append, every_s=0.1):
        for _ in range(10):
            meter.count("things")
            time.sleep(0.05)
        [sign] = unended_runs(store.root)
    assert 2 <= len(lines) <= 8
    assert lines[-1].startswith("10/10 things · ")
    assert sign.alive
    assert sign.state["total"] == 10


def test_short_run_shows_no_progress(store: VariantStore) -> None:
    lines = list[str]()
    with store.run("test", "{}") as run_id, shown(Meter("things"), store, run_id, lines.append):
        pass
    assert lines == []


def test_line_has_all_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    meter = Meter("requests", 1000, Budget(5.0))
    meter.count("requests", 400)
    now += 100
    meter.results.update(accepted=3, rejected=2)
    meter.reused = 7
    meter.exchanged(Outcome("", "ok"), 0.25)
    meter.exchanged(Outcome("", "timeout"), None)
    line = state_line(meter.state())
    assert line.startswith("400/1,000 requests · 4.0/s · ")
    for part in (
        "/s · 3 accepted, 2 rejected",
        "2 sent, 1 failed",
        "7 from the journal",
        "$0.2500 of $5",
        " · 0:02:30 left",
    ):
        assert part in line, line


def test_line_of_a_run_that_knows_little() -> None:
    assert state_line(Meter("rows").state()).startswith("0 rows · 0.0/s · 0 sent · $0.0000")


def test_rate_is_that_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    meter = Meter("answers", 10_000)
    meter.count("answers", 5_000)  # from a journal, at once
    for _ in range(200):
        now += 1
        meter.count("answers", 2)
        rate = meter.rate()
    assert rate == pytest.approx(2.0)
    assert meter.state()["left_s"] == pytest.approx((10_000 - 5_400) / 2, rel=0.01)


def test_two_runs_are_told_apart(tmp_path: Path) -> None:
    with run_lock(tmp_path, "a"), run_lock(tmp_path, "b"):
        write_state(tmp_path, "b", {"done": 1})
        assert [(sign.run_id, sign.alive, sign.state) for sign in unended_runs(tmp_path)] == [
            ("a", True, {}),
            ("b", True, {"done": 1}),
        ]
    assert unended_runs(tmp_path) == []
    write_state(tmp_path, "a", {"done": 2})  # too late: nothing comes back to life
    assert unended_runs(tmp_path) == []


def test_shorter_state_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    with run_lock(tmp_path, "a"):
        write_state(tmp_path, "a", {"note": "x" * 500})
        write_state(tmp_path, "a", {"note": "y"})
        assert unended_runs(tmp_path)[0].state == {"note": "y"}


def test_problem_filter_of_each_verb(diva: Diva, store: VariantStore) -> None:
    with serving(Endpoint(completion("\\boxed{7}"))) as endpoint:
        common = ["--store", store.root, "--base-url", endpoint.url, "--model", "m"]
        some = ["--problem-filter", "answer IN ('7', '30')"]
        labelled = diva("label", *common, *some, "--samples", 1)
        assert (labelled.code, labelled.out) == (0, "labels: 2 original\n")
        assert diva("generate", *common, *some, "--kinds", "reword").out == "variants: 2 failed\n"
        again = "variants: nothing to do, passed over: 2 that failed before (2 parse); --retry-failed asks again\n"
        assert diva("generate", *common, *some, "--kinds", "reword").out == again
        assert diva("verify", *common, *some).out == "variants: nothing to do\n"
        for verb in ("generate", "verify", "label"):
            wrong = diva(verb, *common, "--problem-filter", "no such thing")
            assert (wrong.code, wrong.err.count("\n")) == (2, 1), wrong.err
            assert "problem filter 'no such thing'" in wrong.err


def test_run_that_begins_while_others_bury_the_dead_is_not_taken_for_one(tmp_path: Path) -> None:
    buried: list[str] = []
    over = threading.Event()

    def bury_all() -> None:
        while not over.is_set():
            mark_killed(tmp_path, buried.append)

    buriers = [threading.Thread(target=bury_all) for _ in range(2)]
    for burier in buriers:
        burier.start()
    try:
        for number in range(500):
            with run_lock(tmp_path, f"r{number}"):
                assert [sign.run_id for sign in unended_runs(tmp_path)] == [f"r{number}"]
    finally:
        over.set()
        for burier in buriers:
            burier.join()
    assert buried == []


def test_dead_run_is_buried_once_and_may_be_resumed(tmp_path: Path) -> None:
    with run_lock(tmp_path, "a"):
        left = (tmp_path / "running" / "a.json").read_bytes()
    (tmp_path / "running" / "a.json").write_bytes(left)
    with run_lock(tmp_path, "a"):
        buried: list[str] = []
        mark_killed(tmp_path, buried.append)
        assert (buried, [sign.alive for sign in unended_runs(tmp_path)]) == ([], [True])
    (tmp_path / "running" / "a.json").write_bytes(left)
    for _ in range(2):
        mark_killed(tmp_path, buried.append)
    assert (buried, unended_runs(tmp_path)) == (["a"], [])
