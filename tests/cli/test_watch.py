"""`diva watch`: the page renews itself, and answers nobody else."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from diva_grpo.flows.pages.live import Live, LiveServer
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError, ServerError
from diva_grpo.schemas.records import Problem
from tests.support.chromium import browser, chromium
from tests.support.pages import settle
from tests.support.prefect_processes import hear_interrupts
from tests.support.training_rows import begin_run, train_on


@pytest.fixture
def server(store: VariantStore) -> Iterator[LiveServer]:
    """Of a training run with two steps, in a thread."""
    begin_run(store, "train-a")
    train_on(store, "train-a", {0: {"w/0": [], "w/1": []}, 1: {"w/0": []}})
    with LiveServer(Live(store, renew_s=0.0, rest=0.0)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _ask(server: LiveServer, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.headers["ETag"]
    connection.close()
    return found


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_new_steps_appear_without_a_reload(server: LiveServer, store: VariantStore, tmp_path: Path) -> None:
    with browser(tmp_path) as tab:
        tab.open(server.url, "5 of 5 problems")
        tab.evaluate("globalThis.mark = 'the same page'")
        tab.evaluate("(form.elements.words.value = 'apples', form.dispatchEvent(new Event('input')))")
        tab.wait_for("1 of 5 problems")
        train_on(store, "train-a", {2: {"w/0": []}, 3: {"w/2": []}})
        settle(tab, "document.querySelector('.heat').textContent.includes('step 3')")
        store.append([Problem(problem_id="w/9", source="w", split="train", text="Two apples?", answer="2")])
        tab.wait_for("2 of 6 problems")
        tab.evaluate("showProblem(found[0])")
        settle(tab, "document.querySelector('dialog[open] article .rollout')")
        assert tab.evaluate("mark + form.elements.words.value") == "the same pageapples"
        assert tab.console == []


def test_what_has_not_changed_is_not_sent_again(server: LiveServer, store: VariantStore) -> None:
    status, text, tag = _ask(server, f"{server.path}summary")
    assert (status, json.loads(text)["runs"][0]["id"]) == (200, "train-a")
    assert _ask(server, f"{server.path}summary", {"If-None-Match": tag})[:2] == (304, "")
    begin_run(store, "train-b", 1)
    status, text, _ = _ask(server, f"{server.path}summary", {"If-None-Match": tag})
    assert (status, json.loads(text)["runs"][0]["id"]) == (200, "train-b"), "the last run that there is now"


def test_others_are_refused(server: LiveServer) -> None:
    at = f"{server.path}summary"
    assert _ask(server, at, {"Host": f"localhost:{server.server_port}"})[0] == 200
    assert _ask(server, at, {"Host": "evil.example"})[:2] == (
        403, "the Host header names another machine: use http://127.0.0.1 or http://localhost",
    )  # fmt: skip
    assert _ask(server, at, {"Origin": "http://evil.example"})[0] == 403
    for path in (
        "/",
        "/summary",
        "//summary",
        f"{server.path[:-2]}x/summary",
        f"{server.path}../x",
        f"{server.path}x",
    ):
        assert _ask(server, path)[0] == 404, path
    assert "no problem 'w/none'" in _ask(server, f"{server.path}problem?id=w/none")[1]
    assert _ask(server, f"{server.path}problem")[0] == 404


def test_mistakes_are_one_line(store: VariantStore) -> None:
    with pytest.raises(ConfigError, match="no training run 'x'"):
        Live(store, ["x"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} is taken"):
            LiveServer(Live(store), port)


def test_the_command_prints_its_address_and_ends_with_ctrl_c(store: VariantStore) -> None:
    command = [sys.executable, "-m", "diva_grpo", "watch", "--store", str(store.root)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert re.fullmatch(r"open http://127\.0\.0\.1:\d+/[\w-]{32}/\n", line), line
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
